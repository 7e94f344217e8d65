"""Relu, Clip, Max and Min: clamps that follow each other are one clamp.

In ONNX Runtime Relu and Clip keep −0 and NaN, and Clip without an upper bound makes of +∞ the largest
number, as the standard says. Max and Min may change the sign of a zero.
"""

from __future__ import annotations

import math

from graphopt import Const, DType, Node, Tensor, op, require, rule

Bound = float | None


def _clip(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    return n.bind(op.Clip(x, lo, hi, ...))


def _relu_clip(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    return n.bind(op.Clip(op.Relu(x), lo, hi, ...))


def _clip_relu(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    return op.Relu(n.bind(op.Clip(x, lo, hi, ...)))


def _clip_clip(
    x: Tensor, lo: Const | None, hi: Const | None, lo2: Const | None, hi2: Const | None, inner: Node, outer: Node
) -> Tensor:
    return outer.bind(op.Clip(inner.bind(op.Clip(x, lo, hi, ...)), lo2, hi2, ...))


def _max_min(x: Tensor, lo: Const, hi: Const, n: Node) -> Tensor:
    return n.bind(op.Max(op.Min(x, hi), lo))


def _min_max(x: Tensor, lo: Const, hi: Const, n: Node) -> Tensor:
    return n.bind(op.Min(op.Max(x, lo), hi))


@rule(_clip, accuracy="exact", single_use=False, shapes={"x": "i32: ..."})
def clip_integers_noop(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    """A Clip of integers without bounds changes nothing."""
    require(_bounds(n, lo, hi) == (None, None), "there is a bound")
    require(x.dtype.is_integer(), "without bounds an infinite float becomes the largest number")
    return x


@rule(_clip, accuracy="fast", single_use=False)
def clip_floats_noop(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    """A Clip of finite floats without bounds changes nothing."""
    require(_bounds(n, lo, hi) == (None, None), "there is a bound")
    return x


@rule(_relu_clip, accuracy="exact")
def relu_clip(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    """A Clip after Relu is a Clip from 0 or above."""
    low, high = _bounds(n, lo, hi)
    return _clipped(x, n, 0 if low is None else max(low, 0), high)


@rule(_clip_relu, accuracy="exact")
def clip_relu(x: Tensor, lo: Const | None, hi: Const | None, n: Node) -> Tensor:
    """A Relu after Clip is a Clip with bounds from 0 or above."""
    first = _bounds(n, lo, hi)
    low, high = 0 if first[0] is None else max(first[0], 0), None if first[1] is None else max(first[1], 0)
    _check_zeros(first, (low, high))
    return _clipped(x, n, low, high)


@rule(_clip_clip, accuracy="exact")
def clip_clip(
    x: Tensor, lo: Const | None, hi: Const | None, lo2: Const | None, hi2: Const | None, inner: Node, outer: Node
) -> Tensor:
    """A Clip of a Clip is one whose bounds are those of the first, clipped by the second."""
    first, then = _bounds(inner, lo, hi), _bounds(outer, lo2, hi2)
    # Clip makes a number of an infinity on the side where it has no bound.
    require(all(b is None or math.isfinite(b) for b in (*first, *then)), "a bound is infinite")
    low = then[0] if first[0] is None else _clamp(first[0], then)
    high = then[1] if first[1] is None else _clamp(first[1], then)
    _check_zeros(first, (low, high))
    return _clipped(x, outer, low, high)


@rule(_max_min, _min_max, accuracy="close", shapes={"lo": "", "hi": ""})
def max_min(x: Tensor, lo: Const, hi: Const, n: Node) -> Tensor:
    """Max and Min with numbers in a row are a Clip, up to the sign of a zero."""
    require(x.dtype.is_floating_point() or n.version >= 12, "Clip takes floats only at this opset")
    require(x.dtype != DType.DOUBLE or n.version >= 12, "runtimes have no Clip of doubles at this opset")
    low, high = lo.scalar, hi.scalar
    require(low <= high, "the bounds are not in order")
    return _clipped(x, n, low, high)


@rule(lambda x: op.Max(x, 0), accuracy="close", bounded=True)
def max_zero(x: Tensor) -> Tensor:
    """The larger of a float and 0 is Relu, up to the sign of a zero."""
    require(x.dtype.is_floating_point(), "Relu is for floats")
    return op.Relu(x)


def _bounds(n: Node, lo: Const | None, hi: Const | None) -> tuple[Bound, Bound]:
    """The bounds as Python numbers; None for one that is left out."""
    if n.version >= 11:
        found = (None if lo is None else lo.scalar, None if hi is None else hi.scalar)
    else:
        attrs = n.attrs
        found = (attrs.get("min"), attrs.get("max"))
    for bound in found:
        require(bound is None or isinstance(bound, int | float), "a bound is an attribute of the function's caller")
        require(bound is None or not math.isnan(bound), "a bound is NaN")
        require(bound != 0 or math.copysign(1, bound) > 0, "a bound is −0")
    return found


def _check_zeros(first: tuple[Bound, Bound], both: tuple[Bound, Bound]) -> None:
    """Decline where −0 would stay, because it lies at a bound, that the first clamp makes another number."""
    low, high = first
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    require(inside or 0 not in both, "a zero may get another sign")


def _clamp(x: float, bounds: tuple[Bound, Bound]) -> float:
    low, high = bounds
    x = x if low is None else max(x, low)
    return x if high is None else min(x, high)


def _clipped(x: Tensor, n: Node, low: Bound, high: Bound) -> Tensor:
    """A Clip as it is written at the model's opset."""
    if n.version >= 11:
        return op.Clip(x, low, high)
    require(low is None or high is None or low <= high, "before opset 11 a Clip needs its bounds in order")
    return op.Clip(x, min=None if low is None else float(low), max=None if high is None else float(high))
