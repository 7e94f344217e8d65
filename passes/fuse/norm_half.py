"""Normalizations that half-precision networks compute in float32, between casts."""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.again import again

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_SMALLEST_HALF = 2.0**-14  # the smallest float16 that has all of its bits


def _within_casts(x: Tensor, scale: Const, bias: Const | None, norm: Node, to: Attr[int]) -> Tensor:
    wide = op.Cast(x, to=DType.FLOAT.value)
    layer, rms = op.LayerNormalization(wide, scale, bias, ...), op.RMSNormalization(wide, scale, ...)
    return op.Cast(norm.bind(layer) | norm.bind(rms), to=to)


@rule(
    _within_casts, single_use=False,
    shapes={"x": "f16: B S D", "scale": "D", "bias": "D"}, attrs={"to": DType.FLOAT16.value},
)  # fmt: skip
def norm_casts(x: Tensor, scale: Tensor, bias: Tensor | None, norm: Node, to: int) -> Tensor:
    """Half-precision numbers normalized in float32 are normalized so by the operator itself."""
    require(x.dtype in (DType.FLOAT16, DType.BFLOAT16), "what is cast is not half precision")
    require(norm.op == "LayerNormalization" or x.dtype == DType.FLOAT16, "runtimes have no kernel for bfloat16")
    require(to == x.dtype.value, "the result has another dtype than x")
    require(norm.attr("stash_type", 1) == 1, "the operator normalizes in another precision")
    halves = [None if c is None else _rounded(c, to) for c in (scale, bias)]
    return again(norm, x, *halves[: 1 if bias is None else 2])


def _rounded(constant: Tensor, to: int) -> Tensor:
    """A constant in half precision, which costs it no more than the rounding of the result."""
    size = np.abs(np.asarray(constant.array, np.float64))
    if to == DType.FLOAT16.value:
        fine = (size == 0) | ((size >= _SMALLEST_HALF) & (size <= float(np.finfo(np.float16).max)))
        require(bool(fine.all()), "a constant does not fit into half precision")
    return op.Cast(constant, to=to)
