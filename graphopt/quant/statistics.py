"""Statistics of a tensor, gathered batch by batch: extremes, moments, and a histogram that adapts its range.

The bins are 2^e wide and lie on multiples of their width. When a value falls outside, pairs of bins are
merged until all fit. So the histogram depends on the values and not on their order, no count is ever
estimated, zero lies on an edge, and memory stays at 2048 counts however much data comes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["BINS", "TensorStatistics"]

BINS = 2048
_CHUNK = 1 << 20  # elements that are converted to float64 at a time
_MANTISSA = 24  # bits of a float32: narrower bins tell nothing apart
_SMALLEST = -149  # 2^-149 is the smallest float32

Array = np.ndarray[Any, Any]


class TensorStatistics:
    """Running statistics of one tensor's finite elements.

    `count` finite elements were seen, `nan` and `inf` others. `minimum`, `maximum`: of the finite ones, inf
    and -inf while there are none. `total`, `squares`: sums of the elements and of their squares, in float64.
    `bins[i]` counts the elements in [(base+i)·2^exponent, (base+i+1)·2^exponent). `batches`: how many arrays had
    finite elements; `low_sum` and `high_sum` are the sums of their minima and of their maxima.
    """

    __slots__ = (
        "base", "batches", "bins", "count", "exponent", "high_sum", "inf", "low_sum", "maximum", "minimum", "nan",
        "squares", "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        self.nan = 0
        self.inf = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.total = 0.0
        self.squares = 0.0
        self.batches = 0
        self.low_sum = 0.0
        self.high_sum = 0.0
        self.exponent = 0
        self.base = 0
        self.bins: Array = np.zeros(BINS, np.int64)

    def update(self, array: Array) -> None:
        """Add the elements of a floating-point array of any shape: a batch; an empty one changes nothing."""
        flat = np.asarray(array).reshape(-1)
        low, high = math.inf, -math.inf
        for start in range(0, flat.size, _CHUNK):
            part_low, part_high = self._add(flat[start : start + _CHUNK].astype(np.float64))
            low, high = min(low, part_low), max(high, part_high)
        if low <= high:
            self.batches += 1
            self.low_sum += low
            self.high_sum += high

    @property
    def mean_minimum(self) -> float:
        """The mean of the batches' minima, 0 without any; each batch counts the same."""
        return self.low_sum / self.batches if self.batches else 0.0

    @property
    def mean_maximum(self) -> float:
        """The mean of the batches' maxima, 0 without any; each batch counts the same."""
        return self.high_sum / self.batches if self.batches else 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation (of the population)."""
        if not self.count:
            return 0.0
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))

    def quantile(self, fraction: float) -> float:
        """The value below which `fraction` (0 to 1) of the elements lie, interpolated within its bin.

        Off by at most one bin, which is at most 1/1024 of the range; 0 and 1 give the exact extremes.
        """
        if not self.count:
            return 0.0
        if fraction <= 0.0:
            return self.minimum
        if fraction >= 1.0:
            return self.maximum
        sums = np.cumsum(self.bins)
        rank = fraction * self.count
        index = min(int(np.searchsorted(sums, rank)), BINS - 1)
        inside = int(self.bins[index])
        before = int(sums[index]) - inside
        part = (rank - before) / inside if inside else 0.0
        value = math.ldexp(self.base + index + part, self.exponent)
        return min(max(value, self.minimum), self.maximum)

    def _add(self, values: Array) -> tuple[float, float]:
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.nan += int(np.isnan(values).sum())
            self.inf += int(np.isinf(values).sum())
            values = values[np.isfinite(values)]
            if not values.size:
                return math.inf, -math.inf
            low, high = float(values.min()), float(values.max())
        self._cover(min(low, self.minimum), max(high, self.maximum))
        self.minimum, self.maximum = min(low, self.minimum), max(high, self.maximum)
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float(np.dot(values, values))
        index = np.floor(np.ldexp(values, -self.exponent)).astype(np.int64) - self.base
        self.bins += np.bincount(index, minlength=BINS)
        return low, high

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins until they reach from `low` to `high`."""
        exponent = _exponent(low, high)
        base = math.floor(math.ldexp(low, -exponent))
        if self.count:
            used = np.flatnonzero(self.bins)
            moved = ((self.base + used) >> (exponent - self.exponent)) - base
            bins = np.zeros(BINS, np.int64)
            np.add.at(bins, moved, self.bins[used])
            self.bins = bins
        self.exponent, self.base = exponent, base


def _exponent(low: float, high: float) -> int:
    """The smallest e with which the bins from `low` to `high` are at most 2048, and no finer than float32.

    It never falls as the range grows, which is what makes merging possible.
    """
    largest = max(abs(low), abs(high))
    exponent = max(math.frexp(largest)[1] - _MANTISSA, _SMALLEST)
    exponent = max(exponent, math.frexp(high - low)[1] - 12) if high > low else exponent
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent
