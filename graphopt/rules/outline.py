"""What is known of a pattern before it is tried: where it may be rooted, how large and how deep it is."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple, TypeVar

from graphopt.rules.expr import Alt, AttrVar, Literal, Many, OpExpr, Out, Tensor, Var, inputs_of, options_of

NUMBER = "#"  # in place of the name of an operator: a constant all of whose elements are one number
_CONSTANT = frozenset({None, NUMBER, "Constant"})
_ONE_NUMBER = frozenset({NUMBER, "Constant"})

Wanted = list[tuple[int, frozenset[str | None]]]
"""Places of operands, each with the names of the operators that may make it; None stands for no operator at all."""


def roots(x: Tensor | None) -> set[tuple[str, str]]:
    """(domain, operator) pairs that may produce what the expression matches."""
    if isinstance(x, Alt):
        return set().union(*(roots(o) for o in x.options))
    return {(x.node.domain, name) for name in x.node.ops} if isinstance(x, Out) else set()


def makers(expr: OpExpr, *, constants: bool = False) -> Wanted:
    """What may make the operands, as far as it cannot be just anything.

    `constants`: also of those that must be constants, of which `NUMBER` is told from others.
    """
    found: Wanted = []
    for i, operand in enumerate(expr.inputs):
        ways = [None] if isinstance(operand, Many) else [_makers_of(o, constants) for o in options_of(operand)]
        if None not in ways:
            found.append((i, frozenset().union(*(way for way in ways if way is not None))))
    return found


def _makers_of(x: Tensor | None, constants: bool) -> frozenset[str | None] | None:
    """What may make an operand that has no alternatives; None: anything."""
    if isinstance(x, Out):
        return frozenset(x.node.ops)
    if isinstance(x, Literal) and constants:
        return _ONE_NUMBER if isinstance(x.content, int | float) else _CONSTANT
    return _CONSTANT if constants and isinstance(x, Var) and x.const and not x.optional else None


T = TypeVar("T")
Bound = dict[str | OpExpr, None]


def _folded(x: Tensor | None, step: Callable[[Tensor | None, Callable[[Tensor | None], T]], T]) -> T:
    """`step` of an expression; it asks for that of an operand, which is worked out once wherever the operand stands."""
    known: dict[int, T] = {}

    def of(x: Tensor | None) -> T:
        if id(x) not in known:
            known[id(x)] = step(x, of)
        return known[id(x)]

    return of(x)


def possible(x: Tensor | None, known: Set[str]) -> bool:
    """Whether a graph that has only the operators `known` can have a match."""

    def step(x: Tensor | None, of: Callable[[Tensor | None], bool]) -> bool:
        if isinstance(x, Alt):
            return any(of(o) for o in x.options)
        return not isinstance(x, Out) or (not known.isdisjoint(x.node.ops) and all(of(i) for i in inputs_of(x.node)))

    return _folded(x, step)


def depth(x: Tensor | None) -> int:
    """Operators on the longest chain."""

    def step(x: Tensor | None, of: Callable[[Tensor | None], int]) -> int:
        if isinstance(x, Alt):
            return max(of(o) for o in x.options)
        return 1 + max((of(i) for i in inputs_of(x.node)), default=0) if isinstance(x, Out) else 0

    return _folded(x, step)


def size(x: Tensor | None) -> int:
    """Operators of the largest alternative; of operands in any number, one is counted."""

    def step(x: Tensor | None, of: Callable[[Tensor | None], int]) -> int:
        if isinstance(x, Alt):
            return max(of(o) for o in x.options)
        return 1 + sum(of(i) for i in inputs_of(x.node)) if isinstance(x, Out) else 0

    return _folded(x, step)


def operands(x: Tensor | None) -> int:
    """Inputs of all operators of the widest alternative; operands in any number count as very many."""

    def step(x: Tensor | None, of: Callable[[Tensor | None], int]) -> int:
        if isinstance(x, Alt):
            return max(of(o) for o in x.options)
        if isinstance(x, Out) and x.node.inputs and isinstance(x.node.inputs[-1], Many):
            return sys.maxsize
        return len(x.node.inputs) + sum(of(i) for i in inputs_of(x.node)) if isinstance(x, Out) else 0

    return _folded(x, step)


def subexpressions(*outputs: Tensor) -> Iterator[Tensor]:
    """All expressions of a pattern, each once, outer ones first."""
    pending: list[Tensor] = list(reversed(outputs))
    seen: set[int] = set()
    while pending:
        x = pending.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        yield x
        if isinstance(x, Alt):
            pending.extend(reversed(x.options))
        elif isinstance(x, Out):
            pending.extend(reversed(list(inputs_of(x.node))))


class Repeated(NamedTuple):
    """What stands at more than one place of a pattern, where it must match the same: operators, and parameters.

    How these are bound decides whether the rest of a pattern fits; what stands at one place only does not.
    """

    nodes: tuple[OpExpr, ...]
    labels: frozenset[str]


def repeated(*outputs: Tensor) -> Repeated:
    """The operators and parameters that stand at several places of a pattern."""
    nodes: Counter[OpExpr] = Counter()
    found: Counter[str] = Counter()
    nodes.update(o.node for x in outputs for o in options_of(x))
    for x in subexpressions(*outputs):
        # Alternatives that stand at two places are chosen from at each of them: they count there.
        inner = [o for i in inputs_of(x.node) for o in options_of(i)] if isinstance(x, Out) else []
        nodes.update(i.node for i in inner if isinstance(i, Out))
        found.update(i.label for i in inner if isinstance(i, Var))
        if isinstance(x, Out):
            found.update(a.label for a in x.node.attrs.values() if isinstance(a, AttrVar))
            for i in x.node.inputs:
                if isinstance(i, Many):  # its element is matched several times
                    found.update(2 * list(labels(i.element) - set(i.labels)))
                    nodes.update({o.node: 2 for o in subexpressions(i.element) if isinstance(o, Out)})
    return Repeated(tuple(e for e, n in nodes.items() if n > 1), frozenset(k for k, n in found.items() if n > 1))


def bound(x: Tensor) -> dict[str | OpExpr, None]:
    """Variables and operators that are bound whenever `x` has matched: places to look further from."""

    def step(x: Tensor | None, of: Callable[[Tensor | None], Bound]) -> Bound:
        if isinstance(x, Var):
            return {} if x.optional else {x.label: None}
        if isinstance(x, Alt):
            first, *others = (of(o) for o in x.options)
            return {key: None for key in first if all(key in other for other in others)}
        found: Bound = {}
        if isinstance(x, Out):
            found[x.node] = None
            for i in x.node.inputs:
                if isinstance(i, Tensor):
                    found |= of(i)
        return found

    found: Bound = _folded(x, step)
    return found


def operators(*outputs: Tensor) -> int:
    """The most operators that a match may have, at least; operands in any number count as very many."""
    found = {x.node for x in subexpressions(*outputs) if isinstance(x, Out)}
    return sys.maxsize if any(isinstance(i, Many) for expr in found for i in expr.inputs) else len(found)


def constants(*outputs: Tensor) -> frozenset[str]:
    """Names of the parameters that must be constant."""
    return frozenset(x.label for x in subexpressions(*outputs) if isinstance(x, Var) and x.const)


def labels(*outputs: Tensor) -> set[str]:
    """Names of the parameters that a pattern uses."""
    found: set[str] = set()
    for x in subexpressions(*outputs):
        if isinstance(x, Var):
            found.add(x.label)
        elif isinstance(x, Out):
            found.update(a.label for a in x.node.attrs.values() if isinstance(a, AttrVar))
            found.update(label for i in x.node.inputs if isinstance(i, Many) for label in i.labels)
            if x.node.capture:
                found.add(x.node.capture)
    return found
