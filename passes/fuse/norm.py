"""Layer and RMS normalization that exporters wrote out in primitive operators."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.fuse.affine import dims, require_finite
from graphopt_passes.fuse.again import again

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_X = {"x": "B S D"}


def _mean(x: Tensor, axes: Tensor, axes_attr: Attr[list[int]]) -> Tensor:
    """The mean that keeps its axes; an input names them from opset 18 on, an attribute before."""
    return op.ReduceMean(x, axes) | op.ReduceMean(x, axes=axes_attr)


def _square(x: Tensor) -> Tensor:
    return x**2 | x * x


def _over_root(x: Tensor, variance: Tensor) -> Tensor:
    root = op.Sqrt(variance)
    return x / root | x * op.Reciprocal(root) | x * (1 / root)


def _centred(
    x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axes2: Const, axes2_attr: Attr[list[int]]
) -> Tensor:
    d = x - _mean(x, axes, axes_attr)
    return _over_root(d, _mean(_square(d), axes2, axes2_attr) + eps)


@rule(_centred, shapes={"x": "f32: B S D", "eps": "+"}, attrs={"axes_attr": [-1], "axes2_attr": [-1]})
def layer_norm(
    x: Tensor, eps: Tensor, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None,
) -> Tensor:  # fmt: skip
    """x minus its mean, over the root of its variance plus epsilon, is LayerNormalization."""
    count = _normalized_axes(x, axes, axes_attr)
    require(count == _normalized_axes(x, axes2, axes2_attr), "mean and variance are over different axes")
    epsilon = _epsilon(x, eps)
    return op.LayerNormalization(x, _ones(x, count), axis=-count, epsilon=epsilon)


def _uncentred(x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]]) -> Tensor:
    return _over_root(x, _mean(_square(x), axes, axes_attr) + eps)


@rule(_uncentred, shapes={"x": "f32: B S D", "eps": "+"})
def rms_norm(x: Tensor, eps: Tensor, axes: Tensor | None, axes_attr: list[int] | None) -> Tensor:
    """x over the root of its mean square plus epsilon is RMSNormalization."""
    count = _normalized_axes(x, axes, axes_attr)
    epsilon = _epsilon(x, eps)
    return op.RMSNormalization(x, _ones(x, count), axis=-count, epsilon=epsilon)


def _within_casts(x: Tensor, scale: Const, norm: Node, to: Attr[int]) -> Tensor:
    wide = op.Cast(x, to=DType.FLOAT.value)
    return op.Cast(norm.bind(op.any("LayerNormalization", "RMSNormalization")(wide, scale, ...)), to=to)


@rule(_within_casts, shapes={"x": "f16: B S D", "scale": "D"}, attrs={"to": DType.FLOAT16.value})
def norm_casts(x: Tensor, scale: Tensor, norm: Node, to: int) -> Tensor:
    """Half-precision numbers normalized in float32 are normalized so by the operator itself."""
    require(x.dtype in (DType.FLOAT16, DType.BFLOAT16), "what is cast is not half precision")
    require(to == x.dtype.value, "the result has another dtype than x")
    require(scale.scalar == 1, "the scale is applied in float32")
    require(norm.attr("stash_type", 1) == 1, "the operator normalizes in another precision")
    return again(norm, x, op.Cast(scale, to=to))


# -- scale and bias -------------------------------------------------------------------------------


def _layer_norm_scaled(x: Tensor, scale: Const, bias: Const | None, mul: Const, norm: Node) -> Tensor:
    return norm.bind(op.LayerNormalization(x, scale, bias, ...)) * mul


@rule(_layer_norm_scaled, shapes={**_X, "scale": "D", "bias": "D", "mul": "D"})
def layer_norm_scale(x: Tensor, scale: Tensor, bias: Tensor | None, mul: Tensor, norm: Node) -> Tensor:
    """A constant factor after LayerNormalization belongs into its scale and its bias."""
    factor = _like(scale, mul, x)
    shifted = None if bias is None else bias * factor
    return again(norm, x, scale * factor, shifted)


def _layer_norm_shifted(x: Tensor, scale: Const, bias: Const | None, add: Const, sub: Const, norm: Node) -> Tensor:
    y = norm.bind(op.LayerNormalization(x, scale, bias, ...))
    return y + add | y - sub


@rule(_layer_norm_shifted, shapes={**_X, "scale": "D", "bias": "D", "add": "D", "sub": "D"})
def layer_norm_shift(
    x: Tensor, scale: Tensor, bias: Tensor | None, add: Tensor | None, sub: Tensor | None, norm: Node
) -> Tensor:
    """A constant added after LayerNormalization is its bias."""
    shift = _like(scale, next(c for c in (add, sub) if c is not None), x)
    if sub is not None:
        shift = -shift
    return again(norm, x, scale, shift if bias is None else bias + shift)


def _rms_norm_scaled(x: Tensor, scale: Const, mul: Const, norm: Node) -> Tensor:
    return norm.bind(op.RMSNormalization(x, scale, ...)) * mul


@rule(_rms_norm_scaled, shapes={**_X, "scale": "D", "mul": "D"})
def rms_norm_scale(x: Tensor, scale: Tensor, mul: Tensor, norm: Node) -> Tensor:
    """A constant factor after RMSNormalization belongs into its scale."""
    return again(norm, x, scale * _like(scale, mul, x))


# -- operands -------------------------------------------------------------------------------------


def _normalized_axes(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None) -> int:
    """How many of the last axes are named."""
    named = list(axes.ints) if axes is not None else axes_attr
    require(named, "the axes are not named")
    assert named is not None
    rank, count = x.rank, len(named)
    require(rank >= count, "the axes are not well formed")
    require(sorted(a % rank for a in named) == list(range(rank - count, rank)), "the axes are not the last ones")
    return count


def _ones(x: Tensor, count: int) -> np.ndarray:
    sizes = [d for d in x.shape[-count:] if isinstance(d, int)]
    require(len(sizes) == count and math.prod(sizes) > 0, "the size that is normalized is not known")
    return np.ones(sizes, np.float32)


def _epsilon(x: Tensor, eps: Tensor) -> float:
    """The operators compute in float32, and so does the arithmetic that they may replace."""
    require(x.dtype == DType.FLOAT, "the normalization is not computed in float32")
    require_finite(eps)
    return eps.scalar


def _like(scale: Tensor, constant: Tensor, x: Tensor) -> Tensor:
    """A constant beside the normalized x, broadcast to the shape of the scale."""
    shape, given = dims(scale), dims(constant)
    require(len(given) <= x.rank, "the constant raises the rank")
    lead = max(0, len(given) - len(shape))
    tail = given[lead:]
    fits = all(g in (1, s) for g, s in zip(reversed(tail), reversed(shape), strict=False))
    require(math.prod(given[:lead]) == 1 and fits, "the constant varies along other axes than the normalized ones")
    require_finite(constant)
    if given == shape:
        return constant
    return op.Expand(op.Reshape(constant, list(tail)), list(shape))
