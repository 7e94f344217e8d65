"""What a run has to reach, for passes that trade accuracy for speed: they weigh it, the engine only carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.engine.passes import Pass

__all__ = ["Goals"]

_DROP = 1.0  # percent: what is commonly accepted of int8

Metric = Callable[[Any], float]
"""Gets a function that runs a model (inputs by name to outputs by name); returns a number, higher being better."""


@dataclass(frozen=True)
class Goals:
    """The user's metric and limits.

    `metric` and `max_drop`: the metric may fall by that many percent of the original's; either may be missing.
    `timed`: whether a result that is to be faster is timed, and given up if it is not; `force` keeps it all the same.
    `min_speedup`: how many times as fast as before quantization the result has to be, at least. `sensitivity`: the
    report shall say what each layer costs. `resume`: the file in which a search writes down what it has measured, and
    which it goes on with.
    """

    metric: Metric | None = None
    max_drop: float | None = None
    timed: bool = True
    force: bool = False
    min_speedup: float | None = None
    sensitivity: bool = False
    resume: Path | None = None

    def checked(self, passes: Iterable[Pass]) -> Goals:
        """The goals with what was left open: with a metric, and a pass that heeds it, it may fall by 1 %.

        Raises `UsageError` for numbers that make no sense, and for a goal that needs a metric, or such a pass, that is
        not there.
        """
        self._check_numbers()
        if any(item.heeds_goals for item in passes):
            return replace(self, max_drop=_DROP) if self.metric is not None and self.max_drop is None else self
        if self.max_drop is not None and self.metric is None:
            raise UsageError("max_drop needs a metric", hint="give one with evaluate")
        if self.sensitivity:
            raise UsageError("nothing is quantized whose sensitivity could be measured", hint="add quant to the passes")
        return self

    def _check_numbers(self) -> None:
        if self.max_drop is not None and not 0.0 <= self.max_drop < float("inf"):
            raise UsageError(f"max_drop is {self.max_drop:g}", hint="give percent of the metric, such as 1")
        if self.min_speedup is not None and not 0.0 < self.min_speedup < float("inf"):
            raise UsageError(f"min_speedup is {self.min_speedup:g}", hint="give a factor above 0, such as 1.5")
