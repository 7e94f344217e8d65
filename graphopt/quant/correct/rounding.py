"""From a float weight to integers: to the nearest, or so that the layer's output changes less.

The error that counts is that of the output, the mean of (w x − ŵ x)² over the inputs x. With their second moments (the
gram matrix) it is known exactly; with only the mean squares of the input channels, as if they were independent; without
either, as if they were all alike. A method's result is used only where that error is smaller than before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.quant.correct.gptq import SingularGram, gptq
from graphopt.quant.correct.hqq import hqq_grid
from graphopt.quant.correct.rows import Grid, Rows, params_of, steps, to_rows
from graphopt.quant.expected import decibels
from graphopt.quant.types import QuantParams, qtype, quantize

__all__ = ["ROUNDINGS", "Moments", "Rounded", "best_rounding"]

ROUNDINGS = ("clip", "hqq", "gptq")
"""The methods, in the order in which they build on each other."""

_FACTORS = np.linspace(1.0, 0.5, 21)  # of the extremes, that clipping tries

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of a layer's inputs x: `gram`, the mean (or sum) of x x^T, [K, K]; or only `squares`, the mean
    squares, [K] or, where rows have inputs of their own, [N, K].
    """

    gram: Array | None = None
    squares: Array | None = None

    def power(self, rows: Array) -> float:
        """The mean square of the outputs of weights [N, K]."""
        return float(self.powers(rows).sum()) / max(len(rows), 1)

    def powers(self, rows: Array) -> Array:
        """[N]: the mean square of each output."""
        if self.gram is not None:
            wide = rows.astype(np.float64)
            return np.asarray(np.maximum(np.einsum("nk,nk->n", wide @ self.gram, wide), 0.0))
        weights = np.ones(rows.shape[1]) if self.squares is None else self.squares
        return np.asarray(np.einsum("nk,nk,nk->n", rows, rows, np.broadcast_to(weights, rows.shape), dtype=np.float64))

    @property
    def diagonal(self) -> Array | None:
        """Mean squares, [K] or [N, K], of at least a little, so that what never came in is not free."""
        found = self.squares if self.gram is None else np.diag(self.gram)
        if found is None or not found.any():
            return None
        return np.asarray(np.maximum(found, 1e-6 * float(found.mean())))


@dataclass(frozen=True, eq=False)
class Rounded:
    """Integers in the shape of the weight, with their scales; `gains`: of each method that was used, its name and the
    signal-to-noise ratio of the output before and after it, in dB. `notes`: why one could not be used.
    """

    integers: Array
    params: QuantParams
    gains: tuple[tuple[str, float, float], ...] = ()
    notes: tuple[str, ...] = ()


def best_rounding(
    weight: Array,
    *,
    axis: int | None,
    block: int = 0,
    dtype: str = "int8",
    symmetric: bool = True,
    bits: int | None = None,
    least: Array | None = None,
    moments: Moments | None = None,
    methods: Sequence[str] = (),
) -> Rounded:
    """Round a finite float weight, starting from the nearest integers, by those of `methods` that make it better.

    `axis`: of the output channels, each of which gets a scale; with `block`, the axis that is summed over, of which
    each `block` elements get one; None: one scale for all. `bits`: of the integers, fewer than `dtype` has. `least`:
    smallest scales, [channels] or []. `moments`: of the inputs, K in the order of the weight's other axes.
    """
    kind, rows = qtype(dtype), to_rows(weight, axis, block)
    known = moments if moments is not None and axis is not None else Moments()
    floor = None if least is None else np.asarray(least, np.float64).reshape(-1, 1)
    make = _Maker(
        rows, lambda f: steps(rows, kind, symmetric=symmetric, bits=bits, factor=f, least=floor), known, floor
    )
    grid = make.grid(1.0)
    if not methods:
        params = params_of(rows, grid)
        return Rounded(quantize(weight, params, axis, block), params)
    integers = grid.integers(rows.values)
    error, gains, notes = make.error(integers, grid), [], []
    power = known.power(rows.values)
    for method in (m for m in ROUNDINGS if m in methods):
        try:
            other, rounded = make.by(method, grid)
        except SingularGram as singular:
            notes.append(f"{method} was not used: {singular}")
            continue
        after = make.error(rounded, other)
        if after < error:
            gains.append((method, decibels(error, power), decibels(after, power)))
            grid, integers, error = other, rounded, after
    return Rounded(rows.back(integers).astype(kind.dtype), params_of(rows, grid), tuple(gains), tuple(notes))


@dataclass(frozen=True, eq=False)
class _Maker:
    """One weight: its grids, the error of integers on one, and what each method makes of it."""

    rows: Rows
    grid: Callable[[float], Grid]
    known: Moments
    least: Array | None

    def error(self, integers: Array, grid: Grid) -> float:
        return self.known.power(grid.reals(integers) - self.rows.values)

    def by(self, method: str, grid: Grid) -> tuple[Grid, Array]:
        """A grid and the integers on it. Raises `SingularGram`."""
        if method == "gptq":
            if self.known.gram is None:
                raise SingularGram("the second moments of its input were not kept")
            return grid, gptq(self.rows.values, grid, self.known.gram)
        made = self._clipped() if method == "clip" else hqq_grid(self.rows.values, grid)
        if self.least is not None:
            made = replace(made, scale=np.maximum(made.scale, self.least).astype(np.float32))
        return made, made.integers(self.rows.values)

    def _clipped(self) -> Grid:
        """For each group of weights the share of its extremes with the least error, weighted by the inputs' squares."""
        values = self.rows.values
        weights = self.known.diagonal
        weights = np.ones((1, 1)) if weights is None else np.atleast_2d(weights)
        best = self.grid(1.0)
        starts = np.arange(0, values.shape[1], best.group)
        scale, zero = best.scale.copy(), best.zero.copy()
        least = np.full(scale.shape, np.inf)
        for factor in _FACTORS:
            tried = self.grid(float(factor))
            with np.errstate(over="ignore"):
                errors = (tried.rounded(values) - values) ** 2 * weights
                sums = np.add.reduceat(errors, starts, axis=1)
            better = sums < least
            least = np.where(better, sums, least)
            scale, zero = np.where(better, tried.scale, scale), np.where(better, tried.zero, zero)
        return replace(best, scale=scale, zero=zero)
