"""Reading how exporters write the scores of attention: products of queries and keys, scaled, capped and masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt import Dim, DType, Node, Value

Sizes = tuple[int | Dim | None, ...]
_FAR = -1e30
_DEPTH = 12  # operators that are looked back through


@dataclass(frozen=True)
class Mask:
    """Something that is added to the scores, or, with `seen`, that stands for them where `seen` is not true.

    `negated`: where `seen` is true instead. `shape`: that of the scores before; the mask may broadcast them to more.
    """

    value: Value
    shape: Sizes
    seen: Value | None = None
    negated: bool = False


@dataclass(frozen=True)
class Scores:
    """What a value is, read as scores: `cap` · tanh(`scale` · `q` `keys` / `cap`), or without cap, with `masks`.

    `keys` are turned: their last axis is the sequence. `inner`: the values in between.
    """

    q: Value
    keys: Value
    scale: float = 1.0
    cap: float = 0.0
    masks: tuple[Mask, ...] = ()
    inner: tuple[Value, ...] = ()


def scores_of(value: Value | None, depth: int = _DEPTH) -> Scores | None:
    """The scores that `value` holds; None if it holds something else."""
    node = None if value is None else value.producer
    if value is None or node is None or not node.is_standard or depth == 0:
        return None
    read = _READERS.get(node.op)
    found = None if read is None else read(node, depth - 1)
    return None if found is None else replace(found, inner=(*found.inner, value))


def unscaled(value: Value) -> tuple[Value, float]:
    """A value without the numbers by which it is multiplied or divided, and their product."""
    factor = 1.0
    while (found := factor_of(value.producer)) is not None:
        value, factor = found[0], factor * found[1]
    return value, factor


def number(value: Value | None) -> float | None:
    """The one number that a constant consists of, if it adds no axis where it is an operand."""
    splat = None if value is None else value.splat
    return None if splat is None else float(splat)


def far(value: Value, *, fast: bool = True) -> float:
    """A number that no score reaches but by overflow, so that what is less hides a key; exactly, without `fast`."""
    least = float(np.finfo(np.float16 if value.dtype == DType.FLOAT16 else np.float32).min)
    return max(_FAR, least) if fast else least


def factor_of(node: Node | None) -> tuple[Value, float] | None:
    """The operand and the number of a product or quotient of both, of equal rank."""
    if node is None or not node.is_standard or node.op not in ("Mul", "Div"):
        return None
    a, b = node.inputs
    if node.op == "Mul" and number(a) is not None:
        a, b = b, a
    by = number(b)
    if a is None or b is None or by is None or a.rank != node.outputs[0].rank or not a.rank:
        return None
    if a.shape != node.outputs[0].shape or (node.op == "Div" and by == 0):
        return None
    return a, by if node.op == "Mul" else 1 / by


def _product(node: Node, _: int) -> Scores | None:
    q, keys = node.inputs
    if q is None or keys is None or q.rank != keys.rank or q.rank not in (3, 4) or keys.is_const:
        return None
    return Scores(q, keys)


def _scaled(node: Node, depth: int) -> Scores | None:
    found = factor_of(node)
    if found is None:
        return None
    operand, factor = found
    inner = operand.producer
    if node.op in ("Mul", "Div") and inner is not None and inner.op == "Tanh" and inner.is_standard:
        under = scores_of(inner.inputs[0], depth)
        if under is None or under.masks or under.cap or not 0 < factor < math.inf:
            return None
        return replace(under, scale=under.scale * factor, cap=factor, inner=(*under.inner, operand))
    scores = scores_of(operand, depth)
    if scores is None or scores.masks or scores.cap:
        return None
    return replace(scores, scale=scores.scale * factor)


def _added(node: Node, depth: int) -> Scores | None:
    for a, b in (node.inputs, node.inputs[::-1]):
        scores = scores_of(a, depth)
        if scores is not None and a is not None and b is not None and a.shape is not None:
            return replace(scores, masks=(*scores.masks, Mask(b, a.shape)))
    return None


def _chosen(node: Node, depth: int) -> Scores | None:
    seen, a, b = node.inputs
    for value, other, negated in ((a, b, False), (b, a, True)):
        if number(other) is None:
            continue
        scores = scores_of(value, depth)
        if scores is not None and value is not None and other is not None and value.shape is not None:
            fits = all(d == 1 for d in other.shape or ()) and (other.rank or 0) <= len(value.shape)
            return replace(scores, masks=(*scores.masks, Mask(other, value.shape, seen, negated))) if fits else None
    return None


def _viewed(node: Node, depth: int) -> Scores | None:
    before, after = node.inputs[0], node.outputs[0].shape
    if before is None or before.shape is None or after is None or before.shape[-2:] != after[-2:]:
        return None
    if None in after or len(after) < 3 or len(before.shape) < 3:
        return None
    return scores_of(before, depth)


_READERS: dict[str, Callable[[Node, int], Scores | None]] = {
    "MatMul": _product, "Mul": _scaled, "Div": _scaled, "Add": _added, "Where": _chosen, "Reshape": _viewed,
    "Unsqueeze": _viewed, "Squeeze": _viewed,
}  # fmt: skip


def finite_scale(*factors: float) -> float | None:
    """The product of factors as a positive float32, if it is one."""
    with np.errstate(over="ignore", under="ignore"):
        scale = math.prod(factors)
        fits = np.float32(scale) > 0 and np.isfinite(np.float32(scale))
    return scale if fits else None
