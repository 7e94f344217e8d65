"""Quantization that has to pay: quantize, time the result against the model before it, and keep the better one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from graphopt.errors import DataError
from graphopt.interop.clone import clone
from graphopt.ir.draft import Decline
from graphopt.quant.options import QuantOptions
from graphopt.quant.present import read_present
from graphopt.quant.quantized import Quantized
from graphopt.quant.static import SYNTHETIC_KEY, Feeds, Progress, quantize_graph
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
    from graphopt.quant.insert import Decliner
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
    """As `quantize_graph`, with a `verdict` in the result; the float model is put back if integers are not faster.

    That is one more rewrite, `quant.taken_back`. Nothing is timed for a target whose runtime is not installed
    here, and in a run that ends at an ordinal, which has to take the same course each time; nor for a model
    that came quantized, so that there is no float one.
    """
    before = clone(model.ir) if goals.timed and not read_present(model) else None
    done = quantize_graph(model, edit, target, options, data, seed=seed, progress=progress, decline=decline)
    if before is None or not (done.operators or done.kinds):
        return done
    if progress is not None:
        progress("verdict", 0, None)
    verdict = _verdict(model, before, edit, target, data, goals, seed)
    if verdict.kept == "float":
        try:
            edit.replace_all(TAKEN_BACK, lambda _, before=before: before)  # type: ignore[misc]
            model.metadata.pop(SYNTHETIC_KEY, None)
        except Decline as declined:
            verdict = dataclasses.replace(verdict, kept="quantized", reason=declined.reason)
    return dataclasses.replace(done, verdict=verdict)


def _verdict(
    model: Model, before: oir.Model, edit: Editor, target: Target, data: Iterable[Feeds] | None, goals: Goals, seed: int
) -> Verdict:
    if edit.stop_after is not None:
        return unmeasured(f"the run is to end at rewrite {edit.stop_after}")
    if target.compiled_by not in ("onnxruntime", "openvino"):
        return unmeasured(f"the runtime of {target.name} is not timed here")
    try:
        feeds = made_up_feeds(model.ir, facts=model.facts, seed=seed)[0] if data is None else next(iter(data))
    except (DataError, ExecutorError) as error:
        return unmeasured(error.what)
    if target.compiled_by == "openvino":
        return judge(before, model.ir, feeds, goals, openvino_speedup)
    return judge(package(before), package(model.ir), feeds, goals)
