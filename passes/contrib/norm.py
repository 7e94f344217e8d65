"""A residual sum and the layer normalization behind it, in one operator.

The sum stays in the precision of the kernel, so that it may not overflow where the original does: these rules are
for finite numbers.
"""

from __future__ import annotations

from graphopt_passes.contrib.operators import ms, require_skip_kernel, require_vector
from graphopt_passes.fuse.moments import epsilon as written_epsilon
from graphopt_passes.fuse.moments import last_axes, mean, over_root, same_axes, same_mean, square

from graphopt import ANY, Attr, Const, DType, Node, Tensor, op, require, rule

_SUM = {"x": "f32: B S D", "skip": "B S D", "scale": "D", "beta": "D"}
_WRITTEN = {**_SUM, "eps": "+"}
_ATTRS = {"axis": -1, "epsilon": 1e-5}
_AXES = {"axes_attr": [-1], "axes2_attr": [-1]}


def _layer_norm(
    total: Tensor, scale: Tensor, beta: Tensor | None, axis: Attr[int], epsilon: Attr[float]
) -> Tensor:
    return op.LayerNormalization(total, scale, beta, axis=axis, epsilon=epsilon, stash_type=ANY)


def _sum(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, axis: Attr[int], epsilon: Attr[float]
) -> Tensor:
    return _layer_norm(x + skip, scale, beta, axis, epsilon)


@rule(_sum, accuracy="fast", shapes=_SUM, attrs=_ATTRS)
def skip_layer_norm(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, axis: int, epsilon: float | None
) -> Tensor:
    """LayerNormalization of a sum is SkipLayerNormalization."""
    _require(x, skip, axis, scale, beta)
    return ms.SkipLayerNormalization(x, skip, scale, beta, epsilon=_given(epsilon))


def _sum_and_norm(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, axis: Attr[int], epsilon: Attr[float]
) -> tuple[Tensor, Tensor]:
    total = x + skip
    return _layer_norm(total, scale, beta, axis, epsilon), total


@rule(_sum_and_norm, accuracy="fast", shapes=_SUM, attrs=_ATTRS)
def skip_layer_norm_sum(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, axis: int, epsilon: float | None
) -> tuple[Tensor, Tensor]:
    """LayerNormalization of a sum that is also read elsewhere is SkipLayerNormalization, which gives both."""
    _require(x, skip, axis, scale, beta)
    result, _, _, total = ms.SkipLayerNormalization(x, skip, scale, beta, epsilon=_given(epsilon), nout=4)
    return result, total


# -- written out, as before opset 17 --------------------------------------------------------------


def _written_out(
    total: Tensor, scale: Tensor, beta: Tensor, eps: Tensor, axes: Tensor, axes_attr: Attr[list[int]], axes2: Tensor,
    axes2_attr: Attr[list[int]],
) -> Tensor:  # fmt: skip
    centred = total - mean(total, axes, axes_attr)
    variance = same_mean(square(centred), axes, axes_attr, axes2, axes2_attr)
    return over_root(centred, variance + eps) * scale + beta


def _sum_written_out(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]],
    axes2: Const, axes2_attr: Attr[list[int]], to: Attr[int],
) -> Tensor:  # fmt: skip
    total = x + skip | op.Cast(x + skip, to=to)
    return _written_out(total, scale, beta, eps, axes, axes_attr, axes2, axes2_attr)


@rule(_sum_written_out, accuracy="fast", shapes=_WRITTEN, attrs={**_AXES, "to": DType.FLOAT.value})
def skip_layer_norm_written_out(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor, eps: Tensor, axes: Tensor | None,
    axes_attr: list[int] | None, axes2: Tensor | None, axes2_attr: list[int] | None, to: int | None,
) -> Tensor:  # fmt: skip
    """A sum minus its mean, over the root of its variance, scaled and shifted, is SkipLayerNormalization."""
    number = _written(x, scale, eps, axes, axes_attr, axes2, axes2_attr, to)
    _require(x, skip, -1, scale, beta)
    wide = [x, skip] if to is None else [op.Cast(x, to=to), op.Cast(skip, to=to)]
    return ms.SkipLayerNormalization(*wide, scale, beta, epsilon=number)


