"""Quantization that has to pay: quantize, time the result against the model before it, and keep the better one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from graphopt.errors import DataError
from graphopt.interop.clone import clone
from graphopt.ir.draft import Decline
from graphopt.quant.budget import Search
from graphopt.quant.notebook import Notebook, fingerprint, name_of
from graphopt.quant.options import QuantOptions
from graphopt.quant.present import SYNTHETIC_KEY, read_present
from graphopt.quant.quantized import Quantized
from graphopt.quant.sound import place_around
from graphopt.quant.stages import Feeds, Progress, invented
from graphopt.quant.static import prepare, quantize_graph
from graphopt.quant.typed import table_of
from graphopt.quant.verdict import Verdict, judge, unmeasured
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
    before = None if read_present(model) else clone(model.ir)
    show = progress or _silent
    if goals.max_drop is None and not goals.sensitivity:
        done = quantize_graph(model, edit, target, options, data, seed=seed, progress=progress, decline=decline)
    else:
        done = _within_budget(model, edit, target, options, data, goals, seed, show, decline)
    if done.operators and target.compiled_by == "onnxruntime":
        done = _sound(done, model, edit, data, seed)
    if before is None:
        return done
    if not (done.operators or done.kinds):
        if done.budget is None or _take_back(model, edit, before) is not None:
            return done
        return dataclasses.replace(done, placed=())  # layers were equalized for nothing
    if not goals.timed or (options.kind == "weights" and goals.min_speedup is None):
        return done  # weights are stored so for their size
    show("verdict", 0, None)
    verdict = _verdict(model, before, edit, target, data, goals, seed)
    if verdict.kept == "float":
        reason = _take_back(model, edit, before)
        if reason is None:
            return dataclasses.replace(done, verdict=verdict, gains=())
        verdict = dataclasses.replace(verdict, kept="quantized", reason=reason)
    return dataclasses.replace(done, verdict=verdict)


def _take_back(model: Model, edit: Editor, before: oir.Model) -> str | None:
    """Put the float model back; why not, if that is not done."""
    try:
        edit.replace_all(TAKEN_BACK, lambda _: before)
    except Decline as declined:
        return declined.reason
    model.metadata.pop(SYNTHETIC_KEY, None)
    return None


def _silent(what: str, done: int, of: int | None) -> None:
    """Shows no progress."""


def _within_budget(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    goals: Goals,
    seed: int,
    progress: Progress,
    decline: Decliner | None,
) -> Quantized:
    """Search on copies of the model, then quantize the model itself as was found best."""
    options.check()
    if options.existing == "keep" and read_present(model):
        return quantize_graph(model, edit, target, options, data, seed=seed, progress=progress, decline=decline)
    table = table_of(target, options)
    ready = prepare(model, edit, target, options, data, seed=seed, progress=progress, decline=decline)
    options = ready.options

    def trial(
        copy: Model, selection: QuantSelection, known: Calibration | None, hook: Callable[[], None] | None
    ) -> Quantized:
        form = options.format if hook is None else "qdq"  # the pairs are looked at
        return quantize_graph(
            copy,
            edit.for_copy(copy),
            target,
            dataclasses.replace(options, selection=selection, format=form),
            data,
            seed=seed,
            calibration=known,
            before_insert=hook,
            progress=progress,
            decline=lambda *_: None,
        )

    batches = invented(model, seed) if data is None else data
    seen = [] if ready.calibration is None else [
        (name, s.minimum, s.maximum, s.total, s.count) for name, s in ready.calibration.statistics.items()
    ]
    mark = fingerprint(package(model.ir), target.name, options, goals.max_drop, seed, name_of(goals.metric), seen)
    search = Search(
        model, table, trial, options.selection, batches, Notebook(goals.resume, mark), progress, goals.metric
    )
    search.calibration = ready.calibration
    ranking = search.rank() if goals.sensitivity else None
    budget, selection = None, options.selection
    if goals.max_drop is not None:
        found, budget = search.within(goals.max_drop)
        ranking = search.ranking
        if found is None and not budget.met:
            return Quantized((), (), 0, search.calibration, 8, (), budget=budget, ranking=ranking)
        selection = found or selection
    chosen = dataclasses.replace(options, selection=selection)
    done = quantize_graph(
        model, edit, target, chosen, data, seed=seed, calibration=search.calibration, progress=progress, decline=decline
    )
    notes = dict.fromkeys((*ready.notes, *done.notes))
    gains = (*ready.gains, *done.gains)
    return dataclasses.replace(done, notes=[*notes], gains=gains, budget=budget, ranking=ranking)
def _sound(done: Quantized, model: Model, edit: Editor, data: Iterable[Feeds] | None, seed: int) -> Quantized:
    """Remove the pairs that ONNX Runtime's optimizations break; what they are goes into the notes."""
    try:
        feeds = _sample(model, data, seed)
    except (DataError, ExecutorError):
        return done
    before = _rounded(model)
    remarks = place_around(model, edit, feeds)
    gone = before - _rounded(model)
    placed = [p for p in done.placed if p.kind != "activation" or p.name not in gone]
    return dataclasses.replace(done, placed=placed, notes=[*done.notes, *remarks])


def _rounded(model: Model) -> set[str]:
    """The names of the activations that have a Q."""
    return {v.name for node in model.main.find("QuantizeLinear") for v in node.inputs[:1] if v is not None}


def _sample(model: Model, data: Iterable[Feeds] | None, seed: int) -> Feeds:
    """One batch of the data, or of made-up inputs. Raises `DataError` if there is none."""
    if data is None:
        return made_up_feeds(model.ir, facts=model.facts, seed=seed)[0]
    for batch in data:
        return batch
    raise DataError("there is no calibration data", hint="give at least one batch")


def _verdict(
    model: Model, before: oir.Model, edit: Editor, target: Target, data: Iterable[Feeds] | None, goals: Goals, seed: int
) -> Verdict:
    if edit.stop_after is not None:
        return unmeasured(f"the run is to end at rewrite {edit.stop_after}")
    if target.compiled_by not in ("onnxruntime", "openvino"):
        return unmeasured(f"the runtime of {target.name} is not timed here")
    try:
        feeds = _sample(model, data, seed)
    except (DataError, ExecutorError) as error:
        return unmeasured(error.what)
    if target.compiled_by == "openvino":
        return judge(before, model.ir, feeds, goals, openvino_speedup)
    return judge(package(before), package(model.ir), feeds, goals)
