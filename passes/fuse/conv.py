"""What follows a convolution, and is affine in each channel, becomes its weights and its bias."""

from __future__ import annotations

from graphopt_passes.fuse.affine import batch_norm, factor, per_channel
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.convolution import CONVOLUTIONS, channels_out, scale_outputs

from graphopt import ANY, Attr, Const, Node, Tensor, op, rule

_CONV = {"x": "N C H W", "w": "K C 3 3", "b": "K"}


def _then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: Attr[float], conv: Node, bn: Node,
) -> Tensor:
    y = conv.bind(op.any(*CONVOLUTIONS)(x, w, b, ...))
    return bn.bind(op.BatchNormalization(y, gamma, beta, mean, var, epsilon=eps, momentum=ANY))


@rule(_then_bn, shapes={**_CONV, "gamma": "K", "beta": "K", "mean": "K", "var": "+K"})
def conv_bn(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor,
    eps: float, conv: Node, bn: Node,
) -> Tensor:
    """BatchNormalization after a convolution scales its weights and its bias, and shifts the bias."""
    scale, shift = batch_norm(bn, gamma, beta, mean, var, eps, like=w)
    return again(conv, x, scale_outputs(conv, w, scale), shift if b is None else b * scale + shift)


def _then_scale(x: Tensor, w: Const, b: Const | None, mul: Const, div: Const, conv: Node) -> Tensor:
    y = conv.bind(op.any(*CONVOLUTIONS)(x, w, b, ...))
    return y * mul | y / div


@rule(_then_scale, shapes={**_CONV, "mul": "K 1 1", "div": "+K 1 1"})
def conv_scale(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, conv: Node
) -> Tensor:
    """A constant factor or divisor per channel after a convolution scales its weights and its bias."""
    scale = factor(mul, div, 1, w, channels_out(conv, w))
    return again(conv, x, scale_outputs(conv, w, scale), None if b is None else b * scale)


def _then_shift(
    x: Tensor, w: Const, b: Const | None, add: Const, sub: Const, minuend: Const, conv: Node
) -> Tensor:
    y = conv.bind(op.any(*CONVOLUTIONS)(x, w, b, ...))
    return y + add | y - sub | minuend - y


@rule(_then_shift, shapes={**_CONV, "add": "K 1 1", "sub": "K 1 1", "minuend": "1"})
def conv_shift(
    x: Tensor, w: Tensor, b: Tensor | None, add: Tensor | None, sub: Tensor | None, minuend: Tensor | None,
    conv: Node,
) -> Tensor:
    """A constant added to each channel after a convolution is bias; subtracting from it flips the weights."""
    constant = next(c for c in (add, sub, minuend) if c is not None)
    shift = per_channel(constant, 1, w, channels_out(conv, w))
    if minuend is not None:
        return again(conv, x, -w, shift if b is None else shift - b)
    if sub is not None:
        shift = -shift
    return again(conv, x, w, shift if b is None else b + shift)
