"""The shape that Attention takes a mask in: one axis for queries and one for keys, of full size both."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.fuse.scores import Sizes

from graphopt import Node, Rewrite, Value, require

LARGEST = 1 << 22  # elements of a constant mask that is written out


def aligned(rewrite: Rewrite, value: Value, shape: Sizes, wanted: Sizes) -> Value:
    """A mask that broadcasts with scores of `shape`, as one that does so with the same scores of shape `wanted`."""
    sizes = known(value)
    if len(shape) == len(wanted) or len(sizes) <= 2:
        return value
    if len(shape) == len(wanted) + 1 and shape[0] == 1 and shape[1:-2] == wanted[:-2]:
        return _reshaped(rewrite, value, sizes[1:]) if len(sizes) == len(shape) else value
    require(len(shape) == 3 and len(wanted) == 4 and len(sizes) == 3, "the mask is for scores of another shape")
    if sizes[0] == 1:
        return value
    node = value.producer
    origin = node.inputs[0] if node is not None and node.op == "Reshape" and node.is_standard else None
    before = None if origin is None else origin.shape
    if origin is not None and before is not None and (*before[:-2], *before[-2:]) == (*wanted[:2], *sizes[-2:]):
        return origin
    return _reshaped(rewrite, value, (*wanted[:2], *sizes[-2:]))


def fitted(rewrite: Rewrite, value: Value, wanted: Sizes, node: Node, queries: Value, values: Value) -> Value:
    """The mask for scores of shape `wanted`, repeated along queries and keys if it is broadcast there.

    `queries` and `values`: tensors of which the last axis but one is that of the queries and keys.
    """
    sizes = known(value)
    ends = (1, 1, *sizes)[-2:]
    lead, theirs = sizes[:-2], wanted[:-2]
    require(len(lead) <= len(theirs), "the mask has another rank than the scores")
    same = all(a in (1, b) for a, b in zip(lead, theirs[len(theirs) - len(lead) :], strict=True))
    require(same, "the mask raises the size of the scores")
    require(len(theirs) == 2 or all(d == 1 for d in lead), "the mask differs between batches without heads")
    same = all(a in (1, b) for a, b in zip(ends, wanted[-2:], strict=True))
    require(same, "the mask raises the size of the scores")
    if len(sizes) >= 2 and ends == wanted[-2:]:
        return value
    full = (*lead, *wanted[-2:])
    for reader, _ in value.uses():
        if reader.op == "Expand" and reader.graph == node.graph and reader.outputs[0].shape == full:
            return reader.outputs[0]
    return _repeated(rewrite, value, full, ends, (queries, values))


def known(value: Value) -> Sizes:
    """The shape of a mask; declines the rewrite if a part of it is not known."""
    sizes = value.shape
    require(sizes is not None and None not in sizes, "the shape of the mask is not known")
    assert sizes is not None
    return sizes


def _reshaped(rewrite: Rewrite, value: Value, sizes: Sizes) -> Value:
    target = [s if isinstance(s, int) else -1 for s in sizes]
    require(target.count(-1) <= 1 and 0 not in target, "more than one size of the mask is not fixed")
    return rewrite.node("Reshape", [value, rewrite.constant(np.array(target), "shape")])[0]


def _repeated(rewrite: Rewrite, value: Value, full: Sizes, ends: Sizes, sources: tuple[Value, Value]) -> Value:
    static = [s for s in full if isinstance(s, int)]
    if value.is_const and len(static) == len(full) and math.prod(static) <= LARGEST:
        array = np.broadcast_to(np.asarray(value.array()), static)
        return rewrite.constant(np.ascontiguousarray(array), "mask")
    parts = [1 if a == b else b for a, b in zip(ends, full[-2:], strict=True)]
    pieces = [rewrite.constant(np.ones(len(full) - 2, np.int64), "ones")] if len(full) > 2 else []
    for part, source in zip(parts, sources, strict=True):
        if isinstance(part, int):
            pieces.append(rewrite.constant(np.array([part]), "size"))
        else:
            axis = (source.rank or 0) - 2
            pieces.append(rewrite.node("Shape", [source], {"start": axis, "end": axis + 1})[0])
    if all(isinstance(p, int) for p in parts):
        target = rewrite.constant(np.array([*[1] * (len(full) - 2), *parts]), "shape")
    else:
        (target,) = rewrite.node("Concat", pieces, {"axis": 0})
    return rewrite.node("Expand", [value, target])[0]
