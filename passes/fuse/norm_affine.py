"""Factors and summands after a normalization, which has a scale and a bias for them."""

from __future__ import annotations

import math

from graphopt_passes.fuse.affine import dims, require_finite
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.moments import along

from graphopt import Attr, Const, Node, Tensor, op, require, rule

_X = {"x": "B S D"}
_VECTORS = {**_X, "scale": "D", "bias": "D"}
_MAPS = {"x": "f32: N C H W", "scale": "C", "bias": "C", "mul": "C 1 1", "add": "C 1 1", "sub": "C 1 1"}


def _layer_norm_scaled(x: Tensor, scale: Const, bias: Const | None, mul: Const, norm: Node) -> Tensor:
    return norm.bind(op.LayerNormalization(x, scale, bias, ...)) * mul


@rule(_layer_norm_scaled, shapes={**_VECTORS, "mul": "D"})
def layer_norm_scale(x: Tensor, scale: Tensor, bias: Tensor | None, mul: Tensor, norm: Node) -> Tensor:
    """A constant factor after LayerNormalization belongs into its scale and its bias."""
    factor = _like(scale, mul, x)
    shifted = None if bias is None else bias * factor
    return again(norm, x, scale * factor, shifted)


def _layer_norm_shifted(x: Tensor, scale: Const, bias: Const | None, add: Const, sub: Const, norm: Node) -> Tensor:
    y = norm.bind(op.LayerNormalization(x, scale, bias, ...))
    return y + add | y - sub


@rule(_layer_norm_shifted, shapes={**_VECTORS, "add": "D", "sub": "D"})
def layer_norm_shift(
    x: Tensor, scale: Tensor, bias: Tensor | None, add: Tensor | None, sub: Tensor | None, norm: Node
) -> Tensor:
    """A constant added after LayerNormalization is its bias."""
    shift = _shift(add, sub)
    shift = _like(scale, shift, x) if sub is None else -_like(scale, shift, x)
    return again(norm, x, scale, shift if bias is None else bias + shift)


def _rms_norm_scaled(x: Tensor, scale: Const, mul: Const, norm: Node) -> Tensor:
    return norm.bind(op.RMSNormalization(x, scale, ...)) * mul


@rule(_rms_norm_scaled, shapes={**_X, "scale": "D", "mul": "D"})
def rms_norm_scale(x: Tensor, scale: Tensor, mul: Tensor, norm: Node) -> Tensor:
    """A constant factor after RMSNormalization belongs into its scale."""
    return again(norm, x, scale * _like(scale, mul, x))


def _scaled(x: Tensor, scale: Const, gain: Tensor, norm: Node) -> Tensor:
    return norm.bind(op.any("LayerNormalization", "RMSNormalization")(x, scale, ...)) * gain


@rule(_scaled, shapes={**_X, "scale": "D", "gain": "D"})
def norm_gain(x: Tensor, scale: Tensor, gain: Tensor, norm: Node) -> Tensor:
    """A factor that is computed is the scale of a normalization that has none."""
    require(scale.scalar == 1, "the normalization has a scale")
    _require_like(scale, gain)
    return again(norm, x, gain)


def _shifted(x: Tensor, scale: Tensor, shift: Tensor, norm: Node) -> Tensor:
    return norm.bind(op.LayerNormalization(x, scale, ...)) + shift


@rule(_shifted, shapes={**_X, "scale": "D", "shift": "D"})
def norm_shift(x: Tensor, scale: Tensor, shift: Tensor, norm: Node) -> Tensor:
    """A summand that is computed is the bias of a LayerNormalization that has none."""
    _require_like(scale, shift)
    return again(norm, x, scale, shift)


# -- channels that are not last -------------------------------------------------------------------


def _transposed(
    x: Tensor, scale: Const, bias: Const | None, mul: Const, add: Const, norm: Node, perm: Attr[list[int]]
) -> Tensor:
    y = op.Transpose(norm.bind(op.LayerNormalization(x, scale, bias, ...)), perm=perm)
    return y * mul | y + add


@rule(
    _transposed,
    shapes={"x": "f32: N H C", "scale": "C", "bias": "C", "mul": "C 1", "add": "C 1"}, attrs={"perm": [0, 2, 1]},
)  # fmt: skip
def layer_norm_transposed(
    x: Tensor, scale: Tensor, bias: Tensor | None, mul: Tensor | None, add: Tensor | None, norm: Node, perm: list[int]
) -> Tensor:
    """A constant that is applied after LayerNormalization was transposed belongs into its scale and its bias."""
    require(perm is not None, "the axes are reversed")
    first = int(norm.attr("axis", -1)) % x.rank
    places = [perm.index(a) for a in range(first, x.rank)]
    require(places == sorted(places), "the normalized axes change their order")
    require(len(dims(scale)) == len(places), "the scale is broadcast")
    constant = along(_shift(mul, add), x, places, dims(scale))
    if mul is not None:
        made = again(norm, x, scale * constant, None if bias is None else bias * constant)
    else:
        made = again(norm, x, scale, constant if bias is None else bias + constant)
    return op.Transpose(made, perm=perm)


def _instance_norm(x: Tensor, scale: Const, bias: Const, mul: Const, add: Const, sub: Const, norm: Node) -> Tensor:
    y = norm.bind(op.InstanceNormalization(x, scale, bias, ...))
    return y * mul | y + add | y - sub


@rule(_instance_norm, shapes=_MAPS)
def instance_norm_affine(
    x: Tensor, scale: Tensor, bias: Tensor, mul: Tensor | None, add: Tensor | None, sub: Tensor | None, norm: Node
) -> Tensor:
    """A constant per channel after InstanceNormalization belongs into its scale and its bias."""
    size = dims(scale)
    if mul is not None:
        gain = along(mul, x, (1,), size)
        return again(norm, x, scale * gain, bias * gain)
    shift = along(_shift(add, sub), x, (1,), size)
    return again(norm, x, scale, bias + shift if sub is None else bias - shift)


# -- operands -------------------------------------------------------------------------------------


def _shift(*constants: Tensor | None) -> Tensor:
    """The one that is there."""
    return next(c for c in constants if c is not None)


def _require_like(scale: Tensor, other: Tensor) -> None:
    require(other.dtype == scale.dtype, "the operand has another dtype than the scale")
    require(not other.is_const, "the operand is constant")
    require(other.shape == dims(scale), "the operand has another shape than the scale")


def _like(scale: Tensor, constant: Tensor, x: Tensor) -> Tensor:
    """A constant beside the normalized x, broadcast to the shape of the scale."""
    shape, given = dims(scale), dims(constant)
    require(len(shape) == scale.rank, "the size that is normalized is not known")
    require(len(given) <= x.rank, "the constant raises the rank")
    lead = max(0, len(given) - len(shape))
    tail = given[lead:]
    fits = all(g in (1, s) for g, s in zip(reversed(tail), reversed(shape), strict=False))
    require(math.prod(given[:lead]) == 1 and fits, "the constant varies along other axes than the normalized ones")
    require_finite(constant)
    if given == shape:
        return constant
    return op.Expand(op.Reshape(constant, list(tail)), list(shape))
