"""Patterns: left sides of rules, compiled; and the search for further outputs of one.

How expressions are compiled is in `closures`. A pattern is tried at its first output, its root; each
further output is found by walking forward from what is already bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import onnx_ir as oir

from graphopt.errors import RuleError
from graphopt.ir.facts import Facts
from graphopt.rules import outline
from graphopt.rules.closures import compiled, operators_of, orders
from graphopt.rules.expr import Alt, Out, Tensor, Var, options_of
from graphopt.rules.state import Matcher, Next, Note, State


@dataclass(frozen=True, slots=True)
class Match:
    """What a pattern bound: parameters to values, nodes or attributes; the nodes, root first; the outputs."""

    env: dict[str, Any]
    nodes: tuple[oir.Node, ...]
    outputs: tuple[oir.Value, ...]


Finder = Callable[[State, Next], bool]


class Pattern:
    """One compiled left side.

    `roots`: (domain, operator) pairs that the first output may come from. `size` counts operators,
    `operands` their inputs, `depth` the longest chain. `constants` are the parameters that ask for a constant.
    """

    def __init__(self, outputs: tuple[Out | Alt, ...], place: str) -> None:
        self.outputs = outputs
        self.place = place
        self.roots = frozenset(outline.roots(outputs[0]))
        self.depth = max(outline.depth(o) for o in outputs)
        self.size = max(outline.size(o) for o in outputs)
        self.operands = sum(outline.operands(o) for o in outputs)
        self.constants = outline.constants(*outputs)
        self._wanted = _wanted_at_root(outputs[0])
        self._again = outline.repeated(*outputs)
        self._root, self._further = self._compile(None)

    def _compile(self, note: Note | None) -> tuple[Matcher, list[Finder]]:
        again = self._again
        return compiled(self.outputs[0], note, again).match, _further(self.outputs, self.place, note, again)

    def possible(self, known: Set[str]) -> bool:
        """Whether a graph that has only these operators can have a match."""
        return all(outline.possible(o, known) for o in self.outputs)

    def may_match(self, root: str, operators: Sequence[str | None]) -> bool:
        """Whether a root of this operator may match whose inputs come from these operators; a fast look ahead."""
        count = len(operators)
        for wanted in self._wanted.get(root, ()):
            for position, names in wanted:  # written out, for this is what happens most often of all
                if position >= count or operators[position] not in names:
                    break
            else:
                return True
        return False

    def match(
        self, facts: Facts, root: oir.Value, accept: Callable[[Match], bool] | None = None, *, likely: bool = False
    ) -> Match | None:
        """The first match whose first output is `root`, and that `accept` agrees to; else None.

        `likely`: `may_match` has been asked.
        """
        producer = root.producer()
        assert producer is not None
        if not likely and not self.may_match(producer.op_type, operators_of(producer.inputs)):
            return None
        return self._search(State(facts, producer.graph), root, self._root, self._further, accept)

    def prober(self, note: Note) -> Callable[[Facts, oir.Value], Match | None]:
        """A slow `match`, made once for many roots: `note` is told of everything that does not fit on the way."""
        first, finders = self._compile(note)

        def probe(facts: Facts, root: oir.Value) -> Match | None:
            producer = root.producer()
            assert producer is not None
            return self._search(State(facts, producer.graph), root, first, finders, None)

        return probe

    def probe(self, facts: Facts, root: oir.Value, note: Note) -> Match | None:
        """`prober` for one root."""
        return self.prober(note)(facts, root)

    @staticmethod
    def _search(
        state: State, root: oir.Value, first: Matcher, finders: list[Finder], accept: Callable[[Match], bool] | None
    ) -> Match | None:
        state.outputs.append(root)
        result: list[Match] = []

        def done() -> bool:
            match = Match(dict(state.env), (*state.nodes.values(), *state.extra), tuple(state.outputs))
            if accept is not None and not accept(match):
                state.complete += 1
                return False
            result.append(match)
            return True

        def further(i: int) -> bool:
            return done() if i == len(finders) else finders[i](state, lambda: further(i + 1))

        first(root, state, lambda: further(0))
        return result[0] if result else None


def _wanted_at_root(root: Out | Alt) -> dict[str, list[list[tuple[int, frozenset[str]]]]]:
    """For each operator that the root may be, what may make its inputs, in any order and alternative."""
    found: dict[str, list[list[tuple[int, frozenset[str]]]]] = {}
    pending: list[Tensor] = [root]
    while pending:
        option = pending.pop()
        if isinstance(option, Alt):
            pending.extend(option.options)
        elif isinstance(option, Out):
            for name in option.node.ops:
                found.setdefault(name, []).extend(wanted for _, wanted in orders(option.node))
    return {name: [[]] if [] in ways else ways for name, ways in found.items()}


# -- further outputs ------------------------------------------------------------------------------


def _further(outputs: tuple[Out | Alt, ...], place: str, note: Note | None, again: outline.Repeated) -> list[Finder]:
    """Finders of the second and later outputs, each reached forward from what is already bound."""
    finders: list[Finder] = []
    known = outline.bound(outputs[0])
    for output in outputs[1:]:
        options = [_finder(option, known, note, again) for option in options_of(output)]
        if None in options:
            raise RuleError("the outputs of the pattern are not connected", where=place,
                            hint="each further output must read a variable that the ones before it bind")
        finders.append(_any_of([o for o in options if o is not None]))
        known.update(outline.bound(output))
    return finders


def _any_of(finders: list[Finder]) -> Finder:
    if len(finders) == 1:
        return finders[0]
    return lambda state, then: any(find(state, then) for find in finders)


def _finder(output: Tensor, known: dict[Any, None], note: Note | None, again: outline.Repeated) -> Finder | None:
    assert isinstance(output, Out)
    if output.node in known:
        return _sibling(output, note)
    path = _path(output, known)
    return None if path is None else _forward(output, path, compiled(output, note, again).match, note)


def _path(x: Tensor | None, known: dict[Any, None]) -> tuple[Any, list[Out]] | None:
    """Something bound, and the operators that lead from it to `x`, `x` last; the shortest such way."""
    if isinstance(x, Var):
        return (x.label, []) if x.label in known else None
    if isinstance(x, Alt) or not isinstance(x, Out):
        return None  # what is bound in one branch only is no place to start from
    if x.node in known:
        return x, []
    ways = [way for i in x.node.inputs if isinstance(i, Tensor) and (way := _path(i, known)) is not None]
    if not ways:
        return None
    start, between = min(ways, key=lambda way: len(way[1]))
    return start, [*between, x]


def _sibling(output: Out, note: Note | None) -> Finder:
    """Another output of a node that is bound."""

    def find(state: State, then: Next) -> bool:
        node = state.nodes.get(output.node)
        if node is None or output.index >= len(node.outputs):
            if note is not None:
                note(state, None, "output", output)
            return False
        state.outputs.append(node.outputs[output.index])
        return then() or bool(state.outputs.pop() is None)

    return find


def _forward(output: Out, path: tuple[Any, list[Out]], match: Matcher, note: Note | None) -> Finder:
    """An output that is reached through the readers of something bound, and theirs."""
    start, steps = path

    def climb(value: oir.Value, i: int, state: State, then: Next) -> bool:
        if i == len(steps):
            if value in state.outputs:
                return False
            state.outputs.append(value)
            return match(value, state, then) or bool(state.outputs.pop() is None)
        step = steps[i]
        for node in dict.fromkeys(use.node for use in value.uses()):
            fits = node.op_type in step.node.ops and node.graph is state.graph and step.index < len(node.outputs)
            if fits and climb(node.outputs[step.index], i + 1, state, then):
                return True
        return False

    def find(state: State, then: Next) -> bool:
        value = _bound_value(start, state)
        if value is not None and climb(value, 0, state, then):
            return True
        if note is not None:
            note(state, value, "output", output)
        return False

    return find


def _bound_value(start: Any, state: State) -> oir.Value | None:
    if isinstance(start, Out):
        node = state.nodes.get(start.node)
        return node.outputs[start.index] if node is not None and start.index < len(node.outputs) else None
    found = state.env.get(start)
    return found if isinstance(found, oir.Value) else None


