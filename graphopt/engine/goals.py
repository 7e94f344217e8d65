"""What a run has to reach, for passes that trade accuracy for speed: they weigh it, the engine only carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UsageError

__all__ = ["Goals"]

Metric = Callable[[Any], float]
"""Gets a function that runs a model (inputs by name to outputs by name); returns a number, higher being better."""


@dataclass(frozen=True)
class Goals:
    """The user's metric and limits.

    `metric` and `max_drop`: the metric may fall by that many percent of the original's; either may be missing.
    `timed`: whether a result that is to be faster is timed, and given up if it is not; `force` keeps it all the same.
    `min_speedup`: how many times as fast as before quantization the result has to be, at least.
    """

    metric: Metric | None = None
    max_drop: float | None = None
    timed: bool = True
    force: bool = False
    min_speedup: float | None = None

    def check(self) -> None:
        """Raises `UsageError` for numbers that make no sense."""
        if self.max_drop is not None and not 0.0 <= self.max_drop < float("inf"):
            raise UsageError(f"max_drop is {self.max_drop:g}", hint="give percent of the metric, such as 1")
        if self.min_speedup is not None and not 0.0 < self.min_speedup < float("inf"):
            raise UsageError(f"min_speedup is {self.min_speedup:g}", hint="give a factor above 0, such as 1.5")
