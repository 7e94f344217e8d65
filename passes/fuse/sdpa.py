"""Attention that exporters wrote out: a softmax over scores, and the product of its result with values.

The places are found from their softmax, and what stands before and behind it is read by `scores`, so that it does
not matter how it is written. `masks` makes the mask that the operator takes.
"""

from __future__ import annotations

from graphopt_passes.fuse.causal import is_causal
from graphopt_passes.fuse.mask_shape import fitted
from graphopt_passes.fuse.masks import Masks
from graphopt_passes.fuse.operands import Operands, operands, pending, queries_and_keys, repeated, require_kernel
from graphopt_passes.fuse.scores import Scores, finite_scale, scores_of
from graphopt_passes.fuse.weights import Weights, weights_of

from graphopt import Accuracy, Context, Dim, Node, Rewrite, Value, require

REWRITES = {
    "attention": "The softmax of scaled products of queries and keys, times the values, is Attention.",
    "attention_grouped": "Attention repeats heads of keys and values by itself, each so many times in a row.",
}
_SINCE = 23


def fuse_attention(ctx: Context) -> None:
    """Make Attention of every softmax that stands between two products of matrices."""
    if ctx.accuracy < Accuracy.CLOSE:
        return  # the operator scales queries and keys in another order, which rounds in another way
    for graph in list(ctx.model.graphs()):
        for softmax in list(graph.find("Softmax")):
            if not softmax.alive or not softmax.is_standard:
                continue
            weights, scores = weights_of(softmax.outputs[0]), scores_of(softmax.inputs[0])
            if weights is not None and scores is not None:
                node = weights.product
                with ctx.rewrite("fuse.attention", at=node, same_type=_is_known(node.outputs[0])) as rewrite:
                    _require_operator(node)
                    _fuse(rewrite, softmax, scores, weights, fast=ctx.accuracy >= Accuracy.FAST)
        for node in list(graph.find("Attention")):
            if node.alive and node.is_standard and len(node.inputs) in (3, 4):
                few = [repeated(v) for v in node.inputs[1:3] if v is not None]
                if len(few) == 2 and None not in few and len([o for o in node.outputs if o.use_count]) == 1:
                    with ctx.rewrite("fuse.attention_grouped", at=node) as rewrite:
                        _group(rewrite, node, few)


def _require_operator(node: Node) -> None:
    require(node.version >= _SINCE, f"Attention does not exist at opset {node.version} of the model; "
                                    f"it came with {_SINCE}")


def _group(rewrite: Rewrite, node: Node, few: list[Value | None]) -> None:
    q, k, v = node.inputs[0], *few
    assert q is not None and k is not None and v is not None and k.shape is not None and v.shape is not None
    heads = None if q.shape is None else q.shape[1]
    fits = isinstance(heads, int) and isinstance(k.shape[1], int) and heads % k.shape[1] == 0
    require(fits and k.shape[1] == v.shape[1] and node.outputs[0].use_count, "keys and values have different heads")
    attrs = {name: value for name, value in node.attrs.items() if name not in ("q_num_heads", "kv_num_heads")}
    (y,) = rewrite.node("Attention", [q, k, v, *node.inputs[3:]], attrs)
    rewrite.replace(node.outputs[0], y)


def _is_known(value: Value) -> bool:
    """Whether each size is fixed or named; an unnamed one comes of a mask, and is known from the operands."""
    return not any(isinstance(d, Dim) and d.is_anonymous for d in value.shape or ())


def _fuse(rewrite: Rewrite, softmax: Node, scores: Scores, weights: Weights, *, fast: bool) -> None:
    _require_last_axis(softmax)
    inner = (*scores.inner, softmax.outputs[0], *weights.inner)
    guard = 1 if weights.safe else 0  # IsNaN reads the probabilities, too
    used = [v for v in inner if v.is_output or v.use_count > (1 + guard if v == softmax.outputs[0] else 1)]
    require(not used, "an interior value has other readers")
    body = weights.product.graph
    inside = all(v.producer is not None and v.producer.graph == body for v in inner)
    require(inside, "a part stands outside of the body")
    require(fast or not weights.safe, "NaN is made zero, which Attention does only for rows without any key")
    q, k, factor = queries_and_keys(scores)
    require(not (pending(q) or pending(k[0])), "a constant is not computed yet")
    scale = finite_scale(scores.scale, factor)
    require(scale is not None, "the scale is not positive")
    given = operands(q, k, weights)
    require_kernel(given)
    causal = len(scores.masks) == 1 and is_causal(scores.masks[0], given.shape, fast=fast)
    mask = None
    if scores.masks and not causal:
        assert given.q.dtype is not None
        mask = Masks(rewrite, given.q.dtype, given.shape, safe=weights.safe, fast=fast).merged(scores.masks)
        mask = fitted(rewrite, mask, given.shape, weights.product, given.q, given.v)
    keys = given.k
    if given.order != tuple(range(len(given.order))):
        (keys,) = rewrite.node("Transpose", [keys], {"perm": list(given.order)})
    made = len(_new(mask, set())) + 1 + int(keys != given.k)
    gone = len(inner) + 1 + guard
    require(made <= gone or _has_heads(given), "the mask would take more operators than are saved")
    heads = 1 if given.q.rank == 3 else None
    attrs = {"scale": scale, "q_num_heads": heads, "kv_num_heads": heads, "is_causal": 1 if causal else None,
             "softcap": scores.cap or None}  # fmt: skip
    (y,) = rewrite.node("Attention", [given.q, keys, given.v, mask], attrs)
    rewrite.replace(given.result, y)


def _require_last_axis(softmax: Node) -> None:
    rank = softmax.outputs[0].rank
    axis = softmax.attr("axis", -1)
    require(rank is not None and softmax.version >= 13 and axis in (-1, rank - 1), "the softmax is not over the keys")


def _new(value: Value | None, found: set[Node]) -> set[Node]:
    """The nodes that were made for a value, and are not part of the model yet."""
    node = None if value is None else value.producer
    if node is not None and not node.alive and node not in found:
        found.add(node)
        for operand in node.inputs:
            _new(operand, found)
    return found


def _has_heads(given: Operands) -> bool:
    """Whether heads are split and joined all around, which Attention will do by itself."""
    readers = [node.op for node, _ in given.result.uses()]
    split = all(v.producer is not None and v.producer.op == "Transpose" for v in (given.q, given.v))
    return split and readers == ["Transpose"]
