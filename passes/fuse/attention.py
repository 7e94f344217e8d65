"""Scaled dot-product attention that exporters wrote out in matrix products, as the standard operator.

ONNX Runtime's kernel sets limits that the specification does not have, and the rules respect them: a positive
scale, no empty heads, a mask that is broadcast along batch and heads only.
"""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.fuse.affine import require_finite
from graphopt_passes.fuse.again import again

from graphopt import Attr, Const, Decline, Dim, DType, Node, Tensor, op, require, rule

_VISIBLE = -1e4  # exporters hide a key with less; a row without any visible key is zeros in the kernel
_SHAPES = {
    "q": "B H S D", "k": "B H T D", "v": "B H T E", "mask": "1 1 S T",
    "q_mul": "+", "q_div": "+", "k_mul": "+", "k_div": "+", "mul": "+", "div": "+",
}  # fmt: skip
_ATTRS = {"perm": [0, 1, 3, 2], "axis": -1}
_SPLIT = (0, 2, 1, 3)


def _dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, perm: Attr[list[int]], axis: Attr[int],
    q_mul: Const, q_div: Const, k_mul: Const, k_div: Const, mul: Const, div: Const,
) -> Tensor:  # fmt: skip
    keys = op.Transpose(k, perm=perm)
    scores = (q * q_mul | q / q_div | q) @ (keys * k_mul | keys / k_div | keys)
    scaled = scores * mul | scores / div | scores
    return op.Softmax(scaled + mask | scaled, axis=axis) @ v


@rule(_dot_product_attention, shapes=_SHAPES, attrs=_ATTRS)
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, perm: list[int] | None, axis: int,
    q_mul: Tensor | None, q_div: Tensor | None, k_mul: Tensor | None, k_div: Tensor | None,
    mul: Tensor | None, div: Tensor | None,
) -> Tensor:  # fmt: skip
    """The softmax of scaled products of queries and keys, times the values, is Attention."""
    if mask is not None:
        require(mask.is_const, "a computed mask may hide all keys, and Attention then gives zeros instead of NaN")
        content = np.asarray(mask.array, dtype=np.float64)
        require(content.size > 0 and not np.isnan(content).any() and content.max() < np.inf, "the mask is not valid")
        require((content.max(axis=-1) >= _VISIBLE).all(), "the mask hides all keys from a query")
    scale = _scale((q_mul, k_mul, mul), (q_div, k_div, div))
    return _attention(q, k, v, mask, perm, axis, scale)


@rule(_dot_product_attention, accuracy="fast", shapes=_SHAPES, attrs=_ATTRS)
def attention_masked(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, perm: list[int] | None, axis: int,
    q_mul: Tensor | None, q_div: Tensor | None, k_mul: Tensor | None, k_div: Tensor | None,
    mul: Tensor | None, div: Tensor | None,
) -> Tensor:  # fmt: skip
    """The softmax of scaled and masked products of queries and keys, times the values, is Attention."""
    require(mask is not None and not mask.is_const, "the mask is constant")
    scale = _scale((q_mul, k_mul, mul), (q_div, k_div, div))
    return _attention(q, k, v, mask, perm, axis, scale)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, perm: list[int] | None, axis: int, scale: float
) -> Tensor:
    rank = q.rank
    require(rank in (3, 4) and k.rank == rank and v.rank == rank, "the operands have neither three nor four axes")
    require(q.dtype != DType.DOUBLE, "the scale is a float32")
    require(axis in (-1, rank - 1), "the softmax is not over the keys")
    order = list(perm) if perm is not None else list(range(rank))[::-1]
    require(sorted(order) == list(range(rank)), "the transpose is not well formed")
    order[-2:] = order[:-3:-1]
    size = [k.shape[a] for a in order]
    _require_kernel(q, size, v)
    if mask is not None:
        _require_mask(mask, q, size)
    keys = k if order == list(range(rank)) else op.Transpose(k, perm=order)
    heads = 1 if rank == 3 else None
    return op.Attention(q, keys, v, mask, scale=scale, q_num_heads=heads, kv_num_heads=heads)


