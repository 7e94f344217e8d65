"""Transposes: those that move nothing, chains of them, and those that no element notices."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt_passes.simplify.reading import require_gone, reshape_target, result_shape

from graphopt import Attr, Node, Tensor, op, require, rule


def _transpose(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.Transpose(x, ...))


def _transpose_transpose(x: Tensor, first: Attr[list[int]], then: Attr[list[int]], inner: Node) -> Tensor:
    return op.Transpose(inner.bind(op.Transpose(x, perm=first)), perm=then)


@rule(_transpose, accuracy="exact", single_use=False, bounded=True)
def transpose_of_ones(x: Tensor, n: Node) -> Tensor:
    """A Transpose that keeps the order of all axes longer than 1 moves no element: a Reshape, or nothing."""
    shape, perm = x.shape, _perm(n.attr("perm"), x.rank)
    order = [axis for axis in perm if shape[axis] != 1]
    require(order == sorted(order), "axes longer than 1 change places")
    if perm == sorted(perm):
        return x
    return op.Reshape(x, reshape_target(shape, result_shape(n)))


@rule(_transpose_transpose, accuracy="exact", single_use=False, bounded=True)
def transpose_transpose(x: Tensor, first: list[int] | None, then: list[int] | None, inner: Node) -> Tensor:
    """Two Transposes are one, or none if the second undoes the first."""
    rank = len(first or then or x.shape)
    before, after = _perm(first, rank), _perm(then, rank)
    perm = [before[axis] for axis in after]
    if perm == sorted(perm):
        return x
    require_gone(inner, "Transpose")
    return op.Transpose(x, perm=perm)


def _perm(given: Sequence[int] | None, rank: int) -> list[int]:
    """The permutation; without one, Transpose reverses the axes."""
    perm = list(range(rank))[::-1] if given is None else list(given)
    require(sorted(perm) == list(range(rank)), "perm does not permute the axes")
    return perm
