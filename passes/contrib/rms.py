"""A residual sum and the RMS normalization behind it, in one operator; for finite numbers, as in `norm`."""

from __future__ import annotations

from graphopt_passes.contrib.operators import ms, require_skip_kernel
from graphopt_passes.fuse.moments import epsilon as written_epsilon
from graphopt_passes.fuse.moments import last_axes, mean, normalized_axes, over_root, square

from graphopt import ANY, Attr, Const, Tensor, op, require, rule

_SHAPES = {"x": "f32: B S D", "skip": "B S D", "scale": "D", "eps": "+"}
_ATTRS = {"axis": -1, "epsilon": 1e-5, "axes_attr": [-1]}


def _rms_norm(
    total: Tensor, scale: Tensor, eps: Tensor, axes: Tensor, axes_attr: Attr[list[int]], axis: Attr[int],
    epsilon: Attr[float],
) -> Tensor:  # fmt: skip
    whole = op.RMSNormalization(total, scale, axis=axis, epsilon=epsilon, stash_type=ANY)
    return whole | over_root(total, mean(square(total), axes, axes_attr) + eps) * scale


def _sum(
    x: Tensor, skip: Tensor, scale: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axis: Attr[int],
    epsilon: Attr[float],
) -> Tensor:  # fmt: skip
    return _rms_norm(x + skip, scale, eps, axes, axes_attr, axis, epsilon)


@rule(_sum, accuracy="fast", shapes=_SHAPES, attrs=_ATTRS)
def skip_rms_norm(
    x: Tensor, skip: Tensor, scale: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axis: int | None, epsilon: float | None,
) -> Tensor:  # fmt: skip
    """RMSNormalization of a sum is SkipSimplifiedLayerNormalization."""
    number = _epsilon(x, eps, axes, axes_attr, axis, epsilon)
    require_skip_kernel(x, skip, scale, None)
    return ms.SkipSimplifiedLayerNormalization(x, skip, scale, epsilon=number)


def _sum_and_norm(
    x: Tensor, skip: Tensor, scale: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axis: Attr[int],
    epsilon: Attr[float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    total = x + skip
    return _rms_norm(total, scale, eps, axes, axes_attr, axis, epsilon), total


@rule(_sum_and_norm, accuracy="fast", shapes=_SHAPES, attrs=_ATTRS)
def skip_rms_norm_sum(
    x: Tensor, skip: Tensor, scale: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None,
    axis: int | None, epsilon: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """RMSNormalization of a sum that is also read elsewhere is SkipSimplifiedLayerNormalization, which gives both."""
    number = _epsilon(x, eps, axes, axes_attr, axis, epsilon)
    require_skip_kernel(x, skip, scale, None)
    result, _, _, total = ms.SkipSimplifiedLayerNormalization(x, skip, scale, epsilon=number, nout=4)
    return result, total


def _epsilon(
    x: Tensor, eps: Tensor | None, axes: Tensor | None, axes_attr: list[int] | None, axis: int | None,
    epsilon: float | None,
) -> float:  # fmt: skip
    """The epsilon of a normalization over the last axis; declines for other axes. The operators' defaults differ."""
    if eps is None:
        require(axis in (None, -1, x.rank - 1), "the normalization is not over the last axis alone")
        return 1e-5 if epsilon is None else epsilon
    require(last_axes(x, normalized_axes(x, axes, axes_attr)) == 1, "more than one axis is normalized")
    return written_epsilon(x, eps)
