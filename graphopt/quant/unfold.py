"""Operators on integers, written out: DequantizeLinear, the float operator, QuantizeLinear.

That is the form in which everything else is done to models that are quantized already. A QuantizeLinear in front of an
operator that only moves integers goes behind it, which is the same, so that it meets its DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.present import Encoding, is_quantize, read_encoding

if TYPE_CHECKING:
    from graphopt.ir.edit import Rewrite
    from graphopt.ir.value import Node, Value

__all__ = ["MOVES", "OPERATORS", "Floats", "sink", "unfold"]

Floats = Callable[["Rewrite", "Value", Encoding], "Value"]
"""Makes the float constant of stored integers."""

MOVES = frozenset(
    ["DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool", "Reshape",
     "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)  # fmt: skip
"""Operators that give elements of their first input, whatever these stand for."""


def sink(node: Node, rw: Rewrite) -> None:
    """Let what moves the integers of a QuantizeLinear move the floats instead, and quantize behind it."""
    stored = node.inputs[0]
    q = None if stored is None else stored.producer
    if q is None or not is_quantize(q) or any(o.use_count for o in node.outputs[1:]):
        raise Decline("it moves no integers of a QuantizeLinear")
    x, scale, *zero = q.inputs
    if scale is None or not _is_single(scale):
        raise Decline("its integers have a scale for each channel")
    (moved,) = rw.node(node.op, [x, *node.inputs[1:]], node.attrs)
    (made,) = rw.node("QuantizeLinear", [moved, scale, *zero], q.attrs, domain=q.domain, assume=node.outputs[0])
    rw.replace(node.outputs[0], made)


def unfold(node: Node, rw: Rewrite, floats: Floats) -> None:
    """Write out one of `OPERATORS`. Raises `Decline` for forms that have no equal in floats."""
    OPERATORS[node.op](node, rw, floats)


def _is_single(scale: Value) -> bool:
    return scale.rank == 0 or scale.shape == (1,)


def _scalar(rw: Rewrite, value: Value | None) -> Value | None:
    """A scale or zero point of shape [1] as one of shape [], which is what stands for a whole tensor."""
    if value is None or value.rank == 0:
        return value
    array = value.array()
    if array is None or array.size != 1:
        raise Decline("an activation has no single constant scale")
    return rw.constant(array.reshape(()), value.name)


def _real(rw: Rewrite, stored: Value | None, scale: Value | None, zero: Value | None) -> Value:
    """The floats that an activation's integers stand for."""
    if stored is None or scale is None:
        raise Decline("an input is missing")
    (made,) = rw.node("DequantizeLinear", [stored, _scalar(rw, scale), _scalar(rw, zero)])
    return made


def _store(rw: Rewrite, node: Node, y: Value, scale: Value | None, zero: Value | None) -> None:
    """Quantize the result as the operator did, or leave it in floats where it did not."""
    if scale is None:
        rw.replace(node.outputs[0], y)
        return
    (made,) = rw.node("QuantizeLinear", [y, _scalar(rw, scale), _scalar(rw, zero)])
    rw.replace(node.outputs[0], made)


def _operand(rw: Rewrite, floats: Floats, parts: tuple[Value | None, ...], axis: int) -> Value:
    """The floats of an operand that may be a weight: integers, scale, zero point."""
    stored, scale, zero = parts
    if stored is None or scale is None or not stored.is_const:
        return _real(rw, stored, scale, zero)
    encoding = read_encoding(scale, zero, stored, axis=axis, rank=stored.rank)
    if encoding is None:
        raise Decline("a weight has no constant scale")
    return floats(rw, stored, encoding)


def _bias(
    rw: Rewrite, floats: Floats, bias: Value | None, x_scale: Value | None, w_scale: Value | None
) -> Value | None:
    """The floats of a bias in units of the scales of input and weight."""
    if bias is None:
        return None
    x, w = (None if v is None else v.array() for v in (x_scale, w_scale))
    if x is None or w is None or x.size != 1 or not bias.is_const:
        raise Decline("a bias or its scale is computed at run time")
    scale = np.asarray(x.reshape(()) * (w.reshape(()) if w.size == 1 else w.reshape(-1)))
    return floats(rw, bias, Encoding(scale, np.zeros(scale.shape, np.int32), 0 if scale.ndim else None))


def _conv(node: Node, rw: Rewrite, floats: Floats) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*node.inputs, None)[:9]
    inputs = [_real(rw, x, x_scale, x_zero), _operand(rw, floats, (w, w_scale, w_zero), 0)]
    (y,) = rw.node("Conv", [*inputs, _bias(rw, floats, bias, x_scale, w_scale)], node.attrs)
    _store(rw, node, y, y_scale, y_zero)


def _matmul(node: Node, rw: Rewrite, floats: Floats) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    inputs = [_real(rw, a, a_scale, a_zero), _operand(rw, floats, (b, b_scale, b_zero), -1)]
    (y,) = rw.node("MatMul", inputs)
    _store(rw, node, y, y_scale, y_zero)


def _gemm(node: Node, rw: Rewrite, floats: Floats) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero = (*node.inputs, None, None, None)[:9]
    if node.attr("alpha", 1.0) != 1.0:
        raise Decline("alpha is not 1")
    turned = node.attr("transB", 0)
    inputs = [_real(rw, a, a_scale, a_zero), _operand(rw, floats, (b, b_scale, b_zero), 0 if turned else 1)]
    attrs = {"transA": node.attr("transA", 0), "transB": turned}
    (y,) = rw.node("Gemm", [*inputs, _bias(rw, floats, bias, a_scale, b_scale)], attrs)
    _store(rw, node, y, y_scale, y_zero)


def _elementwise(op: str) -> Callable[[Node, Rewrite, Floats], None]:
    def made(node: Node, rw: Rewrite, floats: Floats) -> None:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (*node.inputs, None)[:8]
        inputs = [_operand(rw, floats, parts, 0) for parts in ((a, a_scale, a_zero), (b, b_scale, b_zero))]
        (y,) = rw.node(op, inputs)
        _store(rw, node, y, y_scale, y_zero)

    return made


def _unary(op: str, *kept: str) -> Callable[[Node, Rewrite, Floats], None]:
    def made(node: Node, rw: Rewrite, _: Floats) -> None:
        x, x_scale, x_zero, y_scale, y_zero = (*node.inputs, None)[:5]
        if node.attr("channels_last", 0):
            raise Decline("its channels are last")
        attrs = {name: node.attr(name) for name in kept}
        (y,) = rw.node(op, [_real(rw, x, x_scale, x_zero)], attrs)
        _store(rw, node, y, y_scale, y_zero)

    return made


def _concat(node: Node, rw: Rewrite, floats: Floats) -> None:
    y_scale, y_zero, *parts = node.inputs
    groups = [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts) - 2, 3)]
    (y,) = rw.node("Concat", [_operand(rw, floats, group, 0) for group in groups], {"axis": node.attr("axis")})
    _store(rw, node, y, y_scale, y_zero)


OPERATORS: dict[str, Callable[[Node, Rewrite, Floats], None]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _elementwise("Add"),
    "QLinearMul": _elementwise("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"),
    "QLinearSoftmax": _unary("Softmax", "axis"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearAveragePool": _unary(
        "AveragePool", "auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"
    ),
    "QLinearConcat": _concat,
}
