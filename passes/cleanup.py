"""Removing what does nothing: dead nodes, identities, constants and computations that are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.equal import merge_nodes

from graphopt import Context, Pass, Rule, Tensor, Value, op, rule


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
        ctx.edit.drop_unread(graph.initializers)
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
    known: set[Value] = ctx.shared.setdefault("cleanup.duplicate_constant", set())  # that were compared with each other
    for graph in list(ctx.model.graphs()):
        constants = [] if graph.is_function else list(graph.initializers)
        constants += [n.outputs[0] for n in graph.find("Constant")]
        constants = [v for v in constants if _may_merge(v, ctx.target.apart)]
        alike = [group for group in _split(constants, _type_key) if not known.issuperset(group)]
        known.update(constants)
        for first, *others in _equal_groups(alike):
            reader = next(node for node, _ in others[0].uses())
            with ctx.rewrite("cleanup.duplicate_constant", at=reader) as rewrite:
                for other in others:
                    rewrite.replace(other, first)
            known.difference_update(v for v in (first, *others) if others[0].use_count)  # declined: may do later


def _may_merge(value: Value, apart: frozenset[str]) -> bool:
    """`apart`: operators whose constants stay their own, for the target wants it so."""
    if not value.is_const or value.is_output or not value.use_count:
        return False
    return not apart or not any(node.op in apart for node, _ in value.uses())


def _equal_groups(groups: list[list[Value]]) -> Iterator[list[Value]]:
    """Groups of two or more constants with the same bytes; `groups`: those with the same dtype and shape.

    They are told apart by a few bytes first, so that distinct weights are hardly read.
    """
    for key in (_sample_key, _content_key):
        groups = [g for group in groups for g in _split(group, key) if len(g) > 1]
    yield from groups


def _split(values: list[Value], key: Any) -> list[list[Value]]:
    found: dict[Hashable, list[Value]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return list(found.values())


def _type_key(value: Value) -> Hashable:
    tensor = value.tensor
    return tensor.dtype, tensor.shape.numpy()


def _sample_key(value: Value) -> Hashable:
    return value.sample


def _content_key(value: Value) -> Hashable:
    array = value.content()
    if array.dtype.kind == "O":
        return tuple(array.reshape(-1).tolist())
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()
