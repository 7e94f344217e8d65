"""Arithmetic on sizes: what shapes determine is a constant, and what is equal is computed once.

Chains such as Shape → Gather → Mul → Concat are known element by element, as numbers or as polynomials in
the model's dynamic sizes. So this looks at values and not at the operators that make them.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from graphopt_passes.simplify.reading import fixed

from graphopt import Context, DType, Node, Value

_INTEGERS = (DType.INT64, DType.INT32)
_NAMES = ("Constant", "Identity")  # their results are no computations


def fix_sizes(ctx: Context) -> None:
    """Replace by constants the integers that shapes determine, where something else reads them."""
    for graph in list(ctx.model.graphs()):
        for node in graph.nodes:
            if node.op in _NAMES:
                continue
            for value in node.outputs:
                found = _elements(value)
                if found is not None and not value.is_const and _is_read_by_others(value):
                    _replace(ctx, "fixed_size", node, value, found)


def share_sizes(ctx: Context) -> None:
    """Compute small integer tensors with equal elements once, from whichever tensors their sizes come."""
    for graph in list(ctx.model.graphs()):
        seen: dict[Hashable, Value] = {}
        for node in graph.nodes:
            for value in node.outputs:
                if value.dtype not in _INTEGERS or value.is_const or not value.use_count:
                    continue
                elements = value.symbolic
                if elements is None or fixed(value) is not None:
                    continue
                key = (value.dtype, value.shape, elements)
                first = seen.get(key)
                if first is None or not first.alive:  # one that was computed for a value replaced since is gone
                    seen[key] = value
                elif not value.is_output:
                    _replace(ctx, "same_size", node, value, first)


def _elements(value: Value) -> np.ndarray | None:
    """The content that shapes give an integer tensor, if they determine all of it."""
    dtype = value.dtype
    shape = value.shape if dtype in _INTEGERS else None
    if shape is None:
        return None
    found = fixed(value)
    if found is None:
        return None
    return np.array(found, np.int64 if dtype == DType.INT64 else np.int32).reshape([len(found)] * len(shape))


def _is_read_by_others(value: Value) -> bool:
    """Whether a reader will stay once all that shapes determine is constant."""
    return value.is_output or any(
        reader.op in _NAMES or reader.bodies or any(_elements(o) is None for o in reader.outputs)
        for reader, _ in value.uses()
    )


def _replace(ctx: Context, name: str, node: Node, old: Value, new: Value | np.ndarray) -> None:
    with ctx.rewrite(f"simplify.{name}", at=node) as rewrite:
        rewrite.replace(old, rewrite.constant(new, old.name) if isinstance(new, np.ndarray) else new)
