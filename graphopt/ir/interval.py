"""Between which bounds the elements of a value lie, as far as the operators that make it tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.value import DType, Node, Value

Interval = tuple[float, float]
_EVERYTHING = (-math.inf, math.inf)
_MAX_DEPTH = 16  # operators that are looked back through
_STEPS: dict[DType, type[np.floating[Any]]] = {
    DType.FLOAT16: np.float16, DType.FLOAT: np.float32, DType.DOUBLE: np.float64,
}  # fmt: skip

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
_ARITHMETIC: dict[str, Callable[[Interval, Interval], Interval]] = {
    "Add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "Sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "Mul": lambda a, b: _bounds([x * y for x in a for y in b]),
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
    if node.op == "Where":
        return _CHOOSES_OF_ALL["Concat"]([_of(v, depth - 1, known) for v in node.inputs[1:]])
    if node.op == "Trilu":
        low, high = _of(node.inputs[0], depth - 1, known)
        return min(low, 0.0), max(high, 0.0)
    if node.op == "ConstantOfShape":
        return _of_filling(node)
    if node.op == "Cast":
        return _of_cast(value, node, depth, known)
    if node.op in _ARITHMETIC and value.dtype is not None and value.dtype.is_floating_point():
        a, b = (_of(v, depth - 1, known) for v in node.inputs)
        return _rounded(_ARITHMETIC[node.op](a, b), value)
    return _of(node.inputs[0], depth - 1, known) if node.op in _CHOOSES else _of_dtype(value)


def _of_filling(node: Node) -> Interval:
    filling = node.attr("value")
    if filling is None:
        return 0.0, 0.0
    array = np.asarray(filling.numpy()) if hasattr(filling, "numpy") else np.zeros(0)
    if array.size != 1 or array.dtype.kind not in "biuf" or np.isnan(array).any():
        return _EVERYTHING
    return _around(array, array)


def _of_cast(value: Value, node: Node, depth: int, known: dict[Value, Interval]) -> Interval:
    source = node.inputs[0]
    before = None if source is None else source.dtype
    if value.dtype is None or before is None or not value.dtype.is_floating_point():
        return _of_dtype(value)  # integers wrap around, and what is not zero is true
    found = (0.0, 1.0) if before == DType.BOOL else _of(source, depth - 1, known)
    return _rounded(found, value)


def _bounds(ends: list[float]) -> Interval:
    """The least and the largest of the products of ends; 0 · ∞ as an end stands for finite numbers times 0."""
    finite = [0.0 if math.isnan(x) else x for x in ends]
    return min(finite), max(finite)


def _rounded(found: Interval, value: Value) -> Interval:
    """Bounds of results rounded to the dtype of `value`: one step wider, unless the dtype has these numbers exactly."""
    if value.dtype not in _STEPS or any(math.isnan(x) for x in found):
        return _EVERYTHING
    kind = _STEPS[value.dtype]
    with np.errstate(over="ignore"):
        low, high = float(kind(found[0])), float(kind(found[1]))
    if low != found[0]:
        low = float(np.nextafter(kind(low), kind(-math.inf)))
    if high != found[1]:
        high = float(np.nextafter(kind(high), kind(math.inf)))
    return low, high


def _of_constant(value: Value) -> Interval:
    array = value.array()
    if array is None or array.size == 0 or array.dtype.kind not in "biuf":
        return _EVERYTHING
    known = array if array.dtype.kind != "f" else array[~np.isnan(array)]
    return _around(known.min(), known.max()) if known.size else _EVERYTHING


def _around(least: np.ndarray, largest: np.ndarray) -> Interval:
    """Both as doubles, which hold integers up to 2^53 only: beyond, the next one outside."""
    low, high = least.item(), largest.item()
    return (
        float(low) if float(low) <= low else math.nextafter(float(low), -math.inf),
        float(high) if float(high) >= high else math.nextafter(float(high), math.inf),
    )


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
