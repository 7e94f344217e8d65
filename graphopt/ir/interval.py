"""Between which bounds the elements of a value lie, as far as the operators that make it tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphopt.ir.value import Node, Value

Interval = tuple[float, float]
_EVERYTHING = (-math.inf, math.inf)
_MAX_DEPTH = 16  # operators that are looked back through

# What these give lies within the bounds, whatever they are given.
_ALWAYS: dict[str, Interval] = {
    "Abs": (0, math.inf), "Acos": (0, math.pi), "Asin": (-math.pi / 2, math.pi / 2), "Cos": (-1, 1),
    "Erf": (-1, 1), "Exp": (0, math.inf), "HardSigmoid": (0, 1), "Relu": (0, math.inf), "Shape": (0, math.inf),
    "Sigmoid": (0, 1), "Sign": (-1, 1), "Sin": (-1, 1), "Size": (0, math.inf), "Softmax": (0, 1),
    "Softplus": (0, math.inf), "Sqrt": (0, math.inf), "Tanh": (-1, 1),
}  # fmt: skip
# These give elements of their first operand, and no others.
_CHOOSES = frozenset(
    ["DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
     "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)  # fmt: skip
_CHOOSES_OF_ALL: dict[str, Callable[[list[Interval]], Interval]] = {
    "Concat": lambda found: (min(low for low, _ in found), max(high for _, high in found)),
    "Max": lambda found: (max(low for low, _ in found), max(high for _, high in found)),
    "Min": lambda found: (min(low for low, _ in found), min(high for _, high in found)),
}


def interval(value: Value) -> Interval:
    """Bounds of all elements that are not NaN; infinite where nothing is known, also of an empty tensor."""
    return _of(value, _MAX_DEPTH, {})


def _of(value: Value | None, depth: int, known: dict[Value, Interval]) -> Interval:
    if value is None:
        return _EVERYTHING
    if value not in known:  # each value once: there may be many ways back to it
        known[value] = _of_value(value, depth, known)
    return known[value]


def _of_value(value: Value, depth: int, known: dict[Value, Interval]) -> Interval:
    if value.is_const:
        return _of_constant(value)
    node = value.producer
    if node is None or not node.is_standard or depth == 0:
        return _of_dtype(value)
    if node.op == "Abs" and value.dtype is not None and value.dtype.is_integer():
        return _of_dtype(value)  # the least integer has no opposite: it is its own absolute value
    if node.op in _ALWAYS:
        return _ALWAYS[node.op]
    if node.op == "Clip":
        return _of_clip(node, depth, known)
    if node.op in _CHOOSES_OF_ALL:
        return _CHOOSES_OF_ALL[node.op]([_of(v, depth - 1, known) for v in node.inputs])
    return _of(node.inputs[0], depth - 1, known) if node.op in _CHOOSES else _of_dtype(value)


def _of_constant(value: Value) -> Interval:
    array = value.array()
    if array is None or array.size == 0 or array.dtype.kind not in "biuf":
        return _EVERYTHING
    numbers = array.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    return (float(known.min()), float(known.max())) if known.size else _EVERYTHING


def _of_dtype(value: Value) -> Interval:
    dtype = value.dtype
    unsigned = dtype is not None and dtype.is_integer() and not dtype.is_signed()
    return (0.0, math.inf) if unsigned else _EVERYTHING


def _of_clip(node: Node, depth: int, known: dict[Value, Interval]) -> Interval:
    low, high = _of(node.inputs[0], depth - 1, known)
    least = most = _EVERYTHING  # what the bounds themselves lie between
    if node.version < 11:
        least, most = ((x, x) for x in (float(node.attr("min", -math.inf)), float(node.attr("max", math.inf))))
    else:
        bounds = [*node.inputs[1:], None, None]
        least = (-math.inf, -math.inf) if bounds[0] is None else _of(bounds[0], depth - 1, known)
        most = (math.inf, math.inf) if bounds[1] is None else _of(bounds[1], depth - 1, known)
    return min(max(low, least[0]), most[0]), min(max(high, least[1]), most[1])
