"""How far a rule gets where it does not match: the deepest partial match, and the first thing that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as oir

from graphopt.ir.facts import Facts
from graphopt.ir.model import Model
from graphopt.rules.match import Match, Pattern
from graphopt.rules.rule import Rule
from graphopt.rules.state import State
from graphopt.rules.words import Mismatch, Place, Words

_NEAR = frozenset({"arity", "attribute", "output", "parameter", "rebound", "shared", "taken", "unmentioned"})


@dataclass(frozen=True)
class Miss:
    """The furthest that any left side of a rule gets at a root.

    `matched`: the nodes that do fit, root first. `reason`: what does not, in words; `kind`: the same without names,
    so that what fails alike can be counted. `left`: which left side it is, from 0.
    """

    matched: tuple[str, ...]
    reason: str
    kind: str
    left: int


def roots(rule: Rule[Any], model: Model) -> Iterator[oir.Node]:
    """The nodes at which a left side may be rooted, by their operators, in the order of the graphs."""
    wanted = {root for pattern in rule.patterns for root in pattern.roots}
    for graph in model.raw_graphs():
        for node in graph:
            if (node.domain, node.op_type) in wanted:
                yield node


class Prober:
    """The left sides of one rule, made to tell why they do not match."""

    def __init__(self, rule: Rule[Any], model: Model) -> None:
        self._facts = model.facts
        self._furthest = _Furthest()
        self._named, self._unnamed = Words(model), Words(model, names=False)
        self._sides: list[tuple[Pattern, Callable[[Facts, oir.Value], Match | None]]] = [
            (pattern, pattern.prober(self._furthest)) for pattern in rule.patterns
        ]

    def miss(self, root: oir.Node) -> Miss | None:
        """The deepest partial match at a root, the first of those equally deep; None if a left side matches."""
        furthest = self._furthest
        furthest.reset()
        for left, (pattern, probe) in enumerate(self._sides):
            if (root.domain, root.op_type) not in pattern.roots:
                continue
            furthest.left = left
            for output in root.outputs:
                if probe(self._facts, output) is not None:
                    return None
        matched = tuple(self._named.node(n) for n in furthest.nodes)
        mismatch = furthest.mismatch
        return Miss(matched, self._named.sentence(mismatch), self._unnamed.sentence(mismatch), furthest.side)


class _Furthest:
    """Listens to a search, and keeps the mismatch that was met with the most nodes matched.

    Among those, one where something of the right kind stands, such as another number or another attribute, is
    nearer than one where another operator does; then one is nearer before which more operands fit.
    """

    def __init__(self) -> None:
        self.left = 0
        self.reset()

    def reset(self) -> None:
        self.nodes: tuple[oir.Node, ...] = ()
        self.side = 0
        self._score = (-1, False, 0)
        self._value: oir.Value | None = None
        self._place: Place | None = None
        self._wanted: list[tuple[str, Any]] = []
        self._other: Place | None = None

    @property
    def mismatch(self) -> Mismatch:
        return Mismatch(self._value, self._place, tuple(self._wanted), self._other)

    def __call__(self, state: State, value: Any, kind: str, detail: Any) -> None:
        near = kind in _NEAR or (kind == "literal" and value is not None and state.facts.const(value) is not None)
        place, before = None, 0
        if state.place is not None:  # which is an operand that was looked at earlier, if this is a further output
            node, index, before = state.place
            place = (node, index) if _stands_at(value, node, index) else None
        score = (len(state.nodes) + len(state.extra), near, before)
        if score < self._score:
            return
        if score > self._score:
            self._score, self._value, self._place, self.side = score, value, place, self.left
            self.nodes = (*state.nodes.values(), *state.extra)
            self._wanted, self._other = [(kind, detail)], None
        elif self.left != self.side:
            return
        elif value is self._value and place == self._place:
            self._wanted.append((kind, detail))
        elif place is not None and self._is_other(value, place) and self._wanted[0] == (kind, detail):
            self._other = place

    def _is_other(self, value: oir.Value | None, place: Place) -> bool:
        """Whether this is the other operand of the node in question, and not the same value once more."""
        return self._place is not None and place[0] is self._place[0] and value is not self._value


def _stands_at(value: oir.Value | None, node: oir.Node, index: int) -> bool:
    return (node.inputs[index] if index < len(node.inputs) else None) is value
