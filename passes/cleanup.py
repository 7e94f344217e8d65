"""Removing what does nothing: dead nodes, identities, constants and computations that are there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt import Context, Node, Pass, Rule, Tensor, Value, op, rule

# Nobody may merge two of these: they give other numbers at each call.
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"]
)
# Bit for bit: Max and Min of 0 and -0 may give the first of them, and a Sum of three depends on their order.
_COMMUTATIVE = frozenset(["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"])


@rule(lambda x: op.Identity(x), accuracy="exact", single_use=False)
def identity(x: Tensor) -> Tensor:
    """An Identity passes its input on."""
    return x


@dataclass(frozen=True)
class Cleanup(Pass):
    """Remove dead nodes, identities, duplicate constants and computations that are done twice."""

    name = "cleanup"
    rewrites: ClassVar[Mapping[str, str]] = {
        "cleanup.dead": "What nobody reads is not computed.",
        "cleanup.constant": "A Constant node is an initializer, which costs no node and can be shared.",
        "cleanup.duplicate_constant": "Equal constants are one.",
        "cleanup.common_subexpression": "The same operator on the same operands is computed once.",
    }

    @classmethod
    def rules(cls) -> tuple[Rule[Any], ...]:
        return (identity,)

    def run(self, ctx: Context) -> None:
        remove_dead(ctx)
        merge_constants(ctx)
        lift_constants(ctx)
        ctx.apply(self.rules(), self.name)
        merge_nodes(ctx)


def remove_dead(ctx: Context) -> None:
    """Remove nodes whose outputs nobody reads, initializers that nobody reads, functions that nobody calls."""
    for graph in list(ctx.model.graphs()):
        ctx.remove_dead("cleanup.dead", graph.unread())
        for value in graph.initializers:
            if not value.use_count and not value.is_input:
                ctx.edit.drop_initializer(value)
    ctx.edit.drop_unused_functions()


def lift_constants(ctx: Context) -> None:
    """Make initializers of Constant nodes, so that they can be shared and cost no node.

    In a function's body they stay, for it cannot hold initializers; so does one that is a graph output.
    """
    for graph in list(ctx.model.graphs()):
        if graph.is_function:
            continue
        for node in graph.find("Constant"):
            if not node.is_standard:
                continue
            value = node.outputs[0]
            tensor = value.tensor
            if tensor is None or value.is_output:
                continue
            with ctx.rewrite("cleanup.constant", at=node) as rewrite:
                rewrite.replace(value, rewrite.constant(tensor, value.name))


def merge_constants(ctx: Context) -> None:
    """Let readers of equal constants of one graph share one of them, an initializer where there is one."""
    for graph in list(ctx.model.graphs()):
        constants = [] if graph.is_function else list(graph.initializers)
        constants += [n.outputs[0] for n in graph.find("Constant")]
        for first, *others in _equal_groups([v for v in constants if _may_merge(v)]):
            reader = next(node for node, _ in others[0].uses())
            with ctx.rewrite("cleanup.duplicate_constant", at=reader) as rewrite:
                for other in others:
                    rewrite.replace(other, first)


def _may_merge(value: Value) -> bool:
    return value.is_const and not value.is_output and bool(value.uses())


def _equal_groups(values: list[Value]) -> Iterator[list[Value]]:
    """Groups of two or more constants with the same dtype, shape and bytes.

    Tensors of the same type are told apart by a few bytes first, so that distinct weights are hardly read.
    """
    groups = [values]
    for key in (_type_key, _sample_key, _content_key):
        groups = [g for group in groups for g in _split(group, key) if len(g) > 1]
    yield from groups


def _split(values: list[Value], key: Any) -> list[list[Value]]:
    found: dict[Hashable, list[Value]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return list(found.values())


def _type_key(value: Value) -> Hashable:
    tensor = value.tensor
    return tensor.dtype, tuple(tensor.shape)


def _sample_key(value: Value) -> Hashable:
    return value.sample


def _content_key(value: Value) -> Hashable:
    array = value.array()
    assert array is not None
    if array.dtype.kind == "O":
        return tuple(array.reshape(-1).tolist())
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def merge_nodes(ctx: Context) -> None:
    """Compute equal expressions once: same operator, attributes (defaults filled in) and operands.

    Operands of commutative operators count as a set. Random operators, those with bodies and those
    of other domains, of whose effects nothing is known, are left alone.
    """
    for graph in list(ctx.model.graphs()):
        alike: dict[Hashable, Node] = {}  # by operator and operands: attributes are looked at where these agree
        seen: dict[Hashable, Node] = {}
        for node in graph.nodes:
            rough = _rough_key(node)
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
            if first != node:
                _merge(ctx, first, node)


def _merge(ctx: Context, first: Node, node: Node) -> None:
    with ctx.rewrite("cleanup.common_subexpression", at=node, same_type=False) as rewrite:
        for kept, dropped in zip(first.outputs, node.outputs, strict=True):
            rewrite.replace(dropped, kept)


def _rough_key(node: Node) -> Hashable | None:
    """Operator and operands; None for nodes that must not be merged."""
    op = node.op
    if op in _RANDOM or op in ("Identity", "Constant") or node.domain:
        return None
    inputs: Hashable = node.inputs
    if op in _COMMUTATIVE:
        inputs = frozenset(Counter(node.inputs).items())
    return op, inputs


def _node_key(rough: Hashable, node: Node) -> Hashable | None:
    """All that determines what a node computes; None if that cannot be compared."""
    if not node.is_standard or node.bodies:
        return None
    attrs = tuple(sorted((name, _frozen(value)) for name, value in node.effective_attrs.items()))
    if any(value is None for _, value in attrs):
        return None
    return rough, attrs, tuple(bool(o.name) for o in node.outputs)


def _frozen(value: Any) -> Hashable | None:
    """An attribute as a key; None for one that cannot be compared (a graph, a reference, a tensor)."""
    if isinstance(value, float):
        return "float", value.hex()  # tells 0 and -0 apart, and finds NaN equal to itself
    if isinstance(value, int | str | bytes):
        return type(value).__name__, value
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return None
