"""A bias of zeros, and convolutions that only scale each channel."""

from __future__ import annotations

from graphopt_passes.fuse.affine import require_finite
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.convolution import CONVOLUTIONS, channels_out, padding, scale_outputs

from graphopt import Attr, Const, Node, Tensor, op, require, rule

_DEPTHWISE = {"x": "N 4 H W", "scale": "4 1 1 1"}


def _with_zeros(x: Tensor, w: Tensor, node: Node) -> Tensor:
    return node.bind(op.any(*CONVOLUTIONS, "Gemm")(x, w, 0.0, ...))


def _with_negative_zeros(x: Tensor, w: Tensor, node: Node) -> Tensor:
    return node.bind(op.any(*CONVOLUTIONS, "Gemm")(x, w, -0.0, ...))


@rule(_with_zeros, _with_negative_zeros, bounded=True, shapes={"x": "N C H W", "w": "K C 3 3"})
def zero_bias(x: Tensor, w: Tensor, node: Node) -> Tensor:
    """A bias of zeros is left out."""
    if node.op != "Gemm":
        return again(node, x, w)
    require(node.version >= 11, "before opset 11 Gemm has a bias")
    return again(node, x, w, beta=None)


def _depthwise(x: Tensor, scale: Const, group: Attr[int], conv: Node) -> Tensor:
    return conv.bind(op.Conv(x, scale, ..., group=group))


@rule(_depthwise, bounded=True, shapes=_DEPTHWISE, attrs={"group": 4})
def depthwise_mul(x: Tensor, scale: Tensor, group: int, conv: Node) -> Tensor:
    """A convolution of one element of one channel each is a factor per channel."""
    _require_pointwise(scale, group, conv)
    require(x.shape[1] == group, "the number of channels is not known")
    return x * op.Reshape(scale, [-1] + [1] * (scale.rank - 2))


def _then_depthwise(
    x: Tensor, w: Const, b: Const | None, conv: Node, scale: Const, shift: Const | None, group: Attr[int], then: Node
) -> Tensor:
    y = conv.bind(op.any(*CONVOLUTIONS)(x, w, b, ...))
    return then.bind(op.Conv(y, scale, shift, ..., group=group))


@rule(
    _then_depthwise,
    shapes={"x": "N C H W", "w": "4 C 3 3", "b": "4", "scale": "4 1 1 1", "shift": "4"},
    attrs={"group": 4},
)
def conv_depthwise(
    x: Tensor, w: Tensor, b: Tensor | None, conv: Node,
    scale: Tensor, shift: Tensor | None, group: int, then: Node,
) -> Tensor:  # fmt: skip
    """A factor and a summand per channel, written as a convolution after another one, become part of that."""
    _require_pointwise(scale, group, then)
    require(channels_out(conv, w) == group, "the number of channels differs")
    require_finite(scale)
    factor = op.Reshape(scale, [-1])
    scaled = None if b is None else b * factor
    total = scaled if shift is None else shift if scaled is None else scaled + shift
    return again(conv, x, scale_outputs(conv, w, factor), total)


def _require_pointwise(w: Tensor, group: int, conv: Node) -> None:
    """Decline a kernel of more than one element, several channels in a group, steps and padding."""
    single = w.rank >= 3 and all(d == 1 for d in w.shape[1:])
    require(single, "the kernel has several elements, or a group several channels")
    require(isinstance(group, int) and w.shape[0] == group, "a group gives several channels")
    strides = conv.attr("strides") or [1]
    require(isinstance(strides, list | tuple) and all(s == 1 for s in strides), "it takes steps")
    require(not any(padding(conv, w.rank - 2)), "it pads")
