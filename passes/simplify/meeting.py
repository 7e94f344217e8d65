"""Whether two constants in a row may be made one: what the first result loses must not come back with the second."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import DType, Tensor, require

_MODEST = 1024.0  # a factor by which what was lost to underflow may grow and still be nothing


def check_meeting(x: Tensor, a: Tensor, b: Tensor) -> None:
    """Decline where the combined constant would be larger than both."""
    require(not x.is_const, "everything is constant")
    require(a.broadcasts_into(b) or b.broadcasts_into(a), "the combined constant would be larger than either")


def as_double(c: Tensor) -> Any:
    """The constant in float64, in which its arithmetic neither overflows nor loses anything that counts."""
    return c.array.astype(np.float64)


def check_factors(x: Tensor, first: Any, then: Any, *, finite: bool = False) -> None:
    """Decline unless x · first · then is x · (first · then), up to rounding; `finite`: where nothing overflows."""
    with np.errstate(all="ignore"):
        both, first, then = np.abs(first * then), *np.broadcast_arrays(np.abs(first), np.abs(then))
        limits = np.finfo(np.float32) if x.dtype == DType.BFLOAT16 else np.finfo(x.dtype.numpy())
        known = np.isfinite(both) & (both <= float(limits.max))
        kept = (both >= float(limits.tiny)) | (first == 0) | (then == 0)
        overflows = (first > 1) & (then < 1)
        # What a far smaller factor loses could be restored bit by bit, by one factor after the other.
        grows = (first < 1) & (then > _MODEST) | (first**2 < float(limits.tiny)) & (then > 1) & (first > 0)
    require(bool(np.all(known & kept)), "the product of the constants is not a normal number")
    require(finite or not np.any(overflows), "the first product may overflow where that with both constants does not")
    require(not np.any(grows), "the second factor may restore what the first one loses to underflow")


def check_terms(x: Tensor, first: Any, then: Any) -> None:
    """Decline unless x + first + then is x + (first + then), up to rounding."""
    if not x.dtype.is_floating_point():
        return
    with np.errstate(all="ignore"):
        total = first + then
    require(bool(np.all(np.isfinite(total))), "the sum of the constants is not finite")
    require(bool(np.all(first * then >= 0)), "the constants cancel")
