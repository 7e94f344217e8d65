"""Integers that become floats and the same integers again."""

from __future__ import annotations

from graphopt import Const, DType, Node, Tensor, op, require, rule

_INTEGERS = (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4)
_FIRST_AXIS = 1  # the operators' own default
_LEAST, _MOST = 2.0**-100, 2.0**100  # products with integers and quotients stay normal float32 numbers


def _there_and_back(x: Tensor, scale: Const, zero: Const, inner: Node, outer: Node) -> Tensor:
    real = inner.bind(op.DequantizeLinear(x, scale, zero, ...))
    return outer.bind(op.QuantizeLinear(real, scale, zero, ...))


@rule(_there_and_back, accuracy="exact", single_use=False, shapes={"x": "u8: N C", "scale": "+", "zero": ""})
def dequantize_quantize(x: Tensor, scale: Const, zero: Const, inner: Node, outer: Node) -> Tensor:
    """What is dequantized and quantized again in the same way is what it was."""
    del zero  # of the same type as x
    require(x.dtype in _INTEGERS, "only integers of up to 8 bits are sure to come back")
    require(scale.dtype == DType.FLOAT, "the scale is not float32")
    factors = scale.array
    require(((factors >= _LEAST) & (factors <= _MOST)).all(), "the scale is not positive, or extreme")
    for name, default in (("axis", _FIRST_AXIS), ("block_size", 0)):
        same = inner.attr(name, default) == outer.attr(name, default)
        require(same or (name == "axis" and factors.size == 1), "channels lie along different axes")
    return x
