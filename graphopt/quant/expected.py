"""The error that a scale and zero point will make, computed from a histogram instead of measured by running.

Within a bin the elements are taken to be spread evenly, so the squared error of rounding and of clipping has a
closed form: with u = x / scale and n the integer next to it, the integral of (u − n)² from 0 to u is
n/12 + (u − n)³/3, and beyond the ends of the type it goes on as the cube of the distance, over 3.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.statistics import TensorStatistics
from graphopt.quant.types import QType, QuantParams, qtype

__all__ = ["Density", "decibels", "density", "expected_error", "signal"]

_NARROW = 1e-4  # of a bin: the width of the last one when all its elements are equal

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Density:
    """How a tensor's elements are spread: `mass[i]` of them (0 to 1, float64) between `edges[i]` and `edges[i+1]`.

    The outermost edges are the extremes (no bin is of no width, though). `zeros`: the share that is exactly zero, which
    no quantization changes; it is not part of `mass`.
    """

    edges: Array
    mass: Array
    zeros: float


def density(statistics: TensorStatistics) -> Density:
    """The histogram of a tensor with at least one finite element, cut to the bins in use.

    The bin that begins at zero also holds what is exactly zero, half of a tensor behind a Relu. What it has more than
    both its neighbours is taken to be that.
    """
    used = np.flatnonzero(statistics.bins)
    first, last = int(used[0]), int(used[-1])
    counts = statistics.bins[first : last + 1].astype(np.float64)
    edges = np.ldexp(np.arange(first, last + 2, dtype=np.float64) + statistics.base, statistics.exponent)
    least = math.ldexp(_NARROW, statistics.exponent)
    edges[0], edges[-1] = statistics.minimum, max(statistics.maximum, edges[-2] + least)
    zeros = 0.0
    at = -statistics.base - first
    if 0 <= at < counts.size:
        beside = [float(counts[i]) for i in (at - 1, at + 1) if 0 <= i < counts.size]
        zeros = max(float(counts[at]) - max(beside, default=0.0), 0.0)
        counts[at] -= zeros
    return Density(edges, counts / statistics.count, zeros / statistics.count)


def signal(d: Density) -> float:
    """The mean square of the elements."""
    return float(_mean(d, d.edges**3 / 3.0))


def expected_error(d: Density, candidates: list[QuantParams]) -> tuple[Array, Array]:
    """The mean squared errors of rounding and of clipping with each of the candidates (one scale each, one type).

    Two float64 arrays of shape [candidates]; their sum is the mean squared error.
    """
    kind = candidates[0].kind
    scale = np.array([[float(p.scale)] for p in candidates])
    zero = np.array([[0.0 if kind.is_float else float(p.zero_point)] for p in candidates])
    low, high = scale * (kind.low - zero), scale * (kind.high - zero)
    edges = d.edges[None, :]
    inside = np.clip(edges, low, high)
    rounding = _integral(inside / scale, kind) * scale**3
    return _mean(d, rounding), _mean(d, (edges - inside) ** 3 / 3.0)


def _mean(d: Density, integral: Array) -> Array:
    """The mean over the elements of a function whose antiderivative at the edges is given (last axis)."""
    return np.asarray(np.diff(integral, axis=-1) @ (d.mass / np.diff(d.edges)))


def _integral(u: Array, kind: QType) -> Array:
    """The integral of the squared distance to the nearest value of the type, from 0 to u (in units of the scale)."""
    if not kind.is_float:
        n = np.rint(u)
        return np.asarray(n / 12.0 + (u - n) ** 3 / 3.0)
    values, middles, sums = _float_steps(kind.name)
    index = np.searchsorted(middles, u)
    return np.asarray(sums[index] + (u - values[index]) ** 3 / 3.0)


@functools.cache
def _float_steps(name: str) -> tuple[Array, Array, Array]:
    """The finite values of an 8-bit float, ascending; the middles between them; the integral up to each value."""
    bits = np.arange(256, dtype=np.uint8).view(qtype(name).dtype).astype(np.float64)
    values = np.unique(bits[np.isfinite(bits)])
    steps = np.diff(values)
    sums = np.concatenate([[0.0], np.cumsum(steps**3) / 12.0])
    zero = int(np.searchsorted(values, 0.0))
    return values, values[:-1] + steps / 2.0, sums - sums[zero]


def decibels(error: float, power: float) -> float:
    """The signal-to-noise ratio of an error in dB, inf without error."""
    if error <= 0.0 or power <= 0.0:
        return math.inf
    return 10.0 * math.log10(power / error)
