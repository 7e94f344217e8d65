"""What can be asked of quantization: one dataclass, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from graphopt.errors import UsageError, nearest
from graphopt.quant.blocks import WEIGHT_TYPES
from graphopt.quant.calibrate import MEMORY
from graphopt.quant.correct.equalize import EQUALIZATIONS
from graphopt.quant.correct.weights import WEIGHT_CORRECTIONS
from graphopt.quant.place import QuantSelection
from graphopt.quant.ranges import check_method
from graphopt.quant.types import QTYPES

__all__ = ["CORRECTIONS", "FORMATS", "KINDS", "QuantOptions"]

KINDS = ("static", "dynamic", "weights", "auto")
FORMATS = ("qdq", "qoperator")
EXISTING = ("keep", "retarget", "strip")
RESTS = ("", "float32", "float16", "bfloat16")
CORRECTIONS = (*EQUALIZATIONS, "awq", *WEIGHT_CORRECTIONS, "refit")
_AUTO = "auto"
_WIDEST = 16  # bits of an activation or weight
_TYPES = (_AUTO, *(kind.name for kind in QTYPES.values() if kind.bits <= _WIDEST))
_MEASURED = {"static": (*EQUALIZATIONS, "bias"), "weights": ("gptq",)}
"""What makes trained nets better; docs/quantization-methods.md has the figures."""


@dataclass(frozen=True)
class QuantOptions:
    """How to quantize. `method` and `percentile` as in `range_of`; `reduce_range`: 7-bit weights, None asks
    the target. `calib_mem`: bytes of activations that calibration holds at a time. `calibration`: the file that its
    statistics come from, or go to if it does not exist. `corrections`: some of `CORRECTIONS`, and `auto` for those that
    are known to help.

    `kind`: `static` (calibrated), `dynamic` (activations quantized at run time), `weights` (nothing else), or `auto`,
    for each operator. `format`: `qdq` pairs, or `qoperator`, operators that read and write integers.
    `activation`, `weight`: the types to store both in; `auto` for what the target says, and int8 for weights that are
    stored only, which get a scale for each `block` rows (0: for each column; None: what suits).
    `existing`: what becomes of a model that is quantized already: `keep` leaves it alone, `retarget` places its
    own scales for the target, `strip` begins anew from floats. `rest`: what the rest will be converted to (`float16`),
    for which the model may need another opset; empty for what the target says.
    """

    method: str = "auto"
    percentile: float = 99.99
    per_channel: bool = True
    reduce_range: bool | None = None
    calib_mem: int = MEMORY
    calibration: Path | None = None
    corrections: tuple[str, ...] = (_AUTO,)
    selection: QuantSelection = field(default_factory=QuantSelection)
    kind: str = "static"
    format: str = "qdq"
    activation: str = _AUTO
    weight: str = _AUTO
    block: int | None = None
    existing: str = "keep"
    rest: str = ""

    def check(self) -> None:
        """Raises `UsageError` for what makes no sense."""
        check_method(self.method, self.percentile)
        if self.calib_mem < 1:
            raise UsageError(f"calib_mem is {self.calib_mem}", hint="give a number of bytes above 0, such as 1 << 29")
        for name, value, known in (
            ("kind", self.kind, KINDS), ("format", self.format, FORMATS), ("activation", self.activation, _TYPES),
            ("weight", self.weight, _TYPES if self.kind == "static" else (_AUTO, *WEIGHT_TYPES)),
            ("existing", self.existing, EXISTING), ("rest", self.rest, RESTS),
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"quant.{name} cannot be {value!r}", hint=nearest(value, known))
        if self.kind in ("dynamic", "weights") and self.activation != _AUTO:
            raise UsageError(
                f"activations are not stored with kind={self.kind}, so quant.activation cannot be {self.activation!r}",
                hint="leave it out, or take kind=static",
            )
        if self.block is not None and (self.block < 0 or self.block & (self.block - 1)):
            raise UsageError(f"quant.block is {self.block}", hint="give a power of two, such as 32, or 0 for a column")
        for name in self.corrections:
            if name not in (_AUTO, *CORRECTIONS):
                raise UsageError(f"unknown correction {name!r}", hint=nearest(name, (_AUTO, *CORRECTIONS)))
        if self.existing == "retarget" and self.kind != "static":
            raise UsageError(
                f"existing=retarget places calibrated scales, and kind is {self.kind}",
                hint="leave out one of the two, or begin anew with existing=strip",
            )

    @property
    def stored(self) -> str:
        """The type of weights that are stored only."""
        return "int8" if self.weight == _AUTO else self.weight

    def corrections_for(self, kind: str) -> tuple[str, ...]:
        """The corrections of a kind, with `auto` replaced by what it stands for: 8-bit weights alone need none."""
        auto = () if kind == "weights" and self.stored.endswith("8") else _MEASURED.get(kind, ())
        return tuple(dict.fromkeys(n for name in self.corrections for n in (auto if name == _AUTO else (name,))))
