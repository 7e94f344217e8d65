"""Operators along axes: reductions, softmax, cumulative sums, the largest elements, quantization per axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.operators.axes import draw_axes, draw_axis, give_axes
from graphopt.check.sizes import Shape
from graphopt.check.values import Want


def reduce(call: Call) -> None:
    """Some axes or all; their dims kept or not; axes as an attribute or an operand, which may be empty."""
    rng = call.rng
    x = call.put_data(axes=call.integers(1))
    call.attr("keepdims", lambda: 0, usual=0.4)
    if call.has(1) and not call.is_open(1):
        call.put(1)
    elif call.has(1) and (not x or rng.random() < 0.05):
        call.put(1, Want(content=np.zeros(0, np.int64)))
        call.attr("noop_with_empty_axes", lambda: rng.choice((0, 1)))
    elif x and not give_axes(call, 1, draw_axes(call, len(x)), len(x), usual=0.85):
        call.emitter.axes.append(tuple(range(len(x))))


def arg_reduce(call: Call) -> None:
    x = call.put_data(1)
    call.attr("axis", lambda: draw_axis(call, len(x)))
    call.attr("keepdims", lambda: 0, usual=0.4)
    call.attr("select_last_index", lambda: 1, usual=0.3)


def softmax(call: Call) -> Shape:
    """Softmax, LogSoftmax, Hardmax, LpNormalization along one axis; before opset 13 along all from it on."""
    x = call.put_data(1)
    call.attr("axis", lambda: draw_axis(call, len(x)), valid=lambda a: -len(x) <= a < len(x))
    return x


def cumulative(call: Call) -> Shape:
    x = call.put_data(1)
    axis = draw_axis(call, len(x))
    call.put(1, Want(content=np.asarray(axis)))
    call.attr("exclusive", lambda: 1)
    call.attr("reverse", lambda: 1)
    return x


def top_k(call: Call) -> None:
    x = call.put_data(1)
    if 0 in x:
        raise Rejected("TopK has nothing to take")
    axis = call.attr("axis", lambda: draw_axis(call, len(x)))
    count = call.rng.randint(1, int(x[axis]))
    if call.has(1):
        call.put(1, Want(content=np.array([count])))
    else:
        call.attr("k", lambda: count)
    call.attr("largest", lambda: 0)
    call.attr("sorted", lambda: 1)


def quantize(call: Call) -> Shape:
    """QuantizeLinear and DequantizeLinear, for the tensor or per axis; scales are positive, zero points small."""
    x = call.put(0, Want(shape=call.want)).shape
    per_axis = bool(x) and call.version >= 13 and call.rng.random() < 0.3
    usual = 1.0 if per_axis else 0.1 if x else 0.0
    axis = call.attr("axis", lambda: draw_axis(call, len(x)) if x else 0, usual, valid=lambda a: -len(x) <= a < len(x))
    known = axis is not None and -len(x) <= axis < len(x)
    shape: Shape = (int(x[axis]),) if per_axis and known else ()
    scale = call.put(1, Want(shape=shape, strict=True, fits=lambda s: s == () or s == shape, kind="positive")).shape
    if call.has(2):
        call.put(2, Want(shape=scale, strict=True, kind="natural"))
    call.attr("block_size", lambda: 0, usual=0.05)
    call.attr("output_dtype", lambda: None)
    call.attr("precision", lambda: None)
    return x


def cast(call: Call) -> Shape:
    """To the dtype that was drawn for the result."""
    x = call.put(0, Want(shape=call.want)).shape
    call.attr("saturate", lambda: call.rng.choice((0, 1)), usual=0.1)
    call.attr("round_mode", lambda: None)
    return x


_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

PLANS: dict[str, Callable[[Call], Shape | None]] = {
    **dict.fromkeys(_REDUCTIONS, reduce), "ArgMax": arg_reduce, "ArgMin": arg_reduce, "Softmax": softmax,
    "LogSoftmax": softmax, "Hardmax": softmax, "LpNormalization": softmax, "CumSum": cumulative, "TopK": top_k,
    "QuantizeLinear": quantize, "DequantizeLinear": quantize, "Cast": cast,
}  # fmt: skip
