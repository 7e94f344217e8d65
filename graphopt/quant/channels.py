"""Statistics along one axis of a tensor: extremes and moments of each channel, and second moments of all pairs.

Corrections need them: equalization the extremes of each channel, bias correction its mean, and rounding that
looks at the error of the output (GPTQ, AWQ) the products of all pairs of channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["ChannelStatistics", "Gram"]

_ROWS = 2048  # products that are summed in float32 before they are added to float64
_CHUNK = 1 << 18  # elements of a block
_INNER = 1 << 15  # elements of a channel that are summed in float32 before they are added to float64
_SAFE = (2.0**-50, 2.0**50)  # magnitudes whose products float32 holds

Array = np.ndarray[Any, Any]


class ChannelStatistics:
    """Running statistics of each channel's finite elements; the channels lie along `axis`.

    Arrays of shape [C]: `minimum` and `maximum` (inf and -inf while there are none), `total` and `squares`, the sums
    of the elements and of their squares (added up in float32 within a block, and in float64 from there), and `count`,
    how many there were. All of shape [0] before the first batch. `unfit` says why nothing is kept: a tensor without
    that axis, or with another number of channels.
    """

    __slots__ = ("axis", "count", "maximum", "minimum", "squares", "total", "unfit")

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.unfit: str | None = None
        self.minimum = self.maximum = self.total = self.squares = np.zeros(0, np.float64)
        self.count: Array = np.zeros(0, np.int64)

    @property
    def mean(self) -> Array:
        """[C] float64, 0 for a channel without elements."""
        return np.asarray(self.total / np.maximum(self.count, 1))

    @property
    def peak(self) -> Array:
        """The largest magnitude in each channel: [C] float64, 0 for a channel without elements."""
        return np.asarray(np.where(self.count > 0, np.maximum(-self.minimum, self.maximum), 0.0))

    def update(self, array: Array) -> None:
        """Add a floating-point array; its rank and its other sizes may differ from the last one's."""
        if array.size and self.unfit is None and self._fits(array):
            for block in _blocks(array, self.axis, _CHUNK):
                self._add(block)

    def merge(self, other: ChannelStatistics) -> None:
        """Add what another has seen along the same axis."""
        self.unfit = self.unfit or other.unfit
        if self.unfit is None and other.count.size and self._counts(other.count.size):
            self.minimum = np.minimum(self.minimum, other.minimum)
            self.maximum = np.maximum(self.maximum, other.maximum)
            self.total, self.squares = self.total + other.total, self.squares + other.squares
            self.count = self.count + other.count

    def _fits(self, array: Array) -> bool:
        if not -array.ndim <= self.axis < array.ndim:
            self.unfit = f"a tensor of rank {array.ndim} has no axis {self.axis}"
            return False
        return self._counts(array.shape[self.axis])

    def _counts(self, channels: int) -> bool:
        """Whether it has so many channels, as it has if it had none."""
        if not self.count.size:
            self.minimum, self.maximum = np.full(channels, math.inf), np.full(channels, -math.inf)
            self.total, self.squares = np.zeros(channels), np.zeros(channels)
            self.count = np.zeros(channels, np.int64)
        if self.count.size != channels:
            self.unfit = f"it had {self.count.size} channels along axis {self.axis}, and then {channels}"
        return self.unfit is None

    def _add(self, block: Array) -> None:
        low, high = block.min((0, 2)), block.max((0, 2))
        if np.isfinite(low).all() and np.isfinite(high).all():
            self.count += block.shape[0] * block.shape[2]
        else:
            finite = np.isfinite(block)
            low = np.where(finite, block, math.inf).min((0, 2))
            high = np.where(finite, block, -math.inf).max((0, 2))
            block = np.where(finite, block, 0.0)
            self.count += finite.sum((0, 2))
        np.minimum(self.minimum, low, out=self.minimum)
        np.maximum(self.maximum, high, out=self.maximum)
        peak = float(np.maximum(-low, high)[self.count > 0].max(initial=0.0))
        if not _SAFE[0] < peak < _SAFE[1]:
            block = block.astype(np.float64)
        if block.shape[2] == 1:
            rows = block[:, :, 0]
            self.total += np.ones(len(rows), rows.dtype) @ rows
            self.squares += np.einsum("oc,oc->c", rows, rows)
        else:
            self.total += (block @ np.ones(block.shape[2], block.dtype)).sum(0, dtype=np.float64)
            self.squares += np.einsum("oci,oci->oc", block, block).sum(0, dtype=np.float64)


class Gram:
    """The running sum of X^T X, where X is a tensor with `axis` moved last and all other axes flattened.

    `matrix`: [K, K] float64, of shape [0, 0] before the first batch. `rows`: how many rows it sums over; those with a
    NaN or an infinity are left out. Products are summed in float32 over 2048 rows at a time, where that can hold them.
    """

    __slots__ = ("axis", "matrix", "rows")

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.matrix: Array = np.zeros((0, 0))
        self.rows = 0

    def update(self, array: Array) -> None:
        """Add an array that has as many channels along the axis as the ones before."""
        if not array.size:
            return
        if not self.matrix.size:
            self.matrix = np.zeros((array.shape[self.axis],) * 2)
        for block in _blocks(array, self.axis, _ROWS * max(array.shape[self.axis], 1)):
            for rows in (block[:, :, 0],) if block.shape[2] == 1 else block.transpose(0, 2, 1):
                self._add(rows)

    def _add(self, rows: Array) -> None:
        peak = float(np.abs(rows).max())
        if not math.isfinite(peak):
            rows = rows[np.isfinite(rows).all(1)]
            peak = float(np.abs(rows).max(initial=0.0))
        low, high = _SAFE
        rows = rows.astype(np.float32 if low < peak < high else np.float64, copy=False)
        self.matrix += rows.T @ rows
        self.rows += rows.shape[0]


def _blocks(array: Array, axis: int, most: int) -> Iterator[Array]:
    """The array as [outer, channels, inner] in blocks of about `most` elements, none of them empty."""
    axis %= array.ndim
    channels = array.shape[axis]
    whole = array.reshape(math.prod(array.shape[:axis]), channels, math.prod(array.shape[axis + 1 :]))
    outer, inner = whole.shape[0], whole.shape[2]
    if not whole.size:
        return
    wide = max(1, min(inner, most // channels, _INNER))
    deep = max(1, most // (channels * wide))
    for o in range(0, outer, deep):
        for i in range(0, inner, wide):
            yield whole[o : o + deep, :, i : i + wide]
