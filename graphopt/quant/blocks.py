"""Matrices in integers with a scale for each column, or for each block of a column, and the layouts of their kernels.

Rounding to the nearest ("RTN"): the largest magnitude of a block becomes the largest integer; without a sign, the
range from the smallest to the largest value, zero included, becomes all integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WEIGHT_TYPES", "Blocks", "in_blocks", "packed"]

Array = np.ndarray[Any, Any]

WEIGHT_TYPES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
_SMALLEST = np.float32(2.0**-60)  # of a scale


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix [K, N] of real numbers, (integers − zero) × scale.

    `integers`: int16 [K, N], each within the limits of `dtype`. `scale`: float32 [ceil(K / block), N], `zero`: as
    `scale`, or None where all of them are 0. `block`: K itself where a column has one scale.
    """

    integers: Array
    scale: Array
    zero: Array | None
    block: int
    dtype: str

    @property
    def bits(self) -> int:
        return 4 if self.dtype.endswith("4") else 8

    def reals(self) -> Array:
        """The numbers that the integers stand for, float32 [K, N]."""
        k = len(self.integers)
        scale = np.repeat(self.scale, self.block, axis=0)[:k]
        zero = 0 if self.zero is None else np.repeat(self.zero, self.block, axis=0)[:k]
        return np.asarray((self.integers - zero) * scale, np.float32)


def in_blocks(matrix: Array, dtype: str, block: int = 0) -> Blocks:
    """Round a float32 matrix [K, N] to integers of `dtype`, a key of `WEIGHT_TYPES`.

    `block`: rows that share a scale; 0: all of them. The last block may be shorter.
    """
    low, high = WEIGHT_TYPES[dtype]
    k = len(matrix)
    block = min(block, k) if block else k
    starts = np.arange(0, k, block)
    top = np.maximum(np.maximum.reduceat(matrix, starts, axis=0), 0.0)
    bottom = np.minimum(np.minimum.reduceat(matrix, starts, axis=0), 0.0)
    if low < 0:
        scale = np.maximum(top, -bottom) / high
        zero = None
    else:
        scale = (top - bottom) / (high - low)
    scale = np.where(scale > 0.0, np.maximum(scale, _SMALLEST), 1.0).astype(np.float32)
    if low >= 0:
        zero = np.clip(np.rint(-bottom / scale), low, high).astype(np.int16)
    rows = np.arange(k) // block
    integers = np.rint(matrix / scale[rows])
    if zero is not None:
        integers += zero[rows]
    return Blocks(np.clip(integers, low, high).astype(np.int16), scale, zero, block, dtype)


def packed(blocks: Blocks, block: int) -> tuple[Array, Array, Array | None]:
    """The weights, scales and zero points in the layout of com.microsoft.MatMulNBits with blocks of `block` rows.

    Weights: uint8 [N, ceil(K / block), block × bits / 8], the first of two 4-bit integers in the low half, scales
    [N, ceil(K / block)], zero points uint8 [N, ceil(ceil(K / block) × bits / 8)] or None. `blocks.block` is `block`, or
    K, whose scales are repeated then.
    """
    k, n = blocks.integers.shape
    count = -(-k // block)
    low = WEIGHT_TYPES[blocks.dtype][0]
    padded = np.zeros((count * block, n), np.uint8)
    padded[:k] = (blocks.integers - low).astype(np.uint8)
    stored = np.ascontiguousarray(padded.T.reshape(n, count, block))
    scale = np.ascontiguousarray(np.broadcast_to(blocks.scale.T, (n, count)))
    zero = None
    if blocks.zero is not None:
        zero = np.ascontiguousarray(np.broadcast_to(blocks.zero.T, (n, count))).astype(np.uint8)
    if blocks.bits == 8:
        return stored, scale, zero
    return halves(stored), scale, None if zero is None else halves(zero)


def halves(array: Array) -> Array:
    """Two 4-bit integers of the last axis in each byte, the first in the low half; an odd one out gets a 0."""
    if array.shape[-1] % 2:
        array = np.concatenate([array, np.zeros((*array.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(array[..., ::2] | (array[..., 1::2] << 4), np.uint8)
