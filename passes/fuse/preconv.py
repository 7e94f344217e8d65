"""What precedes a convolution, and is affine in each channel or pads with zeros, becomes part of it."""

from __future__ import annotations

import math

from graphopt_passes.fuse.affine import batch_norm, dims, factor, per_channel, require_finite
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.convolution import (
    CONVOLUTIONS,
    channels_in,
    padding,
    response,
    scale_inputs,
)

from graphopt import ANY, Attr, Const, Node, Tensor, op, require, rule

_CONV = {"x": "N C H W", "w": "K C 3 3", "b": "K"}


def _after_scale(x: Tensor, w: Const, b: Tensor | None, mul: Const, div: Const, conv: Node) -> Tensor:
    return conv.bind(op.any(*CONVOLUTIONS)(x * mul | x / div, w, b, ...))


@rule(_after_scale, shapes={**_CONV, "mul": "C 1 1", "div": "+C 1 1"})
def scale_conv(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, conv: Node
) -> Tensor:
    """A constant factor or divisor per channel before a convolution scales its weights; zeros stay zeros."""
    _require_same_channels(conv, x, w, mul, div)
    return again(conv, x, scale_inputs(conv, w, factor(mul, div, 1, w, channels_in(conv, w))), b)


def _after_shift(
    x: Tensor, w: Const, b: Const | None, add: Const, sub: Const, minuend: Const, conv: Node
) -> Tensor:
    return conv.bind(op.Conv(x + add | x - sub | minuend - x, w, b, ...))


@rule(_after_shift, shapes={**_CONV, "add": "C 1 1", "sub": "C 1 1", "minuend": "1"})
def shift_conv(
    x: Tensor, w: Tensor, b: Tensor | None, add: Tensor | None, sub: Tensor | None, minuend: Tensor | None,
    conv: Node,
) -> Tensor:
    """A constant added to each channel before a convolution without padding shifts its bias."""
    require_finite(w)
    _require_no_padding(conv, w)
    _require_same_channels(conv, x, w, add, sub, minuend)
    constant = next(c for c in (add, sub, minuend) if c is not None)
    extra = response(conv, w, per_channel(constant, 1, w, channels_in(conv, w)))
    if sub is not None:
        extra = -extra
    return again(conv, x, w if minuend is None else -w, extra if b is None else b + extra)


def _after_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: Attr[float], conv: Node, bn: Node,
) -> Tensor:
    y = bn.bind(op.BatchNormalization(x, gamma, beta, mean, var, epsilon=eps, momentum=ANY))
    return conv.bind(op.Conv(y, w, b, ...))


@rule(_after_bn, shapes={**_CONV, "gamma": "C", "beta": "C", "mean": "C", "var": "+C"})
def bn_conv(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor,
    eps: float, conv: Node, bn: Node,
) -> Tensor:
    """BatchNormalization before a convolution without padding scales its weights and shifts its bias."""
    require_finite(w)
    _require_no_padding(conv, w)
    scale, shift = batch_norm(bn, gamma, beta, mean, var, eps, like=w)
    extra = response(conv, w, shift)
    return again(conv, x, scale_inputs(conv, w, scale), extra if b is None else b + extra)


def _after_pad(
    x: Tensor, pads: Const, value: Const | None, axes: Const | None, pads_attr: Attr[list[int]],
    w: Tensor, b: Tensor | None, conv: Node,
) -> Tensor:
    padded = op.Pad(x, pads, value, axes) | op.Pad(x, pads=pads_attr, value=0.0)
    return conv.bind(op.Conv(padded, w, b, ...))


@rule(_after_pad, shapes=_CONV)
def pad_conv(
    x: Tensor, pads: Tensor | None, value: Tensor | None, axes: Tensor | None, pads_attr: list[int] | None,
    w: Tensor, b: Tensor | None, conv: Node,
) -> Tensor:
    """Zeros padded onto the spatial axes before a convolution are padding of the convolution."""
    require(value is None or value.scalar == 0, "it does not pad with zeros")
    rank = x.rank
    amounts = list(pads.ints if pads is not None else pads_attr or ())
    named = list(range(rank)) if axes is None else [a % rank for a in axes.ints]
    require(len(amounts) == 2 * len(named) == 2 * len(set(named)), "the padding is not well formed")
    require(min(amounts, default=0) >= 0, "the padding crops")
    first = dict(zip(named, amounts[: len(named)], strict=True))
    last = dict(zip(named, amounts[len(named) :], strict=True))
    require(not any(side.get(a, 0) for side in (first, last) for a in (0, 1)), "it pads batch or channels")
    extra = [side.get(a, 0) for side in (first, last) for a in range(2, rank)]
    total = [p + q for p, q in zip(padding(conv, rank - 2), extra, strict=True)]
    return again(conv, x, w, b, pads=total, auto_pad=None)


def _require_same_channels(conv: Node, x: Tensor, w: Tensor, *constants: Tensor | None) -> None:
    """Decline a constant whose broadcast is what gives the input its rank or its channels."""
    require(x.rank == w.rank, "the constant raises the rank of the input")
    single = all(c is None or math.prod(dims(c)) == 1 for c in constants)
    require(single or x.shape[1] == channels_in(conv, w), "the constant may raise the number of channels")


def _require_no_padding(conv: Node, w: Tensor) -> None:
    require(not any(padding(conv, w.rank - 2)), "the convolution pads with zeros, not with the constant")
