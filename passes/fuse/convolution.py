"""Weights, channels, groups and padding of Conv and ConvTranspose: what folding constants into them needs."""

from __future__ import annotations

import math

from graphopt_passes.fuse.affine import dims

from graphopt import Node, Tensor, op, require

CONVOLUTIONS = ("Conv", "ConvTranspose")


def channels_out(conv: Node, w: Tensor) -> int:
    """Output channels: weights are [out, in / group, …] for Conv, [in, out / group, …] for ConvTranspose."""
    _require_weights(w)
    return dims(w)[0] if conv.op == "Conv" else dims(w)[1] * _group(conv)


def channels_in(conv: Node, w: Tensor) -> int:
    """Input channels."""
    _require_weights(w)
    return dims(w)[1] * _group(conv) if conv.op == "Conv" else dims(w)[0]


def scale_outputs(conv: Node, w: Tensor, scale: Tensor) -> Tensor:
    """Weights that give each output channel times its element of `scale`."""
    return _scale_first_axis(w, scale) if conv.op == "Conv" else _scale_second_axis(w, scale, _group(conv))


def scale_inputs(conv: Node, w: Tensor, scale: Tensor) -> Tensor:
    """Weights that act as the old ones do on an input whose channels are scaled by `scale`."""
    return _scale_second_axis(w, scale, _group(conv)) if conv.op == "Conv" else _scale_first_axis(w, scale)


def response(conv: Node, w: Tensor, level: Tensor) -> Tensor:
    """What a Conv without padding and bias gives, per channel, for an input with `level` in each channel."""
    _require_weights(w)
    out, inner, *kernel = dims(w)
    group, taps = _group(conv), math.prod(kernel)
    rows = op.Reshape(w, [group, out // group, inner * taps])
    repeated = op.Expand(op.Reshape(level, [group, inner, 1]), [group, inner, taps])
    column = op.Reshape(repeated, [group, inner * taps, 1])
    return op.Reshape(op.MatMul(rows, column), [out])


def padding(conv: Node, spatial: int) -> list[int]:
    """The padding of a convolution over `spatial` axes as its attribute has it: beginnings, then ends."""
    auto, pads = conv.attr("auto_pad", "NOTSET"), conv.attr("pads")
    require(auto in ("NOTSET", "VALID"), "auto_pad makes the padding depend on the size of the input")
    if auto == "VALID" or not pads:
        return [0] * (2 * spatial)
    known = isinstance(pads, list | tuple) and len(pads) == 2 * spatial
    require(known, "the padding is not well formed, or a parameter of the function")
    return list(pads)


def _group(conv: Node) -> int:
    group = conv.attr("group", 1)
    require(isinstance(group, int) and group > 0, "the number of groups is not known")
    return int(group)


def _require_weights(w: Tensor) -> None:
    require(w.rank >= 3, "the weights have no spatial axes")


def _scale_first_axis(w: Tensor, scale: Tensor) -> Tensor:
    _require_weights(w)
    return w * op.Reshape(scale, [-1] + [1] * (w.rank - 1))


def _scale_second_axis(w: Tensor, scale: Tensor, group: int) -> Tensor:
    """Weights [group · a, b, …] times a scale [group · b]: each group has a part of it of its own."""
    _require_weights(w)
    first, second, *kernel = dims(w)
    blocks = op.Reshape(w, [group, first // group, second, math.prod(kernel)])
    return op.Reshape(blocks * op.Reshape(scale, [group, 1, second, 1]), list(dims(w)))
