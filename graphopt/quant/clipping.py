"""The search for the range with the least expected error: wide enough for the outliers, narrow enough for the rest.

Clipping costs the squares of what is cut off, a wide range costs rounding of everything else. Both follow from sums
over the histogram up to a point, so a candidate costs no walk over the bins, and the ends are tried one after the other
on a grid that is refined around the best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.quant.expected import Array, Density, expected_error
from graphopt.quant.types import QType, QuantParams

__all__ = ["least_error"]

_GRID = 40  # ranges that are compared at a time
_SMALLEST = 0.02  # of the extremes: the narrowest range that is tried
_ROUNDS = 2  # of both ends, as what is best for one depends a little on the other

Errors = Callable[[Array, Array], tuple[Array, Array]]


def least_error(d: Density, kind: QType, *, symmetric: bool, clip_weight: float = 1.0) -> tuple[float, float]:
    """The range (low, high) of least rounding error + `clip_weight` × clipping error. `symmetric`: zero point 0."""
    low, high = min(float(d.edges[0]), 0.0), max(float(d.edges[-1]), 0.0)
    errors = _float_errors(d, kind) if kind.is_float else _integer_errors(d, kind, symmetric=symmetric)

    def best(lows: Callable[[Array], Array], highs: Callable[[Array], Array]) -> float:
        factors = np.linspace(1.0, _SMALLEST, _GRID)  # the widest first: it wins among equals
        for _ in range(2):
            rounding, clipping = errors(lows(factors), highs(factors))
            at = int(np.argmin(rounding + clip_weight * clipping))
            found = float(factors[at])
            factors = np.linspace(factors[max(at - 1, 0)], factors[min(at + 1, _GRID - 1)], _GRID)
        return found

    if symmetric or kind.is_float:
        peak = max(-low, high)
        limit = peak * best(lambda f: np.maximum(-f * peak, low), lambda f: np.minimum(f * peak, high))
        return max(low, -limit), min(high, limit)
    bottom, top = 1.0, 1.0
    for _ in range(_ROUNDS if low < 0.0 < high else 1):
        if high > 0.0:
            top = best(lambda f, b=bottom: np.full_like(f, b * low), lambda f: f * high)  # type: ignore[misc]
        if low < 0.0:
            bottom = best(lambda f: f * low, lambda f, t=top: np.full_like(f, t * high))  # type: ignore[misc]
    return bottom * low, top * high


def _float_errors(d: Density, kind: QType) -> Errors:
    zero = np.zeros((), kind.dtype)

    def errors(low: Array, high: Array) -> tuple[Array, Array]:
        scales = np.maximum(-low, high) / kind.high
        return expected_error(d, [QuantParams(s, zero) for s in scales])

    return errors


def _integer_errors(d: Density, kind: QType, *, symmetric: bool) -> Errors:
    """The errors of ranges as `expected_error` gives them, but for the position of the steps in their bins.

    What rounds to zero loses its square, and all else a twelfth of the step's.
    """
    cumulated = _Cumulated(d)

    def errors(low: Array, high: Array) -> tuple[Array, Array]:
        step = np.maximum(-low, high) / kind.high if symmetric else (high - low) / kind.levels
        bottom, top = (np.maximum(step * kind.low, d.edges[0]), step * kind.high) if symmetric else (low, high)
        below, above = cumulated(bottom), cumulated(top)
        left, right = cumulated(np.maximum(-step / 2.0, bottom)), cumulated(np.minimum(step / 2.0, top))
        coarse = above[0] - below[0] - (right[0] - left[0])
        rounding = coarse * step**2 / 12.0 + (right[2] - left[2])
        rest = cumulated.whole[:, None] - above
        clipping = rest[2] - 2.0 * top * rest[1] + top**2 * rest[0]
        clipping += below[2] - 2.0 * bottom * below[1] + bottom**2 * below[0]
        return rounding, np.maximum(clipping, 0.0)

    return errors


class _Cumulated:
    """The sums of 1, x and x² over the elements up to a point, per element of the tensor."""

    def __init__(self, d: Density) -> None:
        self._edges = d.edges
        self._density = d.mass / np.diff(d.edges)
        bins = [self._density * np.diff(d.edges**n) / n for n in (1, 2, 3)]
        self._sums = np.stack([np.append(0.0, np.cumsum(b)) for b in bins])
        self.whole: Array = self._sums[:, -1]

    def __call__(self, x: Array) -> Array:
        """[3, points]"""
        x = np.clip(x, self._edges[0], self._edges[-1])
        i = np.clip(np.searchsorted(self._edges, x, "right") - 1, 0, self._density.size - 1)
        start = self._edges[i]
        parts = [self._density[i] * (x**n - start**n) / n for n in (1, 2, 3)]
        return np.asarray(self._sums[:, i] + np.stack(parts))
