"""What a correction gained, in one form for all of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gain"]


@dataclass(frozen=True)
class Gain:
    """What the correction `name` did at `where` (an operator or a value).

    `before`, `after`: signal-to-noise ratio in dB of what the operators there compute from quantized numbers, as the
    statistics of the calibration let it expect. Higher is better.
    """

    name: str
    where: str
    before: float
    after: float

    @property
    def decibels(self) -> float:
        return self.after - self.before
