"""What quantization did: the result that passes and the report read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.quant.budget import Budget
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.correct.gain import Gain
    from graphopt.quant.insert import Placed
    from graphopt.quant.sensitivity import Sensitivity
    from graphopt.quant.verdict import Verdict

__all__ = ["Quantized"]


@dataclass(frozen=True)
class Quantized:
    """What was done: what was placed, what was declined (node, operator, reason), from which calibration,
    with how many bits. `kinds`: operators that were quantized otherwise than static, by kind. `verdict`: whether it
    paid, `budget`: what was left out for the sake of accuracy, `ranking`: what each layer costs; each if that was
    asked. `reasons`: why operators stay float, as `coverage` takes them. `gains`: what corrections made better.
    """

    placed: Sequence[Placed]
    declined: Sequence[tuple[str, str, str]]
    operators: int
    calibration: Calibration | None
    weight_bits: int
    notes: Sequence[str] = ()
    verdict: Verdict | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    gains: Sequence[Gain] = ()
    budget: Budget | None = None
    ranking: Sensitivity | None = None

    @property
    def synthetic(self) -> bool:
        return self.calibration is not None and self.calibration.synthetic
