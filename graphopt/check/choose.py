"""One left side of a rule with every choice made: a tree of single operators over leaves and numbers.

An alternative becomes one of its branches, a class of operators one operator, operands in any number so many,
an optional operand is there or not. What the tree computes on is decided later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from graphopt.check.opsets import Forms, arity, forms, version_of
from graphopt.rules.closures import COMMUTATIVE
from graphopt.rules.expr import Alt, AttrVar, Literal, Many, OpExpr, Out, Var

if TYPE_CHECKING:
    from graphopt.rules.match import Pattern

_COUNTS = (1, 2, 2, 2, 3, 4)  # of operands, where there may be any number
_AGAIN = 0.4  # that a choice already made in this tree is made again, where it can be
_PRESENT = 0.65  # of optional operands, in a sample that has neither all of them nor none
_ALL, _NONE = 0.35, 0.2  # share of samples that have all, or none


class Rejected(Exception):
    """This draw is no valid model; another one may be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class Leaf:
    """A tensor that a parameter captures; one object per value."""

    label: str
    name: str  # unique: with its place, if it is one of a list
    const: bool
    optional: bool


@dataclass(eq=False)
class Number:
    """A number, list or array that the rule writes out."""

    content: Any
    rtol: float | None


@dataclass(eq=False)
class Step:
    """One operator. `attrs` hold literals, `AttrVar`s and ANY; `captures` gives an `AttrVar` its unique name."""

    domain: str
    op: str
    attrs: Mapping[str, Any]
    captures: Mapping[str, str]
    more: bool
    outputs: int
    operands: list[Operand | None] = field(default_factory=list)
    swapped: bool = False


class Port(NamedTuple):
    """One output of a step."""

    step: Step
    output: int


Operand = Leaf | Number | Port


@dataclass
class Tree:
    """What was chosen: the outputs, all steps in an order in which they can be computed, and the choices in words."""

    outputs: tuple[Port, ...]
    steps: list[Step]
    leaves: list[Leaf]
    traits: dict[str, str]
    opset: int


def choose(pattern: Pattern, rng: Random, opset: int | None = None) -> Tree:
    """Choose one concrete form of a pattern, at a random opset if none is given.

    Raises `Rejected` if the choices do not fit together, or the pattern cannot be written at the opset.
    """
    possible = forms(pattern)
    drawn = possible.pick(rng)
    opset = drawn if opset is None else opset
    if opset is None:
        raise Rejected("no opset has all operators of the pattern")
    if opset not in possible.opsets:
        raise Rejected(f"the pattern cannot be written at opset {opset}")
    return _Chooser(rng, possible, opset).tree(pattern)


