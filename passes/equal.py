"""Expressions that are computed twice: the same operator with the same attributes on the same operands.

Attributes that are left out count as their defaults, axes as counted from the front, and operands of commutative
operators as a set. What a body of If, Loop or Scan computes again is read from outside, where that is computed anyway.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Hashable, MutableMapping
from typing import Any

from graphopt import Context, Graph, Node, Value

# Nobody may merge two of these: they give other numbers at each call.
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"]
)
# Bit for bit: Max and Min of 0 and -0 may give the first of them, and a Sum of three depends on their order.
_COMMUTATIVE = frozenset(["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"])
_EXCHANGED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}  # the same with the operands exchanged
_WITH_BODIES = frozenset(["If", "Loop", "Scan", "SequenceMap"])
_ALONG = frozenset([  # their axis counts the axes of the first operand
    "ArgMax", "ArgMin", "Concat", "Gather", "GatherElements", "Hardmax", "LayerNormalization", "LogSoftmax",
    "LpNormalization", "ScatterElements", "Softmax", "Split", "TopK",
])  # fmt: skip
_WINDOWS = frozenset(["AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"])

_Table = MutableMapping[Hashable, Node]


def merge_nodes(ctx: Context) -> None:
    """Compute equal expressions once. Random operators, those with bodies and those of other domains are left alone."""
    done: set[Graph] = set()
    for graph in list(ctx.model.graphs()):
        if graph not in done:
            _merge_within(ctx, graph, {}, {}, done)


def _merge_within(ctx: Context, graph: Graph, alike: _Table, seen: _Table, done: set[Graph]) -> None:
    """Merge nodes of a graph with each other and with those in the tables, which are there before it is run.

    `alike`: nodes by operator and operands; attributes are looked at where these agree.
    """
    done.add(graph)
    for node in graph.nodes:
        if node.op in _WITH_BODIES:
            for body in node.bodies:
                _merge_within(ctx, body, _inner(alike), _inner(seen), done)
            continue
        rough = None if _stays_apart(ctx, node) else _rough_key(node)
        if rough is None:
            continue
        other = alike.setdefault(rough, node)
        if other == node:
            continue
        keys = _node_key(rough, other), _node_key(rough, node)
        if keys[0] is None or keys[1] is None:
            continue
        seen.setdefault(keys[0], other)
        first = seen.setdefault(keys[1], node)
        if first != node and (first.graph == graph or not any(o.is_output for o in node.outputs)):
            _merge(ctx, first, node)


def _inner(table: _Table) -> _Table:
    """A table for a body, which also knows what is outside."""
    return ChainMap({}, *table.maps) if isinstance(table, ChainMap) else ChainMap({}, table)


def _merge(ctx: Context, first: Node, node: Node) -> None:
    with ctx.rewrite("cleanup.common_subexpression", at=node, same_type=False) as rewrite:
        for kept, dropped in zip(first.outputs, node.outputs, strict=True):
            rewrite.replace(dropped, kept)


def _stays_apart(ctx: Context, node: Node) -> bool:
    """Whether the target wants this operator on constants once for each of its readers."""
    return node.op in ctx.target.apart and all(v is None or v.is_const for v in node.inputs)


def _rough_key(node: Node) -> Hashable | None:
    """Operator and operands; None for nodes that must not be merged."""
    op = node.op
    if op in _RANDOM or op in ("Identity", "Constant") or node.domain:
        return None
    inputs: Hashable = node.inputs
    if op in _COMMUTATIVE:
        inputs = frozenset(Counter(node.inputs).items())
    elif op in _EXCHANGED:
        return _EXCHANGED[op], node.inputs[::-1]
    return op, inputs


def _node_key(rough: Hashable, node: Node) -> Hashable | None:
    """All that determines what a node computes; None if that cannot be compared."""
    if not node.is_standard or node.bodies:
        return None
    attrs = tuple(sorted((name, _frozen(value)) for name, value in _spelled_out(node).items()))
    if any(value is None for _, value in attrs):
        return None
    return rough, attrs, tuple(bool(o.name) for o in node.outputs)


def _spelled_out(node: Node) -> dict[str, Any]:
    """The attributes as if none had been left out, and each written in one way."""
    attrs = node.effective_attrs
    first = node.inputs[0] if node.inputs else None
    rank = None if first is None else first.rank
    if not rank:
        return attrs
    axis = attrs.get("axis")
    if node.op in _ALONG and isinstance(axis, int):
        attrs["axis"] = axis % rank
    if node.op == "Transpose":
        attrs.setdefault("perm", tuple(range(rank))[::-1])
    elif node.op in _WINDOWS and rank > 2:
        attrs.setdefault("strides", (1,) * (rank - 2))
        attrs.setdefault("dilations", (1,) * (rank - 2))
        if attrs.get("auto_pad", "NOTSET") == "NOTSET":
            attrs.setdefault("pads", (0,) * 2 * (rank - 2))
        if node.op == "Conv" and "kernel_shape" not in attrs:
            attrs["kernel_shape"] = _kernel(node.inputs[1])
    return {name: tuple(v) if isinstance(v, list) else v for name, v in attrs.items()}


def _kernel(weight: Value | None) -> tuple[Any, ...] | None:
    shape = None if weight is None else weight.shape
    return None if shape is None or not all(isinstance(s, int) for s in shape) else shape[2:]


def _frozen(value: Any) -> Hashable | None:
    """An attribute as a key; None for one that cannot be compared (a graph, a reference, a tensor)."""
    if isinstance(value, float):
        return "float", value.hex()  # tells 0 and -0 apart, and finds NaN equal to itself
    if isinstance(value, int | str | bytes):
        return type(value).__name__, value
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return None