def _scale(factors: tuple[Tensor | None, ...], divisors: tuple[Tensor | None, ...]) -> float:
    """The one number by which queries, keys or their products are multiplied."""
    given = [c for c in (*factors, *divisors) if c is not None]
    require_finite(*given)
    divisor = math.prod(c.scalar for c in divisors if c is not None)
    require(divisor != 0, "the scores are divided by zero")
    scale = math.prod(c.scalar for c in factors if c is not None) / divisor
    require(np.float32(scale) > 0 and np.isfinite(np.float32(scale)), "the scale is not positive")
    return scale


def _require_kernel(q: Tensor, keys: list[int | Dim | None], v: Tensor) -> None:
    for axis in range(q.rank - 2):
        same = q.shape[axis] is not None and q.shape[axis] == keys[axis] == v.shape[axis]
        require(same, "batch or heads of queries, keys and values may differ")
    require(not any(d == 0 for d in (*q.shape, *keys, *v.shape)), "an operand is empty")
    fixed = [q.shape[-1], v.shape[-1], *q.shape[1:-2]]
    require(all(isinstance(d, int) for d in fixed), "the number of heads or their size is not known")


def _require_mask(mask: Tensor, q: Tensor, keys: list[int | Dim | None]) -> None:
    shape, scores = mask.shape, (*q.shape[:-1], keys[-2])
    require(2 <= len(shape) <= len(scores), "the mask has another rank than the scores")
    lead, theirs = shape[:-2], scores[-len(shape) : -2]
    require(all(d is not None for d in shape), "the shape of the mask is not known")
    require(shape[-2:] == scores[-2:], "the mask is broadcast along queries or keys")
    require(all(d in (1, t) for d, t in zip(lead, theirs, strict=True)), "the mask raises the size of the scores")
    require(q.rank == 4 or all(d == 1 for d in lead), "the mask differs between batches without heads")


# -- heads ----------------------------------------------------------------------------------------


def _split_and_joined(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, q_size: Tensor, k_size: Tensor, v_size: Tensor,
    size: Tensor, q_heads: Node, k_heads: Node, v_heads: Node, node: Node,
) -> Tensor:  # fmt: skip
    queries = op.Transpose(q_heads.bind(op.Reshape(q, q_size, ...)), perm=_SPLIT)
    keys = op.Transpose(k_heads.bind(op.Reshape(k, k_size, ...)), perm=_SPLIT)
    values = op.Transpose(v_heads.bind(op.Reshape(v, v_size, ...)), perm=_SPLIT)
    y = node.bind(op.Attention(queries, keys, values, mask, ...))
    return op.Reshape(op.Transpose(y, perm=_SPLIT), size, ...)


@rule(_split_and_joined, shapes={"q": "B S E", "k": "B T E", "v": "B T E"})
def attention_heads(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, q_size: Tensor, k_size: Tensor, v_size: Tensor,
    size: Tensor, q_heads: Node, k_heads: Node, v_heads: Node, node: Node,
) -> Tensor:  # fmt: skip
    """Attention on operands of three axes splits them into heads, and joins the heads, by itself."""
    del q_size, k_size, v_size, size  # the shapes that they ask for are checked instead
    queries, keys, values = _heads(q, q_heads), _heads(k, k_heads), _heads(v, v_heads)
    require(keys == values, "keys and values have different numbers of heads")
    return again(node, q, k, v, mask, q_num_heads=queries, kv_num_heads=keys)


def _heads(x: Tensor, reshape: Node) -> int:
    """Into how many heads a Reshape splits the last axis of x and nothing else."""
    shape, split = x.shape, reshape.outputs[0].shape
    require(len(shape) == 3 and split is not None and len(split) == 4, "the operands do not have three axes")
    assert split is not None
    heads, width, whole = split[2], split[3], shape[2]
    require(None not in shape[:2] and shape[:2] == split[:2], "the Reshape may change batch or sequence")
    if not isinstance(heads, int) or not isinstance(width, int):
        raise Decline("the number of heads or their size is not known")
    require(heads * width == whole, "the Reshape does not split the last axis alone")
    return heads
