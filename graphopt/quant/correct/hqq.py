"""Scales and zero points that ignore the odd ones out: half-quadratic quantization, without any data.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (Mobius Labs, 2023): the error of a
weight is taken to be a sparse part, which a norm below 1 (here p = 0.7) leaves alone, plus the rest, which scale and
zero point are fitted to. Both are found in turns, each in closed form. Zero points are integers here, as ONNX's are,
so the scale is fitted as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.quant.correct.rows import Grid
from graphopt.quant.ranges import MIN_SCALE

__all__ = ["hqq_grid"]

_ROUNDS = 20
_NORM = 0.7
_BETA = 10.0  # how much of an error counts as the sparse part: less in each round
_GROWTH = 1.05

Array = np.ndarray[Any, Any]


def hqq_grid(values: Array, grid: Grid) -> Grid:
    """The fitted grid; it starts from `grid`, and keeps its zero points where they are all 0."""
    if grid.kind.is_float:
        return grid
    beta, start = _BETA, grid
    unit = float(np.mean(np.abs(values))) or 1.0
    values = values.astype(np.float64) / unit
    grid = replace(grid, scale=grid.scale.astype(np.float64) / unit)
    for _ in range(_ROUNDS):
        integers = grid.integers(values)
        sparse = _shrunk(values - grid.reals(integers), beta)
        grid = _fitted(values - sparse, integers, grid, symmetric=not start.zero.any())
        beta *= _GROWTH
    return replace(grid, scale=np.maximum(grid.scale * unit, MIN_SCALE).astype(np.float32))


def _shrunk(error: Array, beta: float) -> Array:
    """The sparse part of an error: the proximal operator of |x|^p, as the paper approximates it."""
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        least = np.where(size > 0.0, size ** (_NORM - 1.0), np.inf) / beta
    return np.asarray(np.sign(error) * np.maximum(size - least, 0.0))


def _fitted(target: Array, integers: Array, grid: Grid, *, symmetric: bool) -> Grid:
    """Least squares for the scale, then the mean for the zero point, of each group."""
    starts = np.arange(0, target.shape[1], grid.group)
    counts = np.diff(np.append(starts, target.shape[1]))

    def sums(x: Array) -> Array:
        return np.asarray(np.add.reduceat(x, starts, axis=1))

    centered = integers - grid.wide(grid.zero, target.shape[1])
    below = sums(centered**2)
    fitted = np.divide(sums(centered * target), below, out=np.zeros_like(below), where=below > 0.0)
    scale = np.where(fitted > 0.0, fitted, grid.scale)
    if symmetric:
        return replace(grid, scale=scale)
    offset = sums(integers - target / grid.wide(scale, target.shape[1])) / counts
    zero = np.clip(np.rint(offset), grid.low, grid.high)
    return replace(grid, scale=scale, zero=zero.astype(np.float32))
