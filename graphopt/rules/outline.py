"""What is known of a pattern before it is tried: where it may be rooted, how large and how deep it is."""

from __future__ import annotations

from collections.abc import Set

from graphopt.rules.expr import Alt, Out, Tensor


def roots(x: Tensor | None) -> set[tuple[str, str]]:
    """(domain, operator) pairs that may produce what the expression matches."""
    if isinstance(x, Alt):
        return set().union(*(roots(o) for o in x.options))
    return {(x.node.domain, name) for name in x.node.ops} if isinstance(x, Out) else set()


def possible(x: Tensor | None, known: Set[str]) -> bool:
    """Whether a graph that has only the operators `known` can have a match."""
    if isinstance(x, Alt):
        return any(possible(o, known) for o in x.options)
    if not isinstance(x, Out):
        return True
    return not known.isdisjoint(x.node.ops) and all(possible(i, known) for i in x.node.inputs)


def depth(x: Tensor | None) -> int:
    """Operators on the longest chain."""
    if isinstance(x, Alt):
        return max(depth(o) for o in x.options)
    return 1 + max((depth(i) for i in x.node.inputs), default=0) if isinstance(x, Out) else 0


def size(x: Tensor | None) -> int:
    """Operators of the largest alternative."""
    if isinstance(x, Alt):
        return max(size(o) for o in x.options)
    return 1 + sum(size(i) for i in x.node.inputs) if isinstance(x, Out) else 0


def operands(x: Tensor | None) -> int:
    """Inputs of all operators of the widest alternative."""
    if isinstance(x, Alt):
        return max(operands(o) for o in x.options)
    return len(x.node.inputs) + sum(operands(i) for i in x.node.inputs) if isinstance(x, Out) else 0
