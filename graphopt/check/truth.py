"""Is the result as near to the truth as the original? The truth is what the original computes in double precision.

A rewrite changes the order of roundings. Where the original has lost digits, in a logarithm of what nearly underflows
or in half precision, the result differs from it and is not the worse for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.check.execute import Ran, run_pairs
from graphopt.check.judge import tolerance
from graphopt.check.widen import widen
from graphopt.rules.rule import Accuracy
from graphopt.runtime.trial import Outcomes

__all__ = ["is_as_true"]

Array = np.ndarray[Any, Any]

_FACTOR = 2.0  # by which the result may be farther from the truth than the original
_MOST = 0.01  # error of the original beyond which it tells nothing of other elements


def is_as_true(model: onnx.ModelProto, feeds: dict[str, Array], ran: Ran, accuracy: Accuracy) -> bool:
    """Whether every executor that ran both models computes a result as true as its original.

    False if the original cannot be computed in double precision, and for rules of other classes than close and fast.
    """
    if accuracy not in (Accuracy.CLOSE, Accuracy.FAST):
        return False
    wide, wide_feeds = widen(model, feeds, double=True)
    (pair,) = run_pairs([(wide, wide, wide_feeds)])
    truth = _first(pair[0])
    if wide is model or truth is None:
        return False
    before, after = ran
    both = [name for name in before if before[name].arrays is not None and after[name].arrays is not None]
    return bool(both) and all(
        output in (after[name].arrays or {}) and output in truth
        and _is_near(truth[output], array, (after[name].arrays or {})[output], accuracy)
        for name in both
        for output, array in (before[name].arrays or {}).items()
    )


def _first(outcomes: Outcomes) -> dict[str, Array] | None:
    return next((outcome.arrays for outcome in outcomes.values() if outcome.arrays is not None), None)


def _is_near(truth: Array, original: Array, result: Array, accuracy: Accuracy) -> bool:
    if original.shape != result.shape or original.dtype != result.dtype or truth.shape != original.shape:
        return False
    if original.dtype.kind in "biuOSU":
        return np.array_equal(original, result)
    limit = tolerance(original.dtype, accuracy)
    t, a, b = (array.astype(np.float64) for array in (truth, original, result))
    judged = np.isfinite(a) & np.isfinite(t)
    if accuracy is Accuracy.CLOSE and not np.array_equal(a[~np.isfinite(a)], b[~np.isfinite(a)], equal_nan=True):
        return False
    t, a, b = t[judged], a[judged], b[judged]
    if not np.isfinite(b).all():
        return False
    if not t.size:
        return True
    scale = np.abs(t) + np.sqrt(np.mean(t * t)) + np.finfo(np.float64).tiny
    ours, theirs = np.abs(b - t) / scale, np.abs(a - t) / scale
    typical = min(_FACTOR * float(theirs.max()), _MOST)
    return bool(np.all(ours <= np.maximum(max(limit, typical), _FACTOR * theirs)))
