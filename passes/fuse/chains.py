"""Factors and summands in a row, all constant: x · a + b, with as few operators as that takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphopt_passes.simplify.meeting import as_double, check_factors, check_terms

from graphopt import Const, Tensor, require, rule


def _scaled_line(x: Tensor, a: Const, over: Const, b: Const, less: Const, c: Const, under: Const) -> Tensor:
    scaled = x * a | x / over
    line = scaled + b | scaled - less
    return line * c | line / under


@rule(_scaled_line, shapes={"a": "", "b": "", "less": "", "c": "", "over": "+", "under": "+"})
def line_scale(
    x: Tensor, a: Tensor | None, over: Tensor | None, b: Tensor | None, less: Tensor | None,
    c: Tensor | None, under: Tensor | None,
) -> Tensor:  # fmt: skip
    """A constant factor of a · x + b is one of both constants."""
    slope, offset, factor = (_one(*pair) for pair in ((a, over), (b, less), (c, under)))
    _require_floats(x, slope, offset, factor)
    first, then = _value(a, over), _value(c, under)
    check_factors(x, first, then)
    check_factors(x, as_double(offset), then)
    _require_no_larger(slope, offset, factor)
    steep = _times(_times_or(a, over), c, under)
    shift = _times(offset, c, under)
    return x * steep + shift if less is None else x * steep - shift


def _line_shifted(x: Tensor, a: Const, b: Const, over: Const, c: Const, d: Const) -> Tensor:
    line = (x + a | x - b) * c | (x + a | x - b) / over
    return line + d


@rule(_line_shifted, shapes={"a": "", "b": "", "c": "", "d": "", "over": "+"})
def shift_line(
    x: Tensor, a: Tensor | None, b: Tensor | None, over: Tensor | None, c: Tensor | None, d: Tensor
) -> Tensor:
    """A constant added before and after a constant factor is added once, after it."""
    before, factor = _one(a, b), _one(c, over)
    _require_floats(x, before, factor, d)
    first = as_double(before) if b is None else -as_double(before)
    check_factors(x, first, _value(c, over))
    check_terms(x, first * _value(c, over), as_double(d))
    _require_no_larger(before, factor, d)
    shift = _times(before, c, over)
    scaled = x * c if c is not None else x / over
    return scaled + (shift + d if b is None else d - shift)


def _one(*constants: Tensor | None) -> Tensor:
    return next(c for c in constants if c is not None)


def _value(mul: Tensor | None, div: Tensor | None) -> Any:
    """The factor that a constant is, or is the divisor of."""
    with np.errstate(all="ignore"):
        return as_double(mul) if mul is not None else 1 / as_double(_one(div))


def _times_or(mul: Tensor | None, div: Tensor | None) -> Tensor:
    return mul if mul is not None else 1 / _one(div)


def _times(x: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    return x * mul if mul is not None else x / _one(div)


def _require_floats(x: Tensor, *constants: Tensor) -> None:
    require(x.dtype.is_floating_point(), "integers wrap around")
    require(not x.is_const, "everything is constant")
    require(all(np.isfinite(as_double(c)).all() for c in constants), "a constant is not finite")


def _require_no_larger(*constants: Tensor) -> None:
    """Decline where the constants together would be larger than the largest of them."""
    largest = max(constants, key=lambda c: (c.rank, c.value.nbytes or 0))
    require(all(c.broadcasts_into(largest) for c in constants), "the constants together would be larger than any")
