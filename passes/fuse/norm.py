"""Layer and RMS normalization that exporters wrote out in primitive operators."""

from __future__ import annotations

import functools
import operator

from graphopt_passes.fuse.moments import (
    along,
    are_last,
    are_spatial,
    centred,
    epsilon,
    last_axes,
    mean,
    normalized_axes,
    ones,
    over_root,
    same_axes,
    same_mean,
    scaled_over_root,
    sizes_of,
    square,
)

from graphopt import Attr, Const, Tensor, op, require, rule

_AXES = {"axes_attr": [-1], "axes2_attr": [-1]}
_SHAPES = {"x": "f32: B S D", "eps": "+", "gain": "D"}


@rule(centred, shapes=_SHAPES, attrs=_AXES)
def layer_norm(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, gain: Tensor | None,
) -> Tensor:  # fmt: skip
    """x minus its mean, over the root of its variance plus epsilon, is LayerNormalization."""
    over = same_axes(x, axes, axes_attr, axes2, axes2_attr)
    require(not are_spatial(x, over), "each channel is normalized by itself")
    count = last_axes(x, over)
    scale = ones(x, over) if gain is None else along(gain, x, over, sizes_of(x, over))
    return op.LayerNormalization(x, scale, axis=-count, epsilon=epsilon(x, eps))


@rule(centred, shapes={**_SHAPES, "x": "f32: N C H", "gain": "C 1"}, attrs={"axes_attr": [1], "axes2_attr": [1]})
def layer_norm_channels(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, gain: Tensor | None,
) -> Tensor:  # fmt: skip
    """A normalization over axes that are not the last is LayerNormalization between two Transposes."""
    over = same_axes(x, axes, axes_attr, axes2, axes2_attr)
    require(not are_last(x, over), "the axes are the last ones")
    scale = ones(x, over) if gain is None else along(gain, x, over, sizes_of(x, over))
    perm = [a for a in range(x.rank) if a not in over] + list(over)
    moved = op.Transpose(x, perm=perm)
    norm = op.LayerNormalization(moved, scale, axis=-len(over), epsilon=epsilon(x, eps))
    return op.Transpose(norm, perm=[perm.index(a) for a in range(x.rank)])


def centred_late(
    x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axes2: Const, axes2_attr: Attr[list[int]],
    gain: Const, shift: Const,
) -> Tensor:  # fmt: skip
    m = mean(x, axes, axes_attr)
    d = x - m
    variance = same_mean(square(d) | square(m - x), axes, axes_attr, axes2, axes2_attr) + eps
    root = op.Sqrt(variance)
    scales = (op.Reciprocal(root), 1 / root, op.Reciprocal(root) * gain, 1 / root * gain, gain / root)
    forms = [form for scale in scales for form in (
        x * scale + (shift - m * scale), x * scale - m * scale, (x * scale - m * scale) + shift,
    )]  # fmt: skip
    return functools.reduce(operator.or_, forms)


@rule(centred_late, shapes={**_SHAPES, "shift": "D"}, attrs=_AXES)
def layer_norm_late(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, gain: Tensor | None, shift: Tensor | None,
) -> Tensor:  # fmt: skip
    """x times a scale, minus its mean times that scale, is LayerNormalization, as TensorFlow writes it."""
    over = same_axes(x, axes, axes_attr, axes2, axes2_attr)
    count, sizes = last_axes(x, over), sizes_of(x, over)
    scale = ones(x, over) if gain is None else along(gain, x, over, sizes)
    bias = None if shift is None else along(shift, x, over, sizes)
    return op.LayerNormalization(x, scale, bias, axis=-count, epsilon=epsilon(x, eps))


def _moments(
    x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axes2: Const, axes2_attr: Attr[list[int]],
    gain: Const,
) -> Tensor:  # fmt: skip
    m = mean(x, axes, axes_attr)
    variance = same_mean(square(x), axes, axes_attr, axes2, axes2_attr) - square(m)
    variance = (variance | op.Relu(variance) | op.Max(variance, 0) | op.Clip(variance, 0.0)) + eps
    return over_root(x - m, variance) | scaled_over_root(x - m, variance, gain)


@rule(_moments, accuracy="fast", shapes=_SHAPES, attrs=_AXES)
def layer_norm_moments(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, gain: Tensor | None,
) -> Tensor:  # fmt: skip
    """A variance that is the mean of squares minus the squared mean is that of LayerNormalization, but for rounding."""
    # What is written cancels where the mean is large: it may be off by any factor, and even negative, so NaN.
    over = same_axes(x, axes, axes_attr, axes2, axes2_attr)
    count = last_axes(x, over)
    scale = ones(x, over) if gain is None else along(gain, x, over, sizes_of(x, over))
    return op.LayerNormalization(x, scale, axis=-count, epsilon=epsilon(x, eps))


def _uncentred(x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], gain: Const, count: Const) -> Tensor:
    summed = op.ReduceSumSquare(x, axes) | op.ReduceSumSquare(x, axes=axes_attr)
    spread = mean(square(x), axes, axes_attr) | summed / count
    variance = spread + eps | spread
    return over_root(x, variance) | scaled_over_root(x, variance, gain)


@rule(_uncentred, shapes={"x": "f32: B S D", "eps": "+", "gain": "D", "count": "+"}, attrs={"axes_attr": [-1]})
def rms_norm(
    x: Tensor,
    eps: Tensor | None,
    axes: Tensor | None,
    axes_attr: list[int] | None,
    gain: Tensor | None,
    count: Tensor | None,
) -> Tensor:
    """x over the root of its mean square plus epsilon is RMSNormalization."""
    over = normalized_axes(x, axes, axes_attr)
    sizes = sizes_of(x, over)
    if count is not None:
        elements = 1
        for size in sizes:
            elements *= size
        require(count.scalar == elements, "the sum of squares is not over as many as there are")
    scale = ones(x, over) if gain is None else along(gain, x, over, sizes)
    return op.RMSNormalization(x, scale, axis=-last_axes(x, over), epsilon=epsilon(x, eps))
