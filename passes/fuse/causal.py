"""Recognizing a mask that lets every query see the keys up to its own place, and no later ones."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.fuse.scores import Mask, Sizes, far, number

from graphopt import Node, Value

_MOVES = ("Unsqueeze", "Squeeze", "Expand", "Reshape")


def is_causal(mask: Mask, shape: Sizes, *, fast: bool) -> bool:
    """Whether the mask does what `is_causal` of Attention does to scores of `shape`: there, hidden is hidden.

    `fast`: whether infinite scores need not be thought of; they shine through a mask that is added.
    """
    queries, keys = shape[-2:]
    if queries is None or queries != keys:
        return False  # the first key belongs to the first query, but not the last to the last
    if mask.seen is not None:
        hidden = number(mask.value)
        assert hidden is not None
        return fast and hidden <= far(mask.value) and _triangle(mask.seen, not mask.negated, queries)
    low, high = mask.value.range
    least = far(mask.value, fast=fast)
    return high == 0 and low <= least and _adds_triangle(mask.value, queries, least)


def _adds_triangle(value: Value, size: object, far: float) -> bool:
    """Whether a value is 0 up to the diagonal, and very far below 0 beyond it."""
    if value.is_const:
        array = np.asarray(value.array(), dtype=np.float64)
        square = array.ndim >= 2 and array.shape[-1] == array.shape[-2] == size
        return square and _same(array == 0, True) and bool((array[~_lower(array.shape)] <= far).all())
    node = value.producer
    if node is None or not node.is_standard:
        return False
    if node.op == "Trilu":  # of a tensor that is filled with one number
        low, high = value.range if node.inputs[0] is None else node.inputs[0].range
        return low == high and low <= far and _upper(node, 1) and _square(value, size)
    if node.op in _MOVES and node.inputs[0] is not None and _square(value, size) and _square(node.inputs[0], size):
        return _adds_triangle(node.inputs[0], size, far)
    if node.op == "Where" and _square(value, size):
        seen, a, b = node.inputs
        if seen is None:
            return False
        a_range, b_range = _constant(a), _constant(b)
        if a_range == 0 and b_range is not None and b_range <= far:
            return _triangle(seen, True, size)
        return b_range == 0 and a_range is not None and a_range <= far and _triangle(seen, False, size)
    return False


def _triangle(value: Value, lower: bool, size: object) -> bool:
    """Whether a condition is true up to the diagonal and false beyond it; with `lower` false, the other way round."""
    if _corner(value, lower, size):
        return True
    if not _square(value, size):
        return False
    if value.is_const:
        return _same(np.asarray(value.array(), dtype=bool), lower)
    node = value.producer
    if node is None or not node.is_standard or node.inputs[0] is None:
        return False
    source = node.inputs[0]
    if node.op == "Not":
        return _triangle(source, not lower, size)
    if node.op == "Trilu" and _constant(source) in (1.0, True):
        return _upper(node, 1) if not lower else _lower_of(node)
    if node.op == "Equal" and number(node.inputs[1]) == 0:
        return _triangle(source, not lower, size)
    if node.op == "Cast" and value.dtype is not None:
        return _triangle(source, lower, size)
    return node.op in _MOVES and _square(source, size) and _triangle(source, lower, size)


def _corner(value: Value | None, lower: bool, size: object) -> bool:
    """Whether a value holds the first `size` rows and columns of a constant triangle.

    They are as many as asked for, or fewer, which do not broadcast unless there is one only.
    """
    cut: dict[int, object] = {}
    while value is not None and (made := value.producer) is not None and made.is_standard:
        if made.op == "Not" or (made.op == "Equal" and number(made.inputs[1]) == 0):
            lower = not lower
        elif made.op != "Slice" or (found := _first(made)) is None:
            return False
        else:
            cut.update(found)
        value = made.inputs[0]
    rank = None if value is None else value.rank
    if value is None or not value.is_const or rank is None or rank < 2 or cut != {rank - 2: size, rank - 1: size}:
        return False
    array = np.asarray(value.array())
    square = array.shape[-1] == array.shape[-2] > 1
    return square and set(np.unique(array).tolist()) <= {0, 1} and _same(array != 0, lower)


def _first(node: Node) -> dict[int, object] | None:
    """The number of first elements that a Slice takes of each axis; None if it takes others."""
    given = [None if v is None else v.symbolic for v in (*node.inputs[1:], None, None)][:4]
    starts, ends, axes, steps = given
    rank = node.outputs[0].rank
    if starts is None or ends is None or rank is None:
        return None
    if any(s != 0 for s in starts) or any(s != 1 for s in steps or ()):
        return None
    if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:
        return None
    places = tuple(range(len(ends))) if len(node.inputs) < 4 or node.inputs[3] is None else axes
    if places is None or not all(isinstance(a, int) for a in places):
        return None
    return {int(a) % rank: end for a, end in zip(places, ends, strict=True) if isinstance(a, int)}


def _square(value: Value, size: object) -> bool:
    shape = value.shape
    return shape is not None and len(shape) >= 2 and shape[-2] == shape[-1] == size


def _lower(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.tri(shape[-2], shape[-1], dtype=bool), shape)


def _same(array: np.ndarray, lower: bool) -> bool:
    return array.size > 0 and bool((array == (_lower(array.shape) == lower)).all())


def _constant(value: Value | None) -> float | None:
    """The one number that a value consists of, be it a constant or not."""
    if value is None:
        return None
    low, high = value.range
    return low if low == high and math.isfinite(low) else number(value)


def _upper(node: Node, diagonal: int) -> bool:
    return node.attr("upper", 1) == 1 and _diagonal(node) == diagonal


def _lower_of(node: Node) -> bool:
    return node.attr("upper", 1) == 0 and _diagonal(node) == 0


def _diagonal(node: Node) -> int | None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return 0
    found = number(node.inputs[1])
    return None if found is None else int(found)
