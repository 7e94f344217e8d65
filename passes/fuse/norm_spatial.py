"""Normalizations of feature maps: each channel by itself, groups of channels, vectors by their length."""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.moments import (
    along,
    are_spatial,
    centred,
    epsilon,
    normalized_axes,
    same_axes,
)

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_MAP = {"x": "f32: N C H W", "eps": "+", "gain": "C 1 1"}
_AXES = {"axes_attr": [2, 3], "axes2_attr": [2, 3]}


@rule(centred, shapes=_MAP, attrs=_AXES)
def instance_norm(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axes2: Tensor | None, axes2_attr: list[int] | None, gain: Tensor | None,
) -> Tensor:  # fmt: skip
    """x minus its mean over each channel, over the root of its variance plus epsilon, is InstanceNormalization."""
    over = same_axes(x, axes, axes_attr, axes2, axes2_attr)
    require(are_spatial(x, over), "the axes are not those of a feature map")
    channels = _channels(x)
    scale: Tensor | np.ndarray = np.ones(channels, np.float32)
    if gain is not None:
        scale = along(gain, x, (1,), (channels,))
    return op.InstanceNormalization(x, scale, np.zeros(channels, np.float32), epsilon=epsilon(x, eps))


def _over_length(x: Tensor, axes: Const, axes_attr: Attr[list[int]], norm: Node) -> Tensor:
    length = norm.bind(op.any("ReduceL1", "ReduceL2")(x, axes)) | norm.bind(
        op.any("ReduceL1", "ReduceL2")(x, axes=axes_attr)
    )
    return x / length | x * op.Reciprocal(length) | x * (1 / length)


@rule(_over_length, accuracy="fast", shapes={"x": "f32: N C"}, attrs={"axes_attr": [-1]})
def lp_normalization(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, norm: Node) -> Tensor:
    """Vectors over their lengths are LpNormalization, which leaves a vector of zeros as it is."""
    # 0 / 0 is NaN as it is written, and 0 as the operator: a difference that finite inputs may show.
    require(x.dtype in (DType.FLOAT, DType.DOUBLE), "runtimes have no kernel of the operator for the dtype")
    (axis,) = _one(normalized_axes(x, axes, axes_attr))
    return op.LpNormalization(x, axis=axis, p=1 if norm.op == "ReduceL1" else 2)


def _channels(x: Tensor) -> int:
    """How many channels there are, which must be known."""
    require(x.rank >= 3, "there is no feature map")
    channels = x.shape[1]
    require(isinstance(channels, int) and channels > 0, "the number of channels is not known")
    assert isinstance(channels, int)
    return channels


def _one(axes: tuple[int, ...]) -> tuple[int, ...]:
    require(len(axes) == 1, "vectors are not along one axis")
    return axes
