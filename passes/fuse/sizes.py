"""Shapes of operands of attention, which ONNX Runtime's kernels do not take empty.

So a size is never 0 where it matters, and a Reshape gives just what it is asked for: with sizes that may be 0, it may
copy an axis instead (`allowzero`), or have nothing to infer -1 from.
"""

from __future__ import annotations

import math

from graphopt_passes.fuse.scores import Sizes

from graphopt import Dim, Node, Value

_SAME = ("RotaryEmbedding", "Mul", "Div")  # of the first operand's shape, as far as they are looked through here
_DEPTH = 8


def sizes(value: Value, depth: int = _DEPTH) -> Sizes | None:
    """The shape of a value, provided that no size is 0."""
    node, shape = value.producer, value.shape
    if node is None or not node.is_standard or depth == 0 or shape is None or not _unnamed(shape):
        return shape
    x = node.inputs[0]
    before = None if x is None else sizes(x, depth - 1)
    if before is None:
        return shape
    if node.op == "Reshape":
        return _reshaped(node, before) or shape
    if node.op == "Transpose":
        perm = node.attr("perm", list(range(len(before)))[::-1])
        return tuple(before[a] for a in perm) if sorted(perm) == list(range(len(before))) else shape
    if node.op in ("Mul", "Div"):
        by = node.inputs[1]
        return before if by is not None and by.splat is not None and by.rank in (0, 1) else shape
    return before if node.op in _SAME else shape


def _unnamed(shape: Sizes) -> bool:
    return any(d is None or (isinstance(d, Dim) and d.is_anonymous) for d in shape)


def _reshaped(node: Node, before: Sizes) -> Sizes | None:
    target = None if node.inputs[1] is None else node.inputs[1].symbolic
    if target is None or None in before:
        return None
    zero = bool(node.attr("allowzero", 0))
    if any(d == 0 and (zero or i >= len(before)) for i, d in enumerate(target)):
        return None
    found = [before[i] if d == 0 else d for i, d in enumerate(target)]
    if found.count(-1) == 1:
        found[found.index(-1)] = _quotient(before, [d for d in found if d != -1])
    return None if None in found or -1 in found else tuple(found)


def _quotient(whole: Sizes, parts: list[int | Dim | None]) -> int | Dim | None:
    """The product of sizes, divided by that of others, if all symbols but one cancel."""
    symbols = [d for d in whole if isinstance(d, Dim)]
    for part in parts:
        if isinstance(part, Dim):
            if part not in symbols:
                return None
            symbols.remove(part)
    number = math.prod(d for d in whole if isinstance(d, int))
    divisor = math.prod(d for d in parts if isinstance(d, int))
    if divisor == 0 or number % divisor or len(symbols) > 2:
        return None
    result: int | Dim = number // divisor
    for symbol in symbols:
        result = symbol * result
    return result
