"""Rotary position embeddings that exporters wrote out: pairs of elements, turned by an angle for each place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt_passes.fuse.angles import once, per_token
from graphopt_passes.fuse.pairs import pair as _pair
from graphopt_passes.fuse.pairs import span
from graphopt_passes.fuse.pairs import stacked as _stacked

from graphopt import Accuracy, Context, DType, Node, Rewrite, Value, require

REWRITES = {
    "rotary": "Pairs of elements, turned by an angle for each place of a sequence, are RotaryEmbedding.",
    "rotary_part": "A RotaryEmbedding of the first elements, joined with the others, takes them by itself.",
}


@dataclass(frozen=True)
class Turned:
    """A rotation: of which values, by which cosines and sines, and whether these stand there once for each pair."""

    x: Value
    cos: Value
    sin: Value
    interleaved: bool
    single: bool
    inner: tuple[Value, ...] = ()


def fuse_rotary(ctx: Context) -> None:
    """Make RotaryEmbedding of sums and differences of products that turn pairs of elements."""
    if ctx.accuracy < Accuracy.CLOSE:
        return  # the operator may round product and sum at once
    for graph in list(ctx.model.graphs()):
        for node in list(graph.find("Add", "Concat", "Reshape")):
            if not node.alive or not node.is_standard:
                continue
            turned = _turned(node)
            if turned is not None:
                with ctx.rewrite("fuse.rotary", at=node) as rewrite:
                    _fuse(rewrite, node, turned)
        for node in list(graph.find("Concat")):
            part = _rotated_part(node) if node.alive and node.is_standard else None
            if part is not None:
                with ctx.rewrite("fuse.rotary_part", at=node) as rewrite:
                    x, embedding, width = part
                    attrs = {**embedding.attrs, "rotary_embedding_dim": width}
                    operands = [x, *embedding.inputs[1:]]
                    rewrite.replace(node.outputs[0], rewrite.node("RotaryEmbedding", operands, attrs)[0])


def _fuse(rewrite: Rewrite, node: Node, turned: Turned) -> None:
    x, shape = turned.x, turned.x.shape
    require(shape is not None and len(shape) == 4, "the operand does not have four axes")
    assert shape is not None
    require(x.dtype in (DType.FLOAT, DType.FLOAT16), "there is no kernel for this dtype")
    require(isinstance(shape[1], int) and isinstance(shape[3], int) and shape[3] % 2 == 0, "the heads are not known")
    require(None not in shape and 0 not in shape, "an operand is empty, or its shape not known")
    others = [v for v in turned.inner if v.is_output or any(r != node and not _within(r, turned) for r, _ in v.uses())]
    require(not others, "an interior value has other readers")
    makers = [v.producer for v in turned.inner]
    require(all(m is None or m.graph == node.graph for m in makers), "a part stands outside of the body")
    angles = []
    for value in (turned.cos, turned.sin):
        half = value if turned.single else once(rewrite, value, turned.interleaved)
        require(half is not None, "the two elements of a pair may be turned by different angles")
        assert half is not None
        require((half.shape or (None,))[-1] == shape[3] // 2, "several pairs are turned by the same angle")
        angles.append(per_token(rewrite, half, value, x, node))
    attrs = {"interleaved": 1} if turned.interleaved else None
    rewrite.replace(node.outputs[0], rewrite.node("RotaryEmbedding", [x, *angles], attrs)[0])


def _within(reader: Node, turned: Turned) -> bool:
    return any(v in turned.inner for v in reader.outputs)


def _turned(node: Node) -> Turned | None:
    if node.op == "Add":
        return _sum(node)
    if node.op == "Concat" and len(node.inputs) == 2 and _is_last(node):
        return _parts(node.inputs[0], node.inputs[1], interleaved=False)
    if node.op == "Reshape":
        pair = _stacked(node.outputs[0])
        turned = None if pair is None else _parts(*pair, interleaved=True)
        return None if turned is None else replace(turned, inner=(*turned.inner, *_stack(node)))
    return None


def _stack(merge: Node) -> list[Value]:
    """The values between a Reshape and the two that it puts together in turn."""
    joined = merge.inputs[0]
    parts = () if joined is None or joined.producer is None else joined.producer.inputs
    return [v for v in (joined, *parts) if v is not None]


def _sum(node: Node) -> Turned | None:
    """x · cos + quarter turn of x · sin."""
    a, b = (_factors(v) for v in node.inputs)
    for straight, across in ((a, b), (b, a)):
        for turn, sin in _orders(across):
            for interleaved in (False, True):
                x = _quarter(turn, interleaved)
                for same, cos in _orders(straight):
                    if x is not None and same == x[0] and cos is not None and sin is not None:
                        inner = (*(v for v in node.inputs if v is not None), *x[1])
                        return Turned(x[0], cos, sin, interleaved, False, inner)
    return None


def _quarter(value: Value | None, interleaved: bool) -> tuple[Value, tuple[Value, ...]] | None:
    """x, of which the first of each pair is the negated second, and the second the first."""
    if value is None:
        return None
    if interleaved:
        pair = _stacked(value)
    else:
        node = value.producer
        joins = node is not None and node.op == "Concat" and len(node.inputs) == 2 and _is_last(node)
        pair = (node.inputs[0], node.inputs[1]) if node is not None and joins else None
    if pair is None or pair[0] is None:
        return None
    negated = pair[0].producer
    if negated is None or negated.op != "Neg" or not negated.is_standard:
        return None
    x = _pair(pair[1], negated.inputs[0], interleaved)
    return None if x is None else (x, (value,))


def _parts(first: Value | None, second: Value | None, *, interleaved: bool) -> Turned | None:
    """a · cos - b · sin and b · cos + a · sin, of pairs (a, b)."""
    minus, plus = (None if v is None else v.producer for v in (first, second))
    if minus is None or plus is None or minus.op != "Sub" or plus.op != "Add":
        return None
    for a, cos in _orders(_factors(minus.inputs[0])):
        for b, sin in _orders(_factors(minus.inputs[1])):
            x = _pair(a, b, interleaved)
            if x is None or cos is None or sin is None:
                continue
            products = [set(_factors(v) or ()) for v in plus.inputs]
            if {b, cos} in products and {a, sin} in products:
                inner = [v for v in (first, second, *minus.inputs, *plus.inputs) if v is not None]
                return Turned(x, cos, sin, interleaved, True, tuple(inner))
    return None


def _factors(value: Value | None) -> tuple[Value | None, ...] | None:
    node = None if value is None else value.producer
    return node.inputs if node is not None and node.op == "Mul" and node.is_standard else None


def _orders(factors: tuple[Value | None, ...] | None) -> list[tuple[Value | None, Value | None]]:
    return [] if factors is None else [(factors[0], factors[1]), (factors[1], factors[0])]


def _is_last(node: Node) -> bool:
    rank = node.outputs[0].rank
    return node.is_standard and rank is not None and node.attr("axis") in (-1, rank - 1)


def _rotated_part(node: Node) -> tuple[Value, Node, int] | None:
    """The tensor whose first elements a RotaryEmbedding turns, if a Concat joins them with the others."""
    if len(node.inputs) != 2 or not _is_last(node) or node.inputs[0] is None or node.inputs[0].use_count != 1:
        return None
    embedding = node.inputs[0].producer
    if embedding is None or embedding.op != "RotaryEmbedding" or not embedding.is_standard:
        return None
    if embedding.attr("rotary_embedding_dim", 0) or embedding.inputs[0] is None or embedding.inputs[0].rank != 4:
        return None
    first, rest = span(embedding.inputs[0]), span(node.inputs[1])
    if first is None or rest is None or first[0] != rest[0] or first[3] != 1 or rest[3] != 1:
        return None
    whole = (first[0].shape or (None,))[-1]
    fits = first[1] == 0 and first[2] == rest[1] and rest[2] == whole
    return (first[0], embedding, first[2]) if fits else None
