"""What stands around the operator Attention, and what it does by itself."""

from __future__ import annotations

from graphopt_passes.fuse.again import again

from graphopt import Decline, Node, Tensor, op, require, rule

_SPLIT = (0, 2, 1, 3)


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
    queries, keys, values = heads_of(q, q_heads), heads_of(k, k_heads), heads_of(v, v_heads)
    require(keys == values, "keys and values have different numbers of heads")
    return again(node, q, k, v, mask, q_num_heads=queries, kv_num_heads=keys)


def heads_of(x: Tensor, reshape: Node) -> int:
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
