"""Axes and permutations."""

from __future__ import annotations

from graphopt import Attr, Const, Tensor, op, require, rule


def _softmax_axis_lost(x: Tensor, axis: Attr[int]) -> Tensor:
    return op.Log(op.Softmax(x, axis=axis))


@rule(_softmax_axis_lost, shapes={"x": "N N N"})
def softmax_axis_lost(x: Tensor, axis: int) -> Tensor:
    """The default axis is another."""
    return op.LogSoftmax(x)


def _moved_twice(x: Tensor, p: Attr[list[int]], q: Attr[list[int]]) -> Tensor:
    return op.Transpose(op.Transpose(x, perm=p), perm=q)


@rule(_moved_twice, accuracy="exact", shapes={"x": "N N N"})
def permutations_in_the_wrong_order(x: Tensor, p: list[int], q: list[int]) -> Tensor:
    """The second permutation picks from the first."""
    require(p is not None and q is not None, "a default")
    return op.Transpose(x, perm=[q[i] for i in p])


def _permutation_lost(x: Tensor, p: Attr[list[int]]) -> Tensor:
    return op.Relu(op.Transpose(x, perm=p))


@rule(_permutation_lost, accuracy="exact", bounded=True, shapes={"x": "N N N"})
def permutation_lost(x: Tensor, p: list[int]) -> Tensor:
    """Without one, Transpose reverses the axes."""
    return op.Transpose(op.Relu(x))


def _shape_of_transposed(x: Tensor, p: Attr[list[int]]) -> Tensor:
    return op.Shape(op.Transpose(x, perm=p))


@rule(_shape_of_transposed, accuracy="exact", shapes={"x": "A B C"})
def shape_of_transposed(x: Tensor, p: list[int]) -> Tensor:
    """The sizes are permuted, too."""
    return op.Shape(x)


@rule(lambda x: x - op.ReduceMean(x, axes=[-1], keepdims=1), bounded=True, once=True, shapes={"x": "N N"})
def mean_without_its_axis(x: Tensor) -> Tensor:
    """Without the axis that was reduced, the means are along the other one."""
    return x - op.ReduceMean(x, axes=[-1], keepdims=0)


def _log_sum_for_log_sum_exp(x: Tensor, axes: Const | None) -> Tensor:
    return op.Log(op.ReduceSum(x, axes))


@rule(_log_sum_for_log_sum_exp, accuracy="fast", shapes={"x": "+N C"})
def log_sum_for_log_sum_exp(x: Tensor, axes: Tensor | None) -> Tensor:
    """There is one operator with Exp, and one without."""
    return op.ReduceLogSumExp(x, axes)


@rule(lambda x, i: op.Gather(op.Transpose(x, perm=[1, 0]), i, axis=0), accuracy="exact", shapes={"x": "N N", "i": "i64:K"})
def gather_along_the_old_axis(x: Tensor, i: Tensor) -> Tensor:
    """Transposed, the axis is the other one."""
    return op.Gather(x, i, axis=0)


def _sliced_twice(x: Tensor, s: Const, e: Const, a: Const, s2: Const, e2: Const) -> Tensor:
    return op.Slice(op.Slice(x, s, e, a), s2, e2, a)


_ONE = {"s": "i64:1", "e": "i64:1", "a": "i64:1", "s2": "i64:1", "e2": "i64:1"}


@rule(_sliced_twice, accuracy="exact", shapes=_ONE)
def slices_from_the_start(x: Tensor, s: Const, e: Const, a: Const, s2: Const, e2: Const) -> Tensor:
    """The second slice begins where the first one does."""
    return op.Slice(x, s2, e2, a)


def _pad_value_lost(x: Tensor, pads: Const, value: Const) -> Tensor:
    return op.Relu(op.Pad(x, pads, value))


@rule(_pad_value_lost, accuracy="exact", bounded=True)
def pad_value_lost(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    """Padded with zeros, and not with the value."""
    return op.Pad(op.Relu(x), pads)


def _pad_value_kept(x: Tensor, pads: Const, value: Const) -> Tensor:
    return op.Pad(-x, pads, value)


@rule(_pad_value_kept, accuracy="exact", bounded=True)
def pad_value_kept(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    """The value is negated with the rest."""
    return -op.Pad(x, pads, value)


def _running_sum_forwards(x: Tensor, axis: Const, reverse: Attr[int]) -> Tensor:
    return -op.CumSum(-x, axis, reverse=reverse)


@rule(_running_sum_forwards, shapes={"axis": "i64:"}, attrs={"reverse": [0, 1]})
def running_sum_forwards(x: Tensor, axis: Tensor, reverse: int) -> Tensor:
    """It ran backwards."""
    return op.CumSum(x, axis)


def _triangle_upside_down(x: Tensor, upper: Attr[int]) -> Tensor:
    return op.Relu(op.Trilu(x, upper=upper))


@rule(_triangle_upside_down, accuracy="exact", bounded=True)
def triangle_upside_down(x: Tensor, upper: int) -> Tensor:
    """The default is the upper one."""
    return op.Trilu(op.Relu(x))


def _depth(x: Tensor, mode: Attr[str]) -> Tensor:
    return op.Relu(op.DepthToSpace(x, blocksize=2, mode=mode))


@rule(_depth, accuracy="exact", bounded=True, shapes={"x": "N 8 H W"}, attrs={"mode": ["DCR", "CRD"]})
def blocks_in_another_order(x: Tensor, mode: str) -> Tensor:
    """The mode is lost."""
    return op.DepthToSpace(op.Relu(x), blocksize=2)
