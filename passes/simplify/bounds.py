"""Max and Min with constants in a row, and bounds that are kept anyway."""

from __future__ import annotations

from typing import cast

import numpy as np

from graphopt import Const, Tensor, op, require, rule


def _max_max(x: Tensor, a: Const, b: Const) -> Tensor:
    return op.Max(op.Max(x, a), b)


def _min_min(x: Tensor, a: Const, b: Const) -> Tensor:
    return op.Min(op.Min(x, a), b)


def _max_of_three(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return op.Max(op.Max(x, y), z)


def _min_of_three(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return op.Min(op.Min(x, y), z)


def _max(x: Tensor, a: Const) -> Tensor:
    return op.Max(x, a)


def _min(x: Tensor, a: Const) -> Tensor:
    return op.Min(x, a)


def _clip(x: Tensor, a: Const | None, b: Const | None) -> Tensor:
    return op.Clip(x, a, b)


@rule(_max_max, accuracy="close", shapes={"a": "", "b": ""})
def max_max(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constants that are bounds from below the larger one counts."""
    _check(x, a, b)
    return op.Max(x, np.asarray(np.maximum(a.array, b.array)))


@rule(_min_min, accuracy="close", shapes={"a": "", "b": ""})
def min_min(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constants that are bounds from above the smaller one counts."""
    _check(x, a, b)
    return op.Min(x, np.asarray(np.minimum(a.array, b.array)))


@rule(_max_of_three, accuracy="close")
def max_of_three(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The larger of the larger of two and a third is the largest of three."""
    return op.Max(x, y, z)


@rule(_min_of_three, accuracy="close")
def min_of_three(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The smaller of the smaller of two and a third is the smallest of three."""
    return op.Min(x, y, z)


@rule(_max, accuracy="close", single_use=False, shapes={"a": ""})
def max_noop(x: Tensor, a: Const) -> Tensor:
    """A bound from below that all elements keep anyway does nothing, up to the sign of a zero."""
    require(a.broadcasts_into(x), "the bound may raise the size of x")
    require(x.range[0] >= _largest(a), "an element may be below")
    return x


@rule(_min, accuracy="close", single_use=False, shapes={"a": ""})
def min_noop(x: Tensor, a: Const) -> Tensor:
    """A bound from above that all elements keep anyway does nothing, up to the sign of a zero."""
    require(a.broadcasts_into(x), "the bound may raise the size of x")
    require(x.range[1] <= _least(a), "an element may be above")
    return x


@rule(_clip, accuracy="close", single_use=False)
def clip_noop(x: Tensor, a: Const | None, b: Const | None) -> Tensor:
    """A Clip to bounds that all elements keep anyway does nothing, up to the sign of a zero."""
    # An infinite element becomes a number where a bound is left out, so that both ends have to be known.
    low, high = x.range
    require(np.isfinite(low) and np.isfinite(high), "an element may be infinite")
    require(a is None or low >= _largest(a), "an element may be below")
    require(b is None or high <= _least(b), "an element may be above")
    return x


def _check(x: Tensor, a: Tensor, b: Tensor) -> None:
    require(not x.is_const, "everything is constant")
    require(a.broadcasts_into(b) or b.broadcasts_into(a), "the combined constant would be larger than either")


def _largest(a: Tensor) -> int | float:
    return cast(int | float, _numbers(a).max().item())


def _least(a: Tensor) -> int | float:
    return cast(int | float, _numbers(a).min().item())


def _numbers(a: Tensor) -> np.ndarray:
    """The elements, integers as they are, for a double does not hold 64 bits. Declines NaN, which is passed on."""
    array: np.ndarray = a.array
    array = array if array.dtype.kind in "iu" else array.astype(np.float64)
    require(array.size > 0 and not np.isnan(array).any(), "a bound is NaN")
    return array
