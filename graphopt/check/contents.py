"""What tensors hold: ordinary numbers, round ones in constants, and at times those that arithmetic treats specially."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import numpy as np

from graphopt.check.dtypes import FLOATS, numpy_dtype

Array = np.ndarray[Any, Any]
Kind = Literal["any", "ordinary", "positive", "nonzero", "natural"]

_SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-40, 1.0, 80.0, -80.0)
_SPECIAL_CONSTANTS = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, 1e-8, 80.0)  # whose products hardly overflow
_ROUND = (0.5, 2.0, 0.25, 4.0, 0.125, 1.0, 3.0, 6.0, 0.1, 0.01, 0.7, -1.0, -0.5, 0.0)
_DIVISORS = (1, 2, 3, 5, 7)
_NEGATIVE = (-2, -3, -5)  # a divisor of -1 takes the smallest integer beyond the largest
_PER_ARRAY = 0.85  # that an array of a sample with special values has some
_PER_CONSTANT = 0.15
_SPLAT = 0.25  # that a constant holds one number throughout
_NICE = 0.7  # that such a number is a round one
_ALIKE = 0.35  # that all elements of a constant have one sign


class Numbers:
    """Arrays of one sample. `special`: with infinities, NaN, zeros of both signs and extreme integers among them."""

    def __init__(self, rng: Random, special: bool) -> None:
        self._rng = rng
        self._random = np.random.default_rng(rng.getrandbits(32))
        self._sprinkler = Random(rng.getrandbits(32))  # of its own, so that without it the rest stays as it is
        self.special = special

    def array(self, shape: Sequence[int], dtype: int, kind: Kind = "any", constant: bool = False) -> Array:
        """Random numbers that suit the dtype, with special ones among them if `kind` is any.

        `positive` and `nonzero` hold for all, `natural` are small, whole and ≥ 0.
        """
        target = numpy_dtype(dtype)
        if constant and (not shape or self._rng.random() < _SPLAT):
            single = self._round(target, kind) if self._rng.random() < _NICE else None
            made = np.full(shape, self._plain((), dtype, kind) if single is None else single, target)
        else:
            made = self._plain(shape, dtype, kind)
            if constant and kind == "any" and dtype in FLOATS and self._rng.random() < _ALIKE:
                made = np.abs(made)
        made = np.asarray(made)  # arithmetic makes scalars of arrays without axes
        if kind == "any":
            self._sprinkle(made, constant)
        return made

    def _plain(self, shape: Sequence[int], dtype: int, kind: Kind) -> Array:
        target = numpy_dtype(dtype)
        if target.kind == "b":
            return np.asarray(self._random.random(shape) < 0.5)
        if dtype not in FLOATS:
            return self._integers(shape, target, kind)
        made = np.asarray(self._random.standard_normal(shape)) * 1.5
        if kind == "positive":
            made = np.abs(made) + 0.1
        elif kind == "natural":
            made = np.floor(np.abs(made) * 2)
        return made.astype(target)

    def _integers(self, shape: Sequence[int], dtype: np.dtype[Any], kind: Kind) -> Array:
        signed = dtype.kind == "i"
        if kind == "nonzero":
            return np.asarray(self._random.choice([*_DIVISORS, *(_NEGATIVE if signed else ())], shape)).astype(dtype)
        low = 1 if kind == "positive" else 0 if kind == "natural" or not signed else -9
        return np.asarray(self._random.integers(low, 4 if kind == "natural" else 10, shape)).astype(dtype)

    def _round(self, dtype: np.dtype[Any], kind: Kind) -> Any:
        """A round number; None if the dtype has no such."""
        if dtype.kind == "b" or (dtype.kind in "iu" and kind != "any"):
            return None
        found = [x for x in _ROUND if kind == "any" or x > 0]
        if dtype.kind in "iu":
            found = [x for x in found if x == int(x) and (x >= 0 or dtype.kind == "i")]
        return np.asarray(self._rng.choice(found)).astype(dtype)

    def _sprinkle(self, array: Array, constant: bool) -> None:
        """Put special values at some places."""
        rng, share = self._sprinkler, _PER_CONSTANT if constant else _PER_ARRAY
        if not (self.special and array.size and array.dtype.kind != "b" and rng.random() < share):
            return
        special: Sequence[float] = _SPECIAL_CONSTANTS if constant else _SPECIAL
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            special = (limits.min, limits.max, 0, limits.max // 2)
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            for number in rng.sample(special, min(array.size, rng.randint(3, len(special)))):
                flat[rng.randrange(array.size)] = number


def near(content: Array, rng: Random) -> Array:
    """A number that is close to `content`, but not it."""
    if content.dtype.kind in "iu":
        with np.errstate(all="ignore"):
            steps = (np.asarray(content + np.asarray(n, content.dtype)) for n in (1, 2))
            return next(x for x in steps if x != 0)  # for it may be a divisor
    if content.dtype.kind == "b":
        return np.asarray(~content)
    wide = content.astype(np.float64)
    with np.errstate(all="ignore"):
        found = (wide * rng.choice((1 + 1e-6, 1.01, -1.0, 2.0))).astype(content.dtype)
        return found if not np.array_equal(found, content) else np.asarray(wide + 0.5).astype(content.dtype)
