"""Reductions whose result gets or loses the axes that they reduced: that is what `keepdims` is for."""

from __future__ import annotations

from graphopt_passes.simplify.reading import from_front, ints

from graphopt import Const, Node, Tensor, op, require, rule

_AXES_AS_INPUT = {"ReduceSum": 13}
_AXES_AS_INPUT_OTHERS = 18
_REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_INDEX = ("ArgMax", "ArgMin")


def _unsqueezed(x: Tensor, a: Tensor | None, u: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.Unsqueeze(inner.bind(op.any(*_REDUCE, *_INDEX)(x, a, ...)), u, ...))


def _squeezed(x: Tensor, a: Tensor | None, u: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.Squeeze(inner.bind(op.any(*_REDUCE, *_INDEX)(x, a, ...)), u, ...))


def _gathered(x: Tensor, i: Const, u: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.Unsqueeze(inner.bind(op.Gather(x, i, ...)), u, ...))


@rule(_unsqueezed, accuracy="exact")
def reduce_unsqueeze(x: Tensor, a: Tensor | None, u: Const | None, inner: Node, outer: Node) -> Tensor:
    """A reduction whose axes are put back as 1 keeps its dims."""
    del u
    _require_computed(x)
    require(inner.attr("keepdims", 1) == 0, "the reduction keeps its dims")
    reduced, added = _reduced(inner, x.rank), ints(outer, 1, "axes", 13)
    require(added is not None, "axes are missing")
    assert added is not None
    rank = x.rank - len(reduced) + len(added)
    require(sorted(from_front(added, rank)) == sorted(reduced), "other axes are put in than were reduced")
    return _again(x, a, inner, keepdims=1)


@rule(_squeezed, accuracy="exact")
def reduce_squeeze(x: Tensor, a: Tensor | None, u: Const | None, inner: Node, outer: Node) -> Tensor:
    """A reduction whose axes are squeezed out does not keep its dims."""
    del u
    _require_computed(x)
    require(inner.attr("keepdims", 1) == 1, "the reduction does not keep its dims")
    reduced, removed = _reduced(inner, x.rank), ints(outer, 1, "axes", 13)
    require(removed is not None, "which axes are squeezed depends on the sizes")
    assert removed is not None
    require(sorted(from_front(removed, x.rank)) == sorted(reduced), "other axes are squeezed than were reduced")
    return _again(x, a, inner, keepdims=0)


def _reshaped(x: Tensor, a: Tensor | None, to: Const, inner: Node) -> Tensor:
    return op.Reshape(inner.bind(op.any(*_REDUCE, *_INDEX)(x, a, ...)), to, ...)


@rule(_reshaped, accuracy="exact")
def reduce_reshape(x: Tensor, a: Tensor | None, to: Tensor, inner: Node) -> Tensor:
    """A reduction that is reshaped to have its axes as 1 again keeps its dims."""
    _require_computed(x)
    require(inner.attr("keepdims", 1) == 0, "the reduction keeps its dims")
    require(len(to.ints) == x.rank, "the shape is not that of the reduction with its dims")
    return _again(x, a, inner, keepdims=1)  # only if that has the shape which Reshape gives


@rule(_gathered, accuracy="exact")
def gather_unsqueeze(x: Tensor, i: Const, u: Const | None, inner: Node, outer: Node) -> Tensor:
    """Gathering at one index and putting the axis back is gathering at a list of one index."""
    del u
    added = ints(outer, 1, "axes", 13)
    require(i.rank == 0, "there are several indices")
    axes = from_front((inner.attr("axis", 0),), x.rank)
    require(added is not None and from_front(added, x.rank) == axes, "the axis that is put in is another one")
    return op.Gather(x, op.Reshape(i, [1]), axis=inner.attr("axis", 0))


def _require_computed(x: Tensor) -> None:
    """Decline a constant: its sum would be computed here, in double precision, and not as the runtime rounds it."""
    require(not x.is_const, "everything is constant")


def _reduced(node: Node, rank: int) -> list[int]:
    """The axes that a reduction reduces, counted from the front."""
    if node.op in _INDEX:
        axis = node.attr("axis", 0)
        require(isinstance(axis, int), "axis is an attribute of the function's caller")
        return from_front((axis,), rank)
    axes = ints(node, 1, "axes", _AXES_AS_INPUT.get(node.op, _AXES_AS_INPUT_OTHERS))
    if not axes:
        require(not node.attr("noop_with_empty_axes", 0), "nothing is reduced")
        return list(range(rank))
    return from_front(axes, rank)


def _again(x: Tensor, a: Tensor | None, node: Node, keepdims: int) -> Tensor:
    attrs = {**node.attrs, "keepdims": keepdims}
    made: Tensor = op.any(node.op)(x, a, **attrs) if a is not None else op.any(node.op)(x, **attrs)
    return made
