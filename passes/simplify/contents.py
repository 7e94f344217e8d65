"""Constants in the cheapest form: without numbers too small to matter, and not larger than broadcasting needs.

Processors take a slow path for subnormal numbers: a trained network whose weights had decayed to such ran 17 times
slower than with zeros in their place.
"""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.simplify.broadcast import minds_repetition

from graphopt import Context, DType, Node, Rewrite, Value, require

_WEIGHED = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
_BROADCASTING = (
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
)  # fmt: skip
_SLOW = (DType.FLOAT, DType.BFLOAT16)  # half precision is computed in float32, which holds its subnormals as normal
_NEGLIGIBLE = 2.0**-64  # of the largest weight: far below what rounding does to its products
_MOST = 1 << 20  # elements of a constant that is looked at as a whole


def flush_subnormals(ctx: Context) -> None:
    """Put zeros in place of subnormal weights, where the largest of the tensor makes them count for nothing."""
    fine: set[Value] = ctx.shared.setdefault("simplify.subnormal", set())  # without any, as far as anybody looks
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*_WEIGHED):
            inputs = node.inputs
            for index in _WEIGHED[node.op] if node.is_standard else ():
                weight = inputs[index] if index < len(inputs) else None
                if weight is None or weight in fine or weight.dtype not in _SLOW or not weight.is_const:
                    continue
                excerpt = weight.excerpt()
                if excerpt is None or not _has_subnormals(excerpt):
                    fine.add(weight)
                    continue
                with ctx.rewrite("simplify.subnormal", at=node) as rewrite:
                    rewrite.set_input(node, index, _flushed(rewrite, weight))


def _has_subnormals(array: np.ndarray) -> bool:
    """Whether an element is subnormal; first whether one is small at all, which is seldom and seen at once."""
    return bool((np.abs(array) < np.finfo(np.float32).tiny).any()) and bool(_subnormal(array).any())


def _subnormal(array: np.ndarray) -> np.ndarray:
    """Which elements are subnormal; bfloat16 has the exponents of float32."""
    magnitude = np.abs(array.astype(np.float32, copy=False))
    return (magnitude > 0) & (magnitude < np.finfo(np.float32).tiny)


def _flushed(rewrite: Rewrite, weight: Value) -> Value:
    array = weight.content()
    largest = float(np.abs(array.astype(np.float32)).max(initial=0))
    tiny = float(np.finfo(np.float32).tiny)
    require(np.isfinite(largest) and tiny < largest * _NEGLIGIBLE, "the other weights are no larger")
    return rewrite.constant(np.where(_subnormal(array), np.zeros((), array.dtype), array), weight.name)


def narrow_constants(ctx: Context) -> None:
    """Take one slice of a constant that repeats itself along an axis, where the other operand gives the size."""
    narrow: set[tuple[Value, tuple[int, ...]]] = ctx.shared.setdefault("simplify.narrow_constant", set())
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*_BROADCASTING):
            if len(inputs := node.inputs) != 2 or inputs[0] is None or inputs[1] is None:
                continue
            left, right = inputs[0], inputs[1]
            if left.is_const == right.is_const or not node.is_standard or node.version < 7:
                continue
            if left.is_const:
                _narrow(ctx, node, 0, left, right, narrow)
            elif not minds_repetition(node, 1, ctx.accuracy):
                _narrow(ctx, node, 1, right, left, narrow)


def _narrow(
    ctx: Context, node: Node, index: int, value: Value, other: Value, narrow: set[tuple[Value, tuple[int, ...]]]
) -> None:
    """`narrow`: constants that do not repeat themselves along the axes that stand with them."""
    shape, theirs = value.tensor.shape.numpy(), other.shape
    if not 1 < math.prod(shape) <= _MOST or theirs is None:
        return
    lead = len(theirs) - len(shape)
    axes = tuple([a for a, n in enumerate(shape) if n > 1 and lead + a >= 0 and theirs[lead + a] == n])
    array = value.array() if axes and (value, axes) not in narrow else None
    if array is None or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        return
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") if array.dtype.kind == "f" else array
    kept = bits
    for axis in axes:
        first = kept.take([0], axis=axis)
        if (kept == first).all():
            kept = first
    if kept.shape == bits.shape:
        narrow.add((value, axes))
        return
    part = np.ascontiguousarray(kept).view(array.dtype)
    with ctx.rewrite("simplify.narrow_constant", at=node) as rewrite:
        rewrite.set_input(node, index, rewrite.constant(part, value.name))
