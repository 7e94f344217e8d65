"""Calling the user's metric: what it returns is a finite number, or an error that says what it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphopt.errors import GraphoptError, UsageError

__all__ = ["call_metric"]


def call_metric(metric: Callable[[Any], float], run: Any) -> float:
    """What `metric` returns for a function that runs a model.

    Raises `UsageError` if it raises, or returns something that is no finite number; errors of graphopt pass through.
    """
    try:
        found: Any = metric(run)
    except GraphoptError:
        raise
    except Exception as error:
        raise UsageError(
            f"the metric raised {type(error).__name__}: {error}", hint="the error before this one shows where"
        ) from error
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise UsageError(
            f"the metric returned {type(found).__name__}, which is no number", hint="return a number, higher is better"
        ) from None
    if not math.isfinite(value):
        raise UsageError(f"the metric returned {value}, which is no measure", hint="return a finite number")
    return value
