"""What a run did and what it is worth, as data: the source of the table and of the JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.errors import GateError

if TYPE_CHECKING:
    from graphopt.ir.model import Model


@dataclass
class Measures:
    """A model in numbers. `macs` and `peak_bytes` are None where shapes are not known well enough to tell.

    `file_bytes`: size as a file, external data included. `macs`: multiply-accumulates of one run.
    `peak_bytes`: the most bytes of activations alive at once, in the model's own order of nodes.
    `assumed`: what those two take for granted, such as `batch = 1`.
    """

    nodes: int
    parameters: int
    weight_bytes: int
    file_bytes: int | None = None
    macs: int | None = None
    peak_bytes: int | None = None
    operators: Counter[str] = field(default_factory=Counter)
    opset: int = 0
    assumed: list[str] = field(default_factory=list)


@dataclass
class PassSummary:
    """What one pass did. `asked`: not added as a prerequisite. By rule: how often it was `tried` on a node
    and `fired`, how often it `declined` a match for which reason, and `rule_seconds`, if that was measured. `routine`:
    rules that match any operator of a kind, so that most of their matches are no chance that was missed.
    """

    name: str
    spelling: str
    asked: bool
    rewrites: int
    nodes_added: int
    seconds: float
    fired: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    declined: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rule_seconds: dict[str, float] = field(default_factory=dict)
    routine: frozenset[str] = frozenset()


@dataclass
class Latency:
    """Median milliseconds of one run, and the interval that holds the middle half of all runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, times: Any) -> Latency:
        """From what the runtime measured, in seconds."""
        return cls(1e3 * times.median, 1e3 * times.low, 1e3 * times.high, times.runs)


@dataclass
class Report:
    """Everything that the table shows and more. `seconds` is wall time by phase.

    `verification` is None if it was switched off. `metric_*`: what `evaluate` returned for the
    original and for the result. `calibration`: None, "data", "synthetic" or "model". `coverage`: heavy
    operators that run in integers and in floats on the target, where that was read off its compiled graph.
    `verdict`: whether quantization made it faster, None if nothing was quantized. `quantized`: every activation, weight
    and bias that became integers (`graphopt.quant.insert.Placed`), with the reason. `gains`: what each correction of
    quantization made better, None if there was none.
    `budget`: what was left out of 8 bits for the sake of accuracy, `sensitivity`: what each layer costs.
    """

    source: str
    target: str
    before: Measures
    after: Measures
    passes: list[PassSummary] = field(default_factory=list)
    verification: Any = None
    metric_before: float | None = None
    metric_after: float | None = None
    latency_before: Latency | None = None
    latency_after: Latency | None = None
    calibration: str | None = None
    coverage: Any = None
    verdict: Any = None
    quantized: list[Any] = field(default_factory=list)
    gains: Any = None
    budget: Any = None
    sensitivity: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    output: str | None = None
    stopped_after: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def missed_gate(self, max_drop: float | None) -> GateError | None:
        """The error if the metric fell by more than `max_drop` percent of what it was; None if it did not."""
        before, after = self.metric_before, self.metric_after
        if max_drop is None or before is None or after is None:
            return None
        if before - after <= abs(before) * max_drop / 100:
            return None
        return GateError(
            f"the metric falls from {before:.6g} to {after:.6g}, by more than {max_drop:g} %",
            where=self.source,
            hint="nothing was written; allow a larger drop, give more calibration data, or leave out passes",
        )

    def missed_speedup(self, least: float | None) -> GateError | None:
        """The error if quantization did not make the model `least` times as fast; None if it did."""
        if least is None:
            return None
        missed = "nothing was quantized" if self.verdict is None else self.verdict.misses(least)
        if missed is None:
            return None
        hint = "nothing was written; ask for less, or leave quant out"
        return GateError(missed, where=self.source, hint=hint)

    def see_kernels(self, model: Model, runtime: str | None, reasons: Mapping[str, str]) -> None:
        """Read from the graph that `runtime` compiles which heavy operators run on integers; a note if it cannot be.

        `reasons`: why operators were left in float, by name.
        """
        from graphopt.quant.kernels import read_kernels

        found = read_kernels(model, runtime, reasons)
        if isinstance(found, str):
            self.notes.append(found)
        else:
            self.coverage = found

    @property
    def rewrites(self) -> int:
        return sum(p.rewrites for p in self.passes)

    def __str__(self) -> str:
        """The tables that `graphopt run` prints, as plain text."""
        from graphopt.report.table import to_text

        return to_text(self)
