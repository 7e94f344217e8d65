"""Quantizing within a budget: the real metric of a few candidates decides how much stays in float."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engine.metric import call_metric
from graphopt.errors import UsageError
from graphopt.interop.clone import clone
from graphopt.ir.model import Model
from graphopt.quant.batches import Feeds
from graphopt.quant.notebook import Notebook
from graphopt.quant.quantized import Quantized
from graphopt.quant.search import State, Step, fewest, steps
from graphopt.quant.sensitivity import Sensitivity, sensitivity
from graphopt.quant.stages import Progress
from graphopt.quant.switches import switchboard
from graphopt.report.units import decibels
from graphopt.runtime.package import package
from graphopt.runtime.run import open_session

if TYPE_CHECKING:
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.place import QuantSelection
    from graphopt.targets.table import QuantTable

__all__ = ["AGREEMENT", "Budget", "Kept", "Search"]

AGREEMENT = "agreement"
_BATCHES = 4  # on which a result is compared with the float model
_LEAST = 1e-12

Trial = Callable[..., Quantized]
"""Quantizes a copy of the model: (copy, selection, calibration or None, hook or None)."""


@dataclass(frozen=True)
class Kept:
    """Something that is not in 8 bits: an operator or an activation by `name`, in `float` or `16bit`, and why."""

    name: str
    kind: str
    state: str
    why: str


@dataclass(frozen=True)
class Budget:
    """What the search found. `metric`: `metric`, or `agreement` in percent; `before`: of the float model, `after`: of
    the result. `probes`: how often the metric was asked about a quantized model, `candidates`: how many steps there
    were. `met` is False if only the float model is left.
    """

    metric: str
    max_drop: float
    before: float
    after: float
    probes: int
    candidates: int
    kept: tuple[Kept, ...] = ()
    met: bool = True
    notes: tuple[str, ...] = ()

    @property
    def least(self) -> float:
        return limit(self.before, self.max_drop)


def limit(before: float, max_drop: float) -> float:
    """The lowest value that a metric may fall to, by percent of what it was."""
    return before - abs(before) * max_drop / 100.0


@dataclass
class Search:
    """One search: `trial` quantizes a copy of `model`; `metric` None asks how well the outputs agree."""

    model: Model
    table: QuantTable
    trial: Trial
    selection: QuantSelection
    batches: Iterable[Feeds]
    notebook: Notebook
    progress: Progress
    metric: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        self.calibration: Calibration | None = None
        self.ranking: Sensitivity | None = None
        self.probes = 0

    def rank(self) -> Sensitivity | None:
        """Measure what each tensor costs; None if nothing can be quantized."""
        if self.ranking is not None:
            return self.ranking

        def quantize(copy: Model, hook: Callable[[], None]) -> None:
            self.calibration = self.trial(copy, self.selection, self.calibration, hook).calibration

        board = switchboard(self.model, quantize)
        if not board.switches:
            return None
        known = self.notebook.section("noise")

        def tell(done: int, of: int | None) -> None:
            self.notebook.save()
            self.progress("sensitivity", done, of)

        found = {} if self.calibration is None else self.calibration.statistics
        self.ranking = sensitivity(board, self.table.weighted, self.batches, found, known=known, progress=tell)
        self.notebook.save()
        return self.ranking

    def within(self, max_drop: float) -> tuple[QuantSelection | None, Budget]:
        """The selection that keeps the metric within `max_drop` percent and gives up least speed; None: all float.

        Raises `UsageError` for a metric that cannot be relied on.
        """
        name = AGREEMENT if self.metric is None else "metric"
        metric = self.metric or self._agreement()
        before, notes = self._float(metric, max_drop)
        least = limit(before, max_drop)
        values: dict[int, float] = {}
        path: list[Step] = []

        def meets(count: int) -> bool:
            state = path[count - 1].state if count else State()
            values[count] = self._probe(metric, state)
            return values[count] >= least

        if meets(0):
            return self.selection, Budget(name, max_drop, before, values[0], self.probes, 0, notes=notes)
        ranking = self.rank()
        if ranking is not None:
            wide = self.table.wide_cost if self.table.wide else None
            path += steps(ranking, float_cost=self.table.float_cost, wide_cost=wide)
        if not path or ranking is None:
            return None, Budget(name, max_drop, before, before, self.probes, 0, met=False, notes=notes)
        count = fewest(len(path), lambda k: values[0] >= least if k == 0 else meets(k))
        state = path[count - 1].state
        kept = _kept(ranking, path[:count])
        all_float = len(state.floats) == len(ranking.operators)
        after = before if all_float else values[count]
        budget = Budget(name, max_drop, before, after, self.probes, len(path), kept, not all_float, notes)
        return (None if all_float else self._selection(state)), budget

    def _float(self, metric: Callable[[Any], float], max_drop: float) -> tuple[float, tuple[str, ...]]:
        """The metric of the float model, asked twice: one that does not repeat itself cannot judge a small loss."""
        known = self.notebook.section("float")
        for key in ("first", "second"):
            if key not in known:
                self.progress("metric", len(known), 2)
                known[key] = self._ask(metric, self.model)
                self.notebook.save()
        first, second = known["first"], known["second"]
        if first == second:
            return first, ()
        if abs(first - second) > abs(first) * max_drop / 100.0:
            raise UsageError(
                f"the metric gives {first:.6g} and then {second:.6g} for the same model, "
                f"which is more than the {max_drop:g} % that it may fall",
                hint="seed what is random in it, or evaluate more samples",
            )
        return first, (f"the metric gives {first:.6g} and then {second:.6g} for the same float model",)

    def _probe(self, metric: Callable[[Any], float], state: State) -> float:
        """The metric of the model quantized in this state."""
        known = self.notebook.section("probes")
        selection = self._selection(state)
        key = repr((sorted(selection.floats), sorted(selection.values.items())))
        self.probes += 1
        self.progress("probe", self.probes, None)
        if key not in known:
            copy = Model(clone(self.model.ir))
            self.calibration = self.trial(copy, selection, self.calibration, None).calibration or self.calibration
            known[key] = self._ask(metric, copy)
            self.notebook.save()
        return known[key]

    def _ask(self, metric: Callable[[Any], float], model: Model) -> float:
        with open_session(package(model.ir), optimized=True, repeated=True) as session:
            return call_metric(metric, session.run)

    def _agreement(self) -> Callable[[Any], float]:
        """How much of the power of each output is right, in percent; that of the worst output."""
        feeds = list(itertools.islice(self.batches, _BATCHES))
        with open_session(package(self.model.ir), optimized=True) as session:
            exact = [session.run(feed) for feed in feeds]

        def metric(run: Callable[[Feeds], Mapping[str, Any]]) -> float:
            return 100.0 * (1.0 - _noise(exact, [run(feed) for feed in feeds]))

        return metric

    def _selection(self, state: State) -> QuantSelection:
        found = self.ranking
        if found is None:
            return self.selection
        values: dict[str, Any] = dict(self.selection.values)
        for kind, positions in (("16bit", state.wide), ("float", state.plain)):
            values.update((name, kind) for i in positions for name in found.tensors[i].values)
        floats = self.selection.floats | {found.operators[i].key for i in state.floats}
        return dataclasses.replace(self.selection, floats=floats, values=values)


def _noise(exact: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """The power of the difference over that of the output, for the worst output; 1 at most."""
    worst = 0.0
    for name in exact[0]:
        pairs = [(a[name], b[name]) for a, b in zip(exact, found, strict=True)]
        if any(a.shape != b.shape for a, b in pairs):
            return 1.0
        if not np.issubdtype(pairs[0][0].dtype, np.floating):
            continue
        power = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
        lost = sum(float(np.square(np.subtract(a, b, dtype=np.float64)).sum()) for a, b in pairs)
        share = lost / max(power, _LEAST)
        worst = max(worst, share if math.isfinite(share) else 1.0)
    return min(worst, 1.0)


def _kept(found: Sensitivity, path: Sequence[Step]) -> tuple[Kept, ...]:
    """What the steps left out of 8 bits, each with the reason; an operator once, for the step that came first."""
    kept: dict[tuple[str, str], Kept] = {}
    before = State()
    for step in path:
        if step.tensor is not None:
            tensor = found.tensors[step.tensor]
            state = "float" if step.tensor in step.state.plain else "16bit"
            name = tensor.values[0]
            kept[name, "activation"] = Kept(name, "activation", state, f"alone it leaves {decibels(tensor.noise)}")
        why = "" if step.tensor is None else f"it reads or writes {found.tensors[step.tensor].values[0]!r}"
        for i in sorted(step.state.floats - before.floats):
            op = found.operators[i]
            kept[op.key, op.op] = Kept(op.name, op.op, "float", why or found.reason(op))
        before = step.state
    return tuple(kept.values())
