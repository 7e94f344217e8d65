"""Quantization that has to pay: quantize, time the result against the model before it, and keep the better one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from graphopt.errors import DataError
from graphopt.interop.clone import clone
from graphopt.ir.draft import Decline
from graphopt.quant.batches import Feeds, invented
from graphopt.quant.budget import Search
from graphopt.quant.notebook import Notebook, fingerprint, name_of
from graphopt.quant.options import QuantOptions
from graphopt.quant.present import SYNTHETIC_KEY, read_present
from graphopt.quant.quantized import Quantized
from graphopt.quant.sound import place_around
from graphopt.quant.stages import Progress
from graphopt.quant.static import Prepared, prepare, quantize_graph
from graphopt.quant.typed import table_of
from graphopt.quant.verdict import Verdict, judge, unmeasured
from graphopt.quant.within import graphs_of
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.openvino import openvino_speedup
from graphopt.runtime.package import package
from graphopt.verify.validate import made_up_feeds

if TYPE_CHECKING:
    import onnx_ir as oir

    from graphopt.engine.goals import Goals
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.insert import Decliner
    from graphopt.quant.place import QuantSelection
    from graphopt.targets.target import Target

__all__ = ["TAKEN_BACK", "quantize_to_goals"]

_T = TypeVar("_T")

TAKEN_BACK = "quant.taken_back"


def quantize_to_goals(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    goals: Goals,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    decline: Decliner | None = None,
) -> Quantized:
    """As `quantize_graph`, within the budget of `goals`, and with a `verdict`: float is put back if it is not slower.

    With `goals.max_drop`, what costs too much accuracy stays in float, see `budget`; the metric is that of `goals`, or
    the agreement of the outputs with those of the float model. Pairs with which ONNX Runtime computes something else
    are removed (`place_around`). Putting the float model back is one more rewrite, `quant.taken_back`. Nothing is timed
    for a target whose runtime is not installed here, and in a run that ends at an ordinal, which has to take the same
    course each time; nor for a model that came quantized, so that there is no float one.
    """
    work = _Work(model, edit, target, options, data, goals, seed, progress or _silent, decline)
    before = None if read_present(model) else clone(model.ir)
    done = work.quantized(options) if goals.max_drop is None and not goals.sensitivity else work.within_budget()
    if done.operators and target.compiled_by == "onnxruntime":
        done = work.sound(done)
    if before is None:
        return done
    if not (done.operators or done.kinds):
        if done.budget is None or work.take_back(before) is not None:
            return done
        return dataclasses.replace(done, placed=())  # layers were equalized for nothing
    if not goals.timed or (options.kind == "weights" and goals.min_speedup is None):
        return done  # weights are stored so for their size
    verdict = work.verdict(before)
    if verdict.kept == "float":
        reason = work.take_back(before)
        if reason is None:
            return dataclasses.replace(done, verdict=verdict, gains=(), notes=())
        verdict = dataclasses.replace(verdict, kept="quantized", reason=reason)
    return dataclasses.replace(done, verdict=verdict)


@dataclass(frozen=True)
class _Work:
    """What `quantize_to_goals` was given, and the steps that need most of it."""

    model: Model
    edit: Editor
    target: Target
    options: QuantOptions
    data: Iterable[Feeds] | None
    goals: Goals
    seed: int
    progress: Progress
    decline: Decliner | None

    def quantized(self, options: QuantOptions, calibration: Calibration | None = None) -> Quantized:
        """The model itself quantized, with these options."""
        return self._done(functools.partial(quantize_graph, calibration=calibration), options)

    def _done(self, step: Callable[..., _T], options: QuantOptions) -> _T:
        """What a step of `graphopt.quant.static` makes of the model itself."""
        return step(
            self.model,
            self.edit,
            self.target,
            options,
            self.data,
            seed=self.seed,
            progress=self.progress,
            decline=self.decline,
        )

    def within_budget(self) -> Quantized:
        """Search on copies of the model, then quantize the model itself as was found best."""
        options, goals = self.options, self.goals
        options.check()
        if options.existing == "keep" and read_present(self.model):
            return self.quantized(options)
        ready = self._done(prepare, options)
        search = self._search(ready)
        ranking = search.rank() if goals.sensitivity else None
        budget, selection = None, options.selection
        if goals.max_drop is not None:
            found, budget = search.within(goals.max_drop)
            ranking = search.ranking
            if found is None and not budget.met:
                return Quantized((), (), 0, search.calibration, 8, (), budget=budget, ranking=ranking)
            selection = found or selection
        done = self.quantized(dataclasses.replace(ready.options, selection=selection), search.calibration)
        notes = dict.fromkeys((*ready.notes, *done.notes))
        gains = (*ready.gains, *done.gains)
        return dataclasses.replace(done, notes=[*notes], gains=gains, budget=budget, ranking=ranking)

    def _search(self, ready: Prepared) -> Search:
        model, goals, options, known = self.model, self.goals, ready.options, ready.calibration
        statistics = {} if known is None else known.statistics
        seen = [(name, s.minimum, s.maximum, s.total, s.count) for name, s in statistics.items()]
        mark = fingerprint(
            package(model.ir), self.target.name, options, goals.max_drop, self.seed, name_of(goals.metric), seen
        )
        search = Search(
            model,
            table_of(self.target, self.options),
            functools.partial(self._trial, options),
            options.selection,
            invented(model, self.seed) if self.data is None else self.data,
            Notebook(goals.resume, mark),
            self.progress,
            goals.metric,
        )
        search.calibration = known
        return search

    def _trial(
        self,
        options: QuantOptions,
        copy: Model,
        selection: QuantSelection,
        known: Calibration | None,
        hook: Callable[[], None] | None,
    ) -> Quantized:
        """A copy of the model quantized with another selection, as `Search` asks for it."""
        form = options.format if hook is None else "qdq"  # the pairs are looked at
        return quantize_graph(
            copy,
            self.edit.for_copy(copy),
            self.target,
            dataclasses.replace(options, selection=selection, format=form),
            self.data,
            seed=self.seed,
            calibration=known,
            before_insert=hook,
            progress=self.progress,
            decline=lambda *_: None,
        )

    def sound(self, done: Quantized) -> Quantized:
        """Remove the pairs that ONNX Runtime's optimizations break; what they are goes into the notes."""
        try:
            feeds = self._sample()
        except (DataError, ExecutorError):
            return done
        before = _rounded(self.model)
        remarks = place_around(self.model, self.edit, feeds)
        gone = before - _rounded(self.model)
        placed = [p for p in done.placed if p.kind != "activation" or p.name not in gone]
        return dataclasses.replace(done, placed=placed, notes=[*done.notes, *remarks])

    def take_back(self, before: oir.Model) -> str | None:
        """Put the float model back; why not, if that is not done."""
        try:
            self.edit.replace_all(TAKEN_BACK, lambda _: before)
        except Decline as declined:
            return declined.reason
        self.model.metadata.pop(SYNTHETIC_KEY, None)
        return None

    def verdict(self, before: oir.Model) -> Verdict:
        """Which of both models to keep, by the time that they take."""
        self.progress("verdict", 0, None)
        if self.edit.stop_after is not None:
            return unmeasured(f"the run is to end at rewrite {self.edit.stop_after}")
        if self.target.compiled_by not in ("onnxruntime", "openvino"):
            return unmeasured(f"the runtime of {self.target.name} is not timed here")
        try:
            feeds = self._sample()
        except (DataError, ExecutorError) as error:
            return unmeasured(error.what)
        if self.target.compiled_by == "openvino":
            return judge(before, self.model.ir, feeds, self.goals, openvino_speedup)
        return judge(package(before), package(self.model.ir), feeds, self.goals)

    def _sample(self) -> Feeds:
        """One batch of the data, or of made-up inputs. Raises `DataError` if there is none."""
        if self.data is None:
            return made_up_feeds(self.model.ir, facts=self.model.facts, seed=self.seed)[0]
        for batch in self.data:
            return batch
        raise DataError("there is no calibration data", hint="give at least one batch")


def _silent(what: str, done: int, of: int | None) -> None:
    """Shows no progress."""


def _rounded(model: Model) -> set[str]:
    """The names of the activations that have a Q."""
    found = (node for graph in graphs_of(model) for node in graph.find("QuantizeLinear"))
    return {v.name for node in found for v in node.inputs[:1] if v is not None}
