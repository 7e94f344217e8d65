"""Attention that exporters wrote out in matrix products, as MultiHeadAttention, which needs no opset 23.

The kernel adds a mask of the shape of the scores, at most broadcast along batch and heads. A row that a mask hides
entirely with minus infinity is NaN in the original only, so the rule is for finite numbers.
"""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.contrib.operators import ms, require_float
from graphopt_passes.fuse.attention import heads_of

from graphopt import Attr, Const, Dim, Node, Tensor, op, require, rule

_SHAPES = {"q": "B S 8", "k": "B T 8", "v": "B T 8", "mask": "1 1 S T", "q_mul": "+", "factor": "+", "divisor": "+"}
_SPLIT = (0, 2, 1, 3)
_TURNED = (0, 2, 3, 1)


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, q_size: Tensor, k_size: Tensor, v_size: Tensor, size: Tensor,
    q_mul: Const, factor: Const, divisor: Const, q_heads: Node, k_heads: Node, v_heads: Node,
    axis: Attr[int],
) -> Tensor:  # fmt: skip
    queries = op.Transpose(q_heads.bind(op.Reshape(q, q_size, ...)), perm=_SPLIT)
    keys = op.Transpose(k_heads.bind(op.Reshape(k, k_size, ...)), perm=_TURNED)
    values = op.Transpose(v_heads.bind(op.Reshape(v, v_size, ...)), perm=_SPLIT)
    plain = (queries * q_mul) @ keys | queries @ keys
    scores = plain * factor | plain / divisor | plain
    y = op.Softmax(scores + mask | scores, axis=axis) @ values
    return op.Reshape(op.Transpose(y, perm=_SPLIT), size, ...)


@rule(_written_out, accuracy="fast", shapes=_SHAPES, attrs={"axis": -1})
def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, q_size: Tensor, k_size: Tensor, v_size: Tensor,
    size: Tensor, q_mul: Tensor | None, factor: Tensor | None, divisor: Tensor | None, q_heads: Node, k_heads: Node,
    v_heads: Node, axis: int | None,
) -> Tensor:  # fmt: skip
    """The softmax of scaled products of queries and keys, by heads, times the values, is MultiHeadAttention."""
    del q_size, k_size, v_size, size  # the shapes that they ask for are checked instead
    require_float(q, k, v)
    require(axis in (-1, 3), "the softmax is not over the keys")
    heads = heads_of(q, q_heads)
    require(heads == heads_of(k, k_heads) == heads_of(v, v_heads), "the numbers of heads differ")
    require(q.shape[2] == k.shape[2], "queries and keys have heads of different sizes")
    same = None not in q.shape and None not in k.shape and q.shape[0] == k.shape[0]
    require(same and k.shape[:2] == v.shape[:2], "batch or length of queries, keys and values may differ")
    require(not any(d == 0 for d in (*q.shape, *k.shape, *v.shape)), "an operand is empty")
    factors = math.prod(c.scalar for c in (q_mul, factor) if c is not None)
    scale = factors / (1.0 if divisor is None else _nonzero(divisor))
    require(math.isfinite(scale) and np.float32(scale) > 0, "the scale is not positive")
    bias = None if mask is None else _bias(mask, q, k, heads)
    return ms.MultiHeadAttention(q, k, v, None, None, bias, num_heads=heads, scale=scale)


def _nonzero(divisor: Tensor) -> float:
    require(divisor.scalar != 0, "the scores are divided by zero")
    return divisor.scalar


def _bias(mask: Tensor, q: Tensor, k: Tensor, heads: int) -> Tensor:
    """The mask in the shape that the kernel takes: as the scores, or 1 for batch and heads."""
    require(0 < mask.rank <= 4, "the mask has another rank than the scores")
    require(None not in mask.shape, "the shape of the mask is not known")
    given = (*(1,) * (4 - mask.rank), *mask.shape)
    batch, length, reach = q.shape[0], q.shape[1], k.shape[1]
    require(given[0] in (1, batch) and given[1] in (1, heads), "the mask raises the size of the scores")
    require(given[2] in (1, length) and given[3] == reach, "the mask is broadcast along the keys")
    if mask.rank == 4 and given[2] == length:
        return mask
    return op.Expand(mask, _rows(q, length))


def _rows(q: Tensor, length: int | Dim | None) -> Tensor | np.ndarray:
    """The shape [1, 1, length, 1]."""
    if isinstance(length, int):
        return np.array([1, 1, length, 1], np.int64)
    ones = np.array([1, 1], np.int64)
    known: Tensor = op.Concat(ones, op.Gather(op.Shape(q), np.array([1], np.int64), axis=0), ones[:1], axis=0)
    return known
