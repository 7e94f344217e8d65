"""A weight as a matrix whose rows are summed over: the form in which all rounding works.

Row n holds what is multiplied with the K elements of an input and summed up for one output. Its elements share one
scale, or those of each block of consecutive elements do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.ranges import MIN_SCALE
from graphopt.quant.types import QType, QuantParams, in_half

__all__ = ["Grid", "Rows", "params_of", "steps", "to_rows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Rows:
    """`values` [N, K] float32 of a weight of shape `shape`; `axis` and `block` as `best_rounding` got them."""

    values: Array
    shape: tuple[int, ...]
    axis: int | None
    block: int

    @property
    def group(self) -> int:
        """Elements of a row that share a scale."""
        width = int(self.values.shape[1])
        return min(self.block, width) if self.block else width

    def back(self, matrix: Array) -> Array:
        """A matrix [N, K] in the shape of the weight; with blocks also [N, groups], in their place along the axis."""
        if self.axis is None:
            return matrix.reshape(self.shape)
        rest = [d for i, d in enumerate(self.shape) if i != self.axis]
        if self.block:
            return np.moveaxis(matrix.reshape([*rest, matrix.shape[1]]), -1, self.axis)
        return np.moveaxis(matrix.reshape([matrix.shape[0], *rest]), 0, self.axis)

    def scales(self, matrix: Array) -> Array:
        """A matrix [N, groups] as scales of QuantizeLinear: [], [channels], or the shape with blocks counted."""
        if self.axis is None:
            return matrix.reshape(())
        return self.back(matrix) if self.block else matrix.reshape(-1)


def to_rows(weight: Array, axis: int | None, block: int) -> Rows:
    """`axis`: with blocks the one along which they lie (K), else that of the channels (N); None: one scale for all."""
    if axis is None:
        return Rows(weight.reshape(1, -1), weight.shape, None, 0)
    axis %= weight.ndim
    if block:
        values = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis])
    else:
        values = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return Rows(np.asarray(values, np.float32), weight.shape, axis, block)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that a matrix [N, K] can take: `scale` and `zero` [N, groups], integers from `low` to `high`.

    Of a float8, `kind` gives the values, and zero is 0.
    """

    kind: QType
    scale: Array
    zero: Array
    low: float
    high: float
    group: int

    def integers(self, values: Array) -> Array:
        """The nearest, as floats [N, K]."""
        return self.nearest(values, self.wide(self.scale, values.shape[1]), self.wide(self.zero, values.shape[1]))

    def nearest(self, values: Array, scale: Array, zero: Array) -> Array:
        """The same with a scale and zero point for each element, or that broadcast to it."""
        if self.kind.is_float:
            scaled = np.clip(values / scale, self.low, self.high)
            return np.asarray(scaled.astype(self.kind.dtype).astype(values.dtype))
        return np.asarray(np.clip(np.rint(values / scale) + zero, self.low, self.high))

    def reals(self, integers: Array) -> Array:
        count = integers.shape[1]
        return np.asarray((integers - self.wide(self.zero, count)) * self.wide(self.scale, count))

    def rounded(self, values: Array) -> Array:
        """The nearest values that can be represented."""
        return self.reals(self.integers(values))

    def wide(self, params: Array, count: int) -> Array:
        """[N, groups] for each of `count` elements of a row, or one that broadcasts."""
        return params if params.shape[1] == 1 else np.repeat(params, self.group, axis=1)[:, :count]


def steps(
    rows: Rows,
    kind: QType,
    *,
    symmetric: bool,
    bits: int | None = None,
    factor: float = 1.0,
    least: Array | None = None,
) -> Grid:
    """The grid whose ends are the extremes of each group, times `factor`.

    `symmetric`: zero point 0, and as many integers below as above, except that 4 bits use the lowest one as well where
    something lies there. `bits`: of the integers, fewer than the type has. `least`: [N, 1], smallest scales. A group of
    zeros gets the typical scale of the others: its weights are zero with any, but a bias may be stored in units of it.
    """
    high = kind.high if bits is None or kind.is_float else float(2 ** (bits - 1) - 1)
    low = kind.low if kind.bits < 8 or not symmetric else -high
    values, group = rows.values, rows.group
    if group == values.shape[1]:  # the same, and fast where rows do not lie in one piece
        top, bottom = values.max(axis=1, keepdims=True), values.min(axis=1, keepdims=True)
    else:
        starts = np.arange(0, values.shape[1], group)
        top, bottom = np.maximum.reduceat(values, starts, axis=1), np.minimum.reduceat(values, starts, axis=1)
    top, bottom = np.maximum(top, 0.0).astype(np.float64), np.minimum(bottom, 0.0).astype(np.float64)
    flat = symmetric or kind.is_float
    scale = np.maximum(top, -bottom) / high if flat else (top - bottom) / (high - low)
    used = scale[scale > 0.0]
    scale = np.where(scale > 0.0, scale * factor, float(np.median(used)) if used.size else 1.0 / high)
    if least is not None:
        scale = np.maximum(scale, least)
    scale = in_half(np.maximum(scale, MIN_SCALE), kind).astype(np.float32)
    zero = np.zeros_like(scale) if flat else np.clip(np.rint(low - bottom * factor / scale), low, high)
    return Grid(kind, scale, zero.astype(np.float32), low, high, group)


def params_of(rows: Rows, grid: Grid) -> QuantParams:
    """Scales and zero points in the form of QuantizeLinear."""
    return QuantParams(
        np.asarray(rows.scales(grid.scale), np.float32), np.asarray(rows.scales(grid.zero)).astype(grid.kind.dtype)
    )
