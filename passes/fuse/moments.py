"""How means and variances are written, and along which axes of a tensor a constant beside them varies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from graphopt_passes.fuse.affine import dims, require_finite

from graphopt import Attr, Const, DType, Tensor, op, require

_LARGEST = 1 << 20  # elements of a scale that is made up: what it costs to read must not outweigh what is saved


def mean(x: Tensor, axes: Tensor, axes_attr: Attr[list[int]]) -> Tensor:
    """The mean that keeps its axes; an input names them from opset 18 on, an attribute before."""
    return op.ReduceMean(x, axes) | op.ReduceMean(x, axes=axes_attr)


def same_mean(
    x: Tensor, axes: Tensor, axes_attr: Attr[list[int]], axes2: Tensor, axes2_attr: Attr[list[int]]
) -> Tensor:
    """Another mean, whose axes are the same tensor, or to be compared; see `same_axes`."""
    return mean(x, axes, axes_attr) | mean(x, axes2, axes2_attr)


def same_axes(
    x: Tensor, axes: Tensor | None, axes_attr: list[int] | None, axes2: Tensor | None, axes2_attr: list[int] | None
) -> tuple[int, ...]:
    """The axes of two reductions, which must have the same; those of the second are None if they are one tensor."""
    over = normalized_axes(x, axes, axes_attr)
    if axes2 is not None or axes2_attr is not None:
        require(over == normalized_axes(x, axes2, axes2_attr), "mean and variance are over different axes")
    return over


def square(x: Tensor) -> Tensor:
    """x², which is a power of exactly 2."""
    return x**2 | x * x


def inverse_root(variance: Tensor) -> Tensor:
    """One over the root."""
    root = op.Sqrt(variance)
    return op.Reciprocal(root) | 1 / root | variance**-0.5 | op.Sqrt(op.Reciprocal(variance)) | op.Sqrt(1 / variance)


def over_root(x: Tensor, variance: Tensor) -> Tensor:
    """x over the root."""
    return x / op.Sqrt(variance) | x * inverse_root(variance) | x / variance**0.5


def scaled_over_root(x: Tensor, variance: Tensor, gain: Tensor) -> Tensor:
    """x over the root and times a gain that one of them is multiplied with first."""
    inverse = inverse_root(variance) * gain | gain / op.Sqrt(variance)
    return over_root(x * gain, variance) | x * inverse


def centred(
    x: Tensor, eps: Const, axes: Const, axes_attr: Attr[list[int]], axes2: Const, axes2_attr: Attr[list[int]],
    gain: Const,
) -> Tensor:  # fmt: skip
    """A pattern: x minus its mean, over the root of its variance, with or without epsilon and gain."""
    m = mean(x, axes, axes_attr)
    d = x - m
    spread = same_mean(square(d) | square(m - x), axes, axes_attr, axes2, axes2_attr)
    variance = spread + eps | spread
    return over_root(d, variance) | scaled_over_root(d, variance, gain)


def normalized_axes(x: Tensor, axes: Tensor | None, axes_attr: list[int] | None) -> tuple[int, ...]:
    """The axes that are named, counted from the front and in order."""
    if axes is not None and axes_attr is not None:  # of two operators: one takes them as an input already
        require(normalized_axes(x, axes, None) == normalized_axes(x, None, axes_attr), "the axes are different ones")
    named = list(axes.ints) if axes is not None else axes_attr
    require(named, "the axes are not named")
    assert named is not None
    rank = x.rank
    counted = sorted(a % rank for a in named if -rank <= a < rank)
    require(len(counted) == len(named) == len(set(counted)), "the axes are not well formed")
    return tuple(counted)


def last_axes(x: Tensor, axes: Sequence[int]) -> int:
    """How many axes are named, which must be the last ones."""
    require(are_last(x, axes), "the axes are not the last ones")
    return len(axes)


def are_last(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether the axes are the last ones."""
    return list(axes) == list(range(x.rank - len(axes), x.rank))


def are_spatial(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether the axes are all but those of batch and channel, and two or more."""
    return len(axes) >= 2 and list(axes) == list(range(2, x.rank))


def sizes_of(x: Tensor, axes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of some axes, which must be known and not zero."""
    shape = x.shape
    sizes = tuple(d for d in (shape[a] for a in axes) if isinstance(d, int))
    require(len(sizes) == len(axes) and math.prod(sizes) > 0, "the size that is normalized is not known")
    require(math.prod(sizes) <= _LARGEST, "the scale would be too large")
    return sizes


def ones(x: Tensor, axes: Sequence[int]) -> np.ndarray:
    """A scale that changes nothing, in the dtype of x."""
    return np.ones(sizes_of(x, axes), x.dtype.numpy())


def along(constant: Tensor, x: Tensor, axes: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """A constant beside x as a tensor of `shape`, the sizes of `axes` of x; it must vary along these axes only."""
    given, rank = dims(constant), x.rank
    require(len(given) <= rank, "the constant raises the rank")
    aligned = (1,) * (rank - len(given)) + given
    there = [aligned[a] for a in axes]
    fits = all(g in (1, s) for g, s in zip(there, shape, strict=True))
    others = math.prod(d for i, d in enumerate(aligned) if i not in axes)
    require(others == 1 and fits, "the constant varies along other axes than the normalized ones")
    require_finite(constant)
    if given == shape:
        return constant
    return op.Expand(op.Reshape(constant, there), list(shape))


def epsilon(x: Tensor, eps: Tensor | None) -> float:
    """The number as an attribute; the operators compute in float32, so only such arithmetic may be replaced."""
    require(x.dtype == DType.FLOAT, "the normalization is not computed in float32")
    if eps is None:
        return 0.0
    require_finite(eps)
    require(eps.scalar >= 0, "epsilon is negative")
    return eps.scalar
