"""Softmax and its relatives, written out in exponentials and sums."""

from __future__ import annotations

from graphopt_passes.fuse.moments import normalized_axes

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_X = {"x": "f32: B S"}
_AXES = {"axes_attr": [-1], "axes2_attr": [-1]}


def _reduce(name: str, x: Tensor, axes: Const, axes_attr: Attr[list[int]]) -> Tensor:
    return op.any(name)(x, axes) | op.any(name)(x, axes=axes_attr)


def _share(e: Tensor, axes: Const, axes_attr: Attr[list[int]]) -> Tensor:
    """Of each exponential, its part of their sum."""
    over = _reduce("ReduceSum", e, axes, axes_attr)
    return e / over | e * op.Reciprocal(over) | e * (1 / over)


def _softmax(
    x: Tensor, axes: Const, axes_attr: Attr[list[int]], axes2: Const, axes2_attr: Attr[list[int]], exp: Node
) -> Tensor:
    largest = _reduce("ReduceMax", x, axes, axes_attr) | _reduce("ReduceMax", x, axes2, axes2_attr)
    return _share(exp.bind(op.Exp(x - largest)), axes, axes_attr)


@rule(_softmax, shapes=_X, attrs=_AXES)
def softmax(
    x: Tensor, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, exp: Node,
) -> Tensor:  # fmt: skip
    """Exponentials of what is below the largest, over their sum along the last axis, are Softmax."""
    _require_float(x)
    (axis,) = _same_axis(x, axes, axes_attr, axes2, axes2_attr)
    _require_axis(x, axis, exp, last=True)
    return op.Softmax(x, axis=-1)


@rule(_softmax, shapes={"x": "f32: B S T"}, attrs={"axes_attr": [1], "axes2_attr": [1]})
def softmax_inner(
    x: Tensor, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, exp: Node,
) -> Tensor:  # fmt: skip
    """Exponentials of what is below the largest, over their sum along an axis that is not the last, are Softmax."""
    _require_float(x)
    (axis,) = _same_axis(x, axes, axes_attr, axes2, axes2_attr)
    _require_axis(x, axis, exp, last=False)
    return op.Softmax(x, axis=axis)


def _softmax_unguarded(x: Tensor, axes: Const, axes_attr: Attr[list[int]], exp: Node) -> Tensor:
    return _share(exp.bind(op.Exp(x)), axes, axes_attr)


@rule(_softmax_unguarded, accuracy="fast", shapes=_X, attrs={"axes_attr": [-1]})
def softmax_unguarded(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, exp: Node) -> Tensor:
    """Exponentials over their sum are Softmax, which does not overflow."""
    # As it is written, 89 is infinite, and the result NaN.
    _require_float(x)
    (axis,) = _one(x, axes, axes_attr)
    _require_axis(x, axis, exp, last=None)
    return op.Softmax(x, axis=-1 if axis == x.rank - 1 else axis)


def _log_softmax(x: Tensor, axis: Attr[int]) -> Tensor:
    return op.Log(op.Softmax(x, axis=axis))


@rule(_log_softmax, accuracy="fast", shapes=_X, attrs={"axis": -1})
def log_softmax(x: Tensor, axis: int) -> Tensor:
    """The logarithm of Softmax is LogSoftmax, which stays finite where Softmax underflows."""
    # The default axis and what it means differ between opsets, but alike for both operators.
    return op.LogSoftmax(x, axis=axis)


def _log_softmax_written(x: Tensor, axes: Const, axes_attr: Attr[list[int]], lse: Node) -> Tensor:
    return x - (lse.bind(op.ReduceLogSumExp(x, axes)) | lse.bind(op.ReduceLogSumExp(x, axes=axes_attr)))


@rule(_log_softmax_written, accuracy="fast", shapes=_X, attrs={"axes_attr": [-1]})
def log_softmax_written(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, lse: Node) -> Tensor:
    """What is below the logarithm of the sum of exponentials is LogSoftmax."""
    # One infinity makes NaN of a whole row of LogSoftmax, and −∞ of the others as it is written.
    _require_float(x)
    (axis,) = _one(x, axes, axes_attr)
    _require_axis(x, axis, lse, last=None)
    return op.LogSoftmax(x, axis=-1 if axis == x.rank - 1 else axis)


def _log_sum_exp(x: Tensor, axes: Const, axes_attr: Attr[list[int]], keep: Attr[int], exp: Node) -> Tensor:
    e = exp.bind(op.Exp(x))
    return op.Log(op.ReduceSum(e, axes, keepdims=keep) | op.ReduceSum(e, axes=axes_attr, keepdims=keep))


@rule(_log_sum_exp, accuracy="fast", shapes=_X, attrs={"axes_attr": [-1]})
def log_sum_exp(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, keep: int, exp: Node) -> Tensor:
    """The logarithm of the sum of exponentials is ReduceLogSumExp, which does not overflow."""
    _require_float(x)
    over = list(normalized_axes(x, axes, axes_attr))
    if exp.version >= 18:
        return op.ReduceLogSumExp(x, over, keepdims=keep)
    return op.ReduceLogSumExp(x, axes=over, keepdims=keep)


def _one(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None) -> tuple[int, ...]:
    over = normalized_axes(x, axes, axes_attr)
    require(len(over) == 1, "the sum is along several axes")
    return over


def _same_axis(
    x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, axes2: Tensor | None, axes2_attr: list[int] | None
) -> tuple[int, ...]:
    over: tuple[int, ...] = _one(x, axes, axes_attr)
    if axes2 is not None or axes2_attr is not None:
        require(over == normalized_axes(x, axes2, axes2_attr), "maximum and sum are along different axes")
    return over


def _require_axis(x: Tensor, axis: int, node: Node, *, last: bool | None) -> None:
    """Which axis is wanted; one that is not the last is flattened with those behind it before opset 13."""
    is_last = axis == x.rank - 1
    require(last is None or last == is_last, "the axis is not the last one" if last else "the axis is the last one")
    require(is_last or node.version >= 13, "before opset 13 Softmax is along all axes from one on")


def _require_float(x: Tensor) -> None:
    require(x.dtype in (DType.FLOAT, DType.DOUBLE), "runtimes have no kernel of the operator for the dtype")
