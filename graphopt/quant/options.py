"""What can be asked of quantization: one dataclass, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.errors import UsageError
from graphopt.quant.calibrate import MEMORY
from graphopt.quant.place import QuantSelection
from graphopt.quant.ranges import check_method

__all__ = ["QuantOptions"]


@dataclass(frozen=True)
class QuantOptions:
    """How to quantize. `method` and `percentile` as in `range_of`; `reduce_range`: 7-bit weights, None asks
    the target. `calib_mem`: bytes of activations that calibration holds at a time.
    """

    method: str = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    reduce_range: bool | None = None
    calib_mem: int = MEMORY
    selection: QuantSelection = field(default_factory=QuantSelection)

    def check(self) -> None:
        """Raises `UsageError` for what makes no sense."""
        check_method(self.method, self.percentile)
        if self.calib_mem < 1:
            raise UsageError(f"calib_mem is {self.calib_mem}", hint="give a number of bytes above 0, such as 1 << 29")
