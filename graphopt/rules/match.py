"""Patterns: left sides of rules, compiled; and the search for further outputs of one.

How expressions are compiled is in `closures`. A pattern is tried at its first output, its root; each
further output is found by walking forward from what is already bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as oir

from graphopt.errors import RuleError
from graphopt.ir.facts import Facts
from graphopt.rules import outline
from graphopt.rules.closures import Compiler, operators_of, orders
from graphopt.rules.expr import Alt, Out, Tensor, Var, options_of
from graphopt.rules.outline import NUMBER, Wanted
from graphopt.rules.state import Matcher, Next, Note, State


@dataclass(slots=True)  # not frozen, which takes three times as long to make, and most of them are declined
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
        self._paths = _paths(outputs, place)

    @cached_property
    def _compiled(self) -> tuple[Matcher, list[Finder]]:
        """Made when it is first needed: most patterns meet no graph that has their operators."""
        return self._compile(None)

    def _compile(self, note: Note | None) -> tuple[Matcher, list[Finder]]:
        compiler = Compiler(note, outline.repeated(*self.outputs))
        return compiler(self.outputs[0]).match, [_finder(options, compiler) for options in self._paths]

    def possible(self, known: Set[str]) -> bool:
        """Whether a graph that has only these operators can have a match."""
        return all(outline.possible(o, known) for o in self.outputs)

    def may_match(self, root: str, operators: Sequence[str | None]) -> bool:
        """Whether a root of this operator may match whose inputs come from these operators; a fast look ahead.

        `operators` tell numbers apart if `tells_numbers` says so of the root: see `closures.operators_of`.
        """
        count = len(operators)
        for wanted in self._wanted.get(root, ()):
            for position, names in wanted:  # written out, for this is what happens most often of all
                if position >= count or operators[position] not in names:
                    break
            else:
                return True
        return False

    def tells_numbers(self, root: str) -> bool:
        """Whether a root of this operator has an operand that must be one certain number."""
        ways = self._wanted.get(root, ())
        return any(NUMBER in names and None not in names for wanted in ways for _, names in wanted)

    def match(
        self, facts: Facts, root: oir.Value, accept: Callable[[Match], bool] | None = None, *, likely: bool = False
    ) -> Match | None:
        """The first match whose first output is `root`, and that `accept` agrees to; else None.

        `likely`: `may_match` has been asked.
        """
        producer = root.producer()
        assert producer is not None
        if not likely and not self.may_match(producer.op_type, operators_of(producer.inputs, facts)):
            return None
        first, finders = self._compiled
        return self._search(State(facts, producer.graph), root, first, finders, accept)

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


def _wanted_at_root(root: Out | Alt) -> dict[str, list[Wanted]]:
    """For each operator that the root may be, what may make its inputs, in any order and alternative."""
    found: dict[str, list[Wanted]] = {}
    pending: list[Tensor] = [root]
    while pending:
        option = pending.pop()
        if isinstance(option, Alt):
            pending.extend(option.options)
        elif isinstance(option, Out):
            for name in option.node.ops:
                found.setdefault(name, []).extend(wanted for _, wanted in orders(option.node, constants=True))
    return {name: [[]] if [] in ways else ways for name, ways in found.items()}


# -- further outputs ------------------------------------------------------------------------------


_Way = tuple[Any, list[Out]]
"""Something bound, and the operators that lead from it to an expression, which is the last."""


def _paths(outputs: tuple[Out | Alt, ...], place: str) -> list[list[tuple[Out, _Way]]]:
    """For the second and each later output its alternatives, and how each is reached from what is already bound."""
    found: list[list[tuple[Out, _Way]]] = []
    known = outline.bound(outputs[0])
    for output in outputs[1:]:
        ways = [(option, _path(option, known)) for option in options_of(output)]
        if any(way is None for _, way in ways):
            raise RuleError("the outputs of the pattern are not connected", where=place,
                            hint="each further output must read a variable that the ones before it bind")
        found.append([(option, way) for option, way in ways if way is not None])
        known.update(outline.bound(output))
    return found


def _finder(options: list[tuple[Out, _Way]], compiler: Compiler) -> Finder:
    """What looks for an output, whichever of its alternatives it is."""
    note = compiler.note
    finders = [_forward(output, way, compiler(output).match, note) if way[1] else _sibling(output, note)
               for output, way in options]
    if len(finders) == 1:
        return finders[0]
    return lambda state, then: any(find(state, then) for find in finders)


def _path(x: Tensor | None, known: dict[Any, None]) -> _Way | None:
    """The shortest way to `x` from something bound; without operators if it is bound itself."""
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


def _forward(output: Out, path: _Way, match: Matcher, note: Note | None) -> Finder:
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