def _sum_and_written_out(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]],
    axes2: Const, axes2_attr: Attr[list[int]],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    total = x + skip
    return _written_out(total, scale, beta, eps, axes, axes_attr, axes2, axes2_attr), total


@rule(_sum_and_written_out, accuracy="fast", shapes=_WRITTEN, attrs=_AXES)
def skip_layer_norm_written_out_sum(
    x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor, eps: Tensor, axes: Tensor | None,
    axes_attr: list[int] | None, axes2: Tensor | None, axes2_attr: list[int] | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same, where the sum is also read elsewhere."""
    number = _written(x, scale, eps, axes, axes_attr, axes2, axes2_attr, None)
    _require(x, skip, -1, scale, beta)
    result, _, _, total = ms.SkipLayerNormalization(x, skip, scale, beta, epsilon=number, nout=4)
    return result, total


# -- a bias of one of the two ---------------------------------------------------------------------


def _biased(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> Tensor:
    return norm.bind(ms.SkipLayerNormalization(x + bias, skip, scale, beta, ...))


def _biased_skip(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> Tensor:
    return norm.bind(ms.SkipLayerNormalization(skip, x + bias, scale, beta, ...))


@rule(_biased, _biased_skip, accuracy="fast", shapes={**_SUM, "bias": "D"})
def skip_layer_norm_bias(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> Tensor:
    """A bias of one of the tensors that SkipLayerNormalization adds is its own."""
    require(skip.shape == x.shape, "the operands of the sum differ in shape")
    require_vector(bias, x)
    return ms.SkipLayerNormalization(x, skip, scale, beta, bias, **norm.attrs)


def _biased_sum(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> tuple[Tensor, Tensor]:
    result, _, _, total = norm.bind(ms.SkipLayerNormalization(x + bias, skip, scale, beta, ..., nout=4))
    return result, total


def _biased_skip_sum(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> tuple[Tensor, Tensor]:
    result, _, _, total = norm.bind(ms.SkipLayerNormalization(skip, x + bias, scale, beta, ..., nout=4))
    return result, total


@rule(_biased_sum, _biased_skip_sum, accuracy="fast", shapes={**_SUM, "bias": "D"})
def skip_layer_norm_bias_sum(
    x: Tensor, bias: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None, norm: Node
) -> tuple[Tensor, Tensor]:
    """The same, where the sum is also read elsewhere."""
    require(skip.shape == x.shape, "the operands of the sum differ in shape")
    require_vector(bias, x)
    result, _, _, total = ms.SkipLayerNormalization(x, skip, scale, beta, bias, **norm.attrs, nout=4)
    return result, total


# -- limits ---------------------------------------------------------------------------------------


def _given(epsilon: float | None) -> float:
    """The operators' defaults differ, so that it is always written."""
    return 1e-5 if epsilon is None else epsilon


def _written(
    x: Tensor, scale: Tensor, eps: Tensor, axes: Tensor | None, axes_attr: list[int] | None, axes2: Tensor | None,
    axes2_attr: list[int] | None, to: int | None,
) -> float:  # fmt: skip
    """The epsilon of a normalization over the last axis in float32; declines for others."""
    require(last_axes(x, same_axes(x, axes, axes_attr, axes2, axes2_attr)) == 1, "more than one axis is normalized")
    require(to in (None, DType.FLOAT.value), "the sum is cast to something else than float32")
    require(to is None or x.dtype == DType.FLOAT16, "what is cast is no half precision")
    return written_epsilon(scale, eps)


def _require(x: Tensor, skip: Tensor, axis: int | None, scale: Tensor, beta: Tensor | None) -> None:
    require(axis in (None, -1, x.rank - 1), "the normalization is not over the last axis alone")
    require_skip_kernel(x, skip, scale, beta)
