"""What can be asked of quantization: one dataclass, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.quant.place import QuantSelection
from graphopt.quant.ranges import check_method

__all__ = ["QuantOptions"]


@dataclass(frozen=True)
class QuantOptions:
    """How to quantize. `method` and `percentile` as in `range_of`; `reduce_range`: 7-bit weights, None asks
    the target.
    """

    method: str = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    reduce_range: bool | None = None
    selection: QuantSelection = field(default_factory=QuantSelection)

    def check(self) -> None:
        """Raises `UsageError` for what makes no sense."""
        check_method(self.method, self.percentile)
