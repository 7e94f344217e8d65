"""Constants beside a linear operator, read as a factor and a summand per channel."""

from __future__ import annotations

import math

import numpy as np

from graphopt import Node, Tensor, op, require


def dims(constant: Tensor) -> tuple[int, ...]:
    """The shape of a constant, whose axes all have a known size."""
    return tuple(d for d in constant.shape if isinstance(d, int))


def require_finite(*constants: Tensor) -> None:
    """Decline infinities and NaN, which as weights would meet other numbers than they do as operands."""
    finite = all(np.isfinite(np.asarray(c.array, dtype=np.float64)).all() for c in constants)
    require(finite, "a constant is not finite")


def per_channel(constant: Tensor, axis: int, of: Tensor, channels: int) -> Tensor:
    """`constant`, which must vary along `axis` of `of`'s rank only, as a vector of `channels` elements."""
    require(constant.per_channel(axis, of=of), "the constant varies along other axes than the channels")
    size = math.prod(dims(constant))
    require(size in (1, channels), "the constant has another number of channels")
    require(constant.dtype.is_floating_point(), "integers wrap around")
    require_finite(constant)
    if dims(constant) == (channels,):
        return constant
    vector: Tensor = op.Reshape(constant, [-1])
    return vector if size == channels else op.Expand(vector, [channels])


def factor(mul: Tensor | None, div: Tensor | None, axis: int, of: Tensor, channels: int) -> Tensor:
    """The factor per channel, of the one constant that is not None: `· mul` or `/ div`."""
    if mul is not None:
        return per_channel(mul, axis, of, channels)
    assert div is not None
    return op.Reciprocal(per_channel(div, axis, of, channels))


def batch_norm(
    node: Node, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Factor and summand per channel of a BatchNormalization in inference, on tensors of `like`'s dtype."""
    require(node.version >= 7, "before opset 7 BatchNormalization means something else")
    require(sum(bool(o.name) for o in node.outputs) == 1, "BatchNormalization also gives its statistics")
    require({gamma.dtype, beta.dtype} == {like.dtype}, "BatchNormalization has parameters of another dtype")
    require_finite(gamma, beta, mean, var)
    scale = gamma / op.Sqrt(var + eps)
    return scale, beta - mean * scale
