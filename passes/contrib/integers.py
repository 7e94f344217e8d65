"""Products of 8-bit integers that are quantized while the model runs, in one operator."""

from __future__ import annotations

from graphopt_passes.contrib.operators import ms

from graphopt import DType, Tensor, op, require, rule

_SHAPES = {"w": "i8: K N", "w_scale": "N", "w_zero": "N", "bias": "N"}


def _scaled_product(
    q: Tensor, scale: Tensor, zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor | None
) -> Tensor:
    return op.Cast(op.MatMulInteger(q, w, zero, w_zero), to=DType.FLOAT.value) * (scale * w_scale)


def _quantized(x: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor | None, bias: Tensor) -> Tensor:
    q, scale, zero = op.DynamicQuantizeLinear(x, nout=3)
    y = _scaled_product(q, scale, zero, w, w_scale, w_zero)
    return y | ms.DynamicQuantizeMatMul(x, w, w_scale, w_zero) + bias


@rule(_quantized, shapes={**_SHAPES, "x": "f32: M K"})
def dynamic_quantize_matmul(
    x: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    """A product of what is quantized on the way with integers, scaled back, is DynamicQuantizeMatMul."""
    _require_kernel(w, w_scale, w_zero, bias)
    return ms.DynamicQuantizeMatMul(x, w, w_scale, w_zero, bias)


def _of_integers(
    q: Tensor, scale: Tensor, zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor | None, bias: Tensor
) -> Tensor:
    y = _scaled_product(q, scale, zero, w, w_scale, w_zero)
    return y | ms.MatMulIntegerToFloat(q, w, scale, w_scale, zero, w_zero) + bias


@rule(_of_integers, shapes={**_SHAPES, "q": "u8: M K", "scale": "", "zero": ""})
def matmul_integer_to_float(
    q: Tensor, scale: Tensor, zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    """A product of integers, scaled back, is MatMulIntegerToFloat."""
    require(scale.rank == 0 and zero.rank == 0, "the first operand has more than one scale")
    require(w.dtype == DType.INT8 or q.dtype == DType.UINT8, "there is no kernel for these dtypes")
    _require_kernel(w, w_scale, w_zero, bias)
    return ms.MatMulIntegerToFloat(q, w, scale, w_scale, zero, w_zero, bias)


def _require_kernel(w: Tensor, w_scale: Tensor, w_zero: Tensor | None, bias: Tensor | None) -> None:
    require(w.rank == 2 and w_scale.dtype == DType.FLOAT, "the integers are no matrix, or not scaled in float32")
    columns = w.shape[1:]
    require(w_scale.shape in ((), (1,), columns), "the scales are not those of columns")
    require(w_zero is None or w_zero.shape in ((), (1,), columns), "the zero points are not those of columns")
    require(w_zero is None or w_zero.rank == w_scale.rank, "scales and zero points differ in number")
    require(bias is None or bias.shape == columns, "the bias is not one number for each column")