class _Chooser:
    def __init__(self, rng: Random, forms: Forms, opset: int) -> None:
        self._rng, self._forms, self._opset = rng, forms, opset
        self._leaves: dict[str, Leaf | None] = {}
        self._steps: dict[tuple[OpExpr, str], Step] = {}
        self._order: list[Step] = []
        self._branches: dict[tuple[int, str], int] = {}
        self._operators: dict[tuple[str, ...], str] = {}
        kind = rng.random()
        self._present = 1.0 if kind < _ALL else 0.0 if kind > 1 - _NONE else _PRESENT
        self._coherent = rng.random() < 0.5  # whether an alternative that occurs twice is the same both times
        self._scope: dict[int, str] = {}  # variables of `many`, by identity, to the place in the list
        self._chosen: list[str] = []
        self._counts: list[str] = []
        self._left_out: list[str] = []

    def tree(self, pattern: Pattern) -> Tree:
        outputs = []
        for output in pattern.outputs:
            made = self._operand(output, "")
            if not isinstance(made, Port):
                raise Rejected("an output of the pattern is no operator")
            outputs.append(made)
        leaves = [leaf for leaf in self._leaves.values() if leaf is not None]
        traits = {"operators": " ".join(step.op for step in self._order)}
        if self._chosen:
            traits["branch"] = ", ".join(self._chosen)
        swapped = [step.op for step in self._order if step.swapped]
        if swapped:
            traits["order"] = f"swapped: {' '.join(swapped)}"
        if self._counts:
            traits["many"] = ", ".join(self._counts)
        if self._left_out:
            traits["left out"] = ", ".join(self._left_out)
        return Tree(tuple(outputs), self._order, leaves, traits, self._opset)

    def _operand(self, x: Any, place: str) -> Operand | None:
        if isinstance(x, Alt):
            return self._operand(x.options[self._branch(x, place)], place)
        if isinstance(x, Var):
            return self._leaf(x)
        if isinstance(x, Literal):
            return Number(x.content, x.rtol)
        assert isinstance(x, Out), f"no pattern: {x!r}"
        return Port(self._step(x.node, place), x.index)

    def _branch(self, x: Alt, place: str) -> int:
        key = id(x), place
        if not (self._coherent and key in self._branches):
            fits = [self._forms.possible(option, self._opset) for option in x.options]
            if not any(fits):
                raise Rejected("no alternative can be written at this opset")
            weights = [w if fit else 0 for w, fit in zip(self._forms.weights(x), fits, strict=True)]
            self._branches[key] = self._rng.choices(range(len(fits)), weights)[0]
            self._chosen.append(f"{self._branches[key] + 1} of {len(x.options)}")
        return self._branches[key]

    def _leaf(self, x: Var) -> Leaf | None:
        name = x.label + self._scope.get(id(x), "")
        if name not in self._leaves:
            self._leaves[name] = Leaf(x.label, name, x.const, x.optional)
        return self._leaves[name]

    def _step(self, expr: OpExpr, place: str) -> Step:
        key = expr, place if self._varies(expr) else ""
        if key in self._steps:
            return self._steps[key]
        captures = {n: a.label + self._scope.get(id(a), "") for n, a in expr.attrs.items() if isinstance(a, AttrVar)}
        step = Step(expr.domain, self._operator(expr), expr.attrs, captures, expr.more, expr.outputs)
        self._steps[key] = step
        for index, x in enumerate(expr.inputs):
            if isinstance(x, Many):
                step.operands += self._many(x, place)
            elif x is None or self._is_left_out(step, index, x):
                step.operands.append(None)
            else:
                step.operands.append(self._operand(x, place))
        step.swapped = len(step.operands) == 2 and step.op in COMMUTATIVE and self._rng.random() < 0.5
        self._order.append(step)
        return step

    def _operator(self, expr: OpExpr) -> str:
        names = self._forms.operators(expr, self._opset)
        if not names:
            raise Rejected(f"{expr.ops[0]} does not exist in this form at opset {self._opset}")
        if names in self._operators and self._rng.random() < _AGAIN:
            return self._operators[names]
        self._operators[names] = self._rng.choice(names)
        return self._operators[names]

    def _is_left_out(self, step: Step, index: int, x: Any) -> bool:
        """Whether an optional variable has no value; decided where it first occurs."""
        if not (isinstance(x, Var) and x.optional):
            return False
        name = x.label + self._scope.get(id(x), "")
        if name in self._leaves:
            return self._leaves[name] is None
        least, most = arity(step.domain, step.op, version_of(step.domain, self._opset))
        possible = index < most
        there = possible and (index < least or self._rng.random() < self._present)
        if not there:
            self._leaves[name] = None
            if possible:
                self._left_out.append(name)
        return not there

    def _many(self, x: Many, place: str) -> list[Operand | None]:
        count = self._rng.choice(_COUNTS)
        self._counts.append(f"{count} {', '.join(x.labels)}")
        made = []
        for i in range(count):
            here = f"{place}[{i}]"
            before = dict(self._scope)
            self._scope.update((id(v), here) for v in x.variables)
            made.append(self._operand(x.element, here))
            self._scope = before
        return made

    def _varies(self, x: Any) -> bool:
        """Whether an expression uses a variable of the `many` that it stands in."""
        if not self._scope:
            return False
        if isinstance(x, OpExpr):
            return any(isinstance(i, Many) or self._varies(i) for i in (*x.inputs, *x.attrs.values()))
        if isinstance(x, Alt):
            return any(map(self._varies, x.options))
        if isinstance(x, Out):
            return self._varies(x.node)
        return id(x) in self._scope
