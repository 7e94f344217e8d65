"""`optimize`, `load` and `save`: graphopt as a library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.compile import Job
from graphopt.emit.emitter import EmitOptions, Emitted, emitter_for
from graphopt.engine.assemble import Asked, Ruleful
from graphopt.engine.goals import Goals
from graphopt.engine.journal import Journal
from graphopt.engine.passes import Progress, silent
from graphopt.engine.selection import Selection
from graphopt.errors import UsageError
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.form import Form
from graphopt.interop.kinds import Kind, kind_of, parse_kind
from graphopt.ir.collector import collect_if_grown, paused_gc
from graphopt.ir.interface import InterfaceRequest
from graphopt.ir.model import Model
from graphopt.ir.request import size_request
from graphopt.report.report import Report
from graphopt.targets.target import Target
from graphopt.verify.modes import Mode, parse_mode
from graphopt.verify.recipe import prepared

if TYPE_CHECKING:
    from graphopt.verify.validate import Verification

Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a model: inputs by name to outputs by name."""


@dataclass
class Result:
    """What `optimize` returns. `model` has the form of the model that was given, or the one asked for."""

    report: Report
    journal: Journal
    _optimized: Model
    _kind: Kind
    _given: Any
    _target: Target

    @property
    def model(self) -> Any:
        """The optimized model: the kind that was given (a `Model` for a path), or that of `as_`."""
        return from_ir(self._optimized.ir, self._kind, like=self._given, source=self._optimized.source)

    @property
    def verification(self) -> Verification | None:
        found: Verification | None = self.report.verification
        return found

    def save(self, path: str | os.PathLike[str], **options: Any) -> Emitted:
        """Write the result; the suffix chooses the form (`.onnx`, `.engine`, …).

        `options` are the fields of `EmitOptions`: `external`, `strip`, `sm`, `profile`. The file is written whole or
        not at all. Raises `UsageError` for a path that cannot be written, `TargetError` if the target refuses the
        model.
        """
        emitter = emitter_for(path, self._target.name)
        with paused_gc():
            emitted = emitter.emit(self._optimized, Path(path), EmitOptions(**options))
        self.report.output = os.fspath(path)
        self.report.after.file_bytes = emitted.bytes
        self.report.notes.extend(emitted.notes)
        return emitted


def load(source: Any, *, allow_links: bool = False) -> Model:
    """A model from a path, bytes or an object of another library; weights stay in their file until they are read.

    `allow_links`: follow links to external data that lead out of the model's folder. Raises `ModelError` if it is
    not a valid model, `UsageError` if there is no such file.
    """
    ir, origin = to_ir(source, allow_links=allow_links)
    return Model(ir, origin)


def save(model: Model, path: str | os.PathLike[str], *, external: bool | None = None) -> Emitted:
    """Write a model as ONNX. `external`: weights in a file of their own; None keeps what the input had."""
    return emitter_for(path).emit(model, Path(path), EmitOptions(external=external))


def optimize(
    model: Any,
    passes: str | Sequence[Asked] = "O2",
    *,
    rules: Ruleful | Iterable[Ruleful] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    protect: Sequence[str] = (),
    keep_going: bool = False,
    shapes: Mapping[str, Sequence[int | None]] | Sequence[int | None] | None = None,
    dims: Mapping[str, int | str | None] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    freeze: bool = False,
    before: Any = None,
    after: Any = None,
    connect: Mapping[str, str] | None = None,
    target: str | Target = "onnx",
    data: Any = None,
    preprocess: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    calib_mem: str | None = None,
    evaluate: Callable[[Runner], float] | None = None,
    max_drop: float | None = None,
    force: bool = False,
    min_speedup: float | None = None,
    sensitivity: bool = False,
    resume: str | os.PathLike[str] | None = None,
    verify: bool | Mode = True,
    accuracy: str | None = None,
    bench: bool = False,
    stats: bool = False,
    stop_after: int | None = None,
    seed: int = 0,
    as_: str | None = None,
    allow_links: bool = False,
    progress: Progress = silent,
) -> Result:
    """Optimize a model for a target.

    `model`: a path, bytes, `graphopt.Model`, `onnx.ModelProto`, `onnx_ir.Model`, torch's `ONNXProgram` or a
    graphsurgeon `Graph`; it is not changed, and `Result.model` is of the same kind unless `as_` names another.
    `passes`: names separated by commas, with options in braces (`"fuse,quant{method=percentile}"`), a preset
    (`"O2"`), or a list of such names, `Pass` objects, rules, and modules with rules. Passes that these require are put
    in front.
    `rules`: rules files, modules with rules, or rules; they run behind the passes unless these name them.
    `select`: apply only the rules with such names (`"fuse.gelu_*"`); `ignore`: make no rewrites with such names.
    `protect`: leave alone the nodes and values with such names (`"/head/*"`) and operators (`"op:Softmax"`).
    `keep_going`: switch off a rule that raises, and go on without it.
    `shapes`: what sizes inputs have from now on, by name, or of the only input; None leaves a size as it is. `dims`:
    numbers for sizes that the model leaves open, by their name or as `"input:axis"`; `"?"` frees the batch instead,
    along the first axis of all inputs, which is then called so, or along an `"input:axis"`, for which a name may stand.
    `inputs`, `outputs`: the values that the model is to take and to give, in this order, also values inside of it; what
    they do not need is left out. `rename`: new names of inputs and outputs by their old ones. `freeze`: inputs with a
    default value are inputs no more, and constant. `before`, `after`: models
    that become part of this one, such as pre- and post-processing; `connect`: which output goes to which input, where
    names do not say so.
    `target`: where the model will run. `data`: samples for calibration and verification: a file, a folder, the
    name of a function, `"FILE.py:FUNCTION"`, an iterable of dicts from input name to array, a function that returns
    one, or a `CalibrationDataReader` of ONNX Runtime. `preprocess`: how images, if that is what the files are, become
    arrays: `"resize=256,crop=224,scale=1/255,layout=nchw,rgb"`. `calibration`: a file with the statistics of `quant`,
    which is written if it does not exist, and used instead of the data if it does; `calib_mem`: the activations that
    are held meanwhile, such as `"512MiB"`. `evaluate(run)` returns a metric, higher being better, computed by calling
    `run(feeds)`; it is applied to the original and the result, and `max_drop` is the most by which the metric may fall,
    in percent of the original's. With `quant` that is 1 where there is a metric, and `max_drop` may stand alone: then
    the outputs are compared with those of the float model; `resume`: a file in which the search writes down what it has
    measured, to go on with. `sensitivity`: measure what quantizing each layer costs. `force`: keep the quantized model
    even if it turns out not to be faster than the float one, which is kept otherwise. `min_speedup`: how many times as
    fast quantization has to make the model, at least.
    `verify` compares the result with the original in a second process; `"pass"` does so after each pass, too, and
    `"local"` also compares what each rewrite replaced with what it made.
    `accuracy`: the loosest class of rewrite allowed (`exact`, `close`, `fast`); by default that of the preset.
    `bench` measures the latency of both. `stats`: measure the time of each rule for the report. `stop_after`: apply
    rewrites up to this ordinal only.

    Raises `UsageError`, `DataError`, `ModelError`, `RuleError` if a rule raises, `VerificationError` if the result
    does not compute the same, `GateError` if the metric falls by more than `max_drop` or the
    speedup is less than `min_speedup`, `TargetError`.
    """
    selection = Selection(
        _patterns("select", select), _patterns("ignore", ignore), _patterns("protect", protect), keep_going
    )
    kind = kind_of(model)
    wanted = kind if as_ is None else parse_kind(as_)
    mode = parse_mode(verify)
    collect_if_grown()
    with paused_gc():  # the graph is all that is made here, and it stays
        job = Job(
            model,
            passes,
            target=target,
            data=prepared(data, preprocess),
            accuracy=accuracy,
            stop_after=stop_after,
            seed=seed,
            allow_links=allow_links,
            rules=rules,
            selection=selection,
            sizes=size_request(shapes, dims),
            trust_sizes=not mode,
            options=_options(calibration, calib_mem),
            form=Form(before, after, dict(connect or {}), _interface(inputs, outputs, rename, freeze)),
            goals=Goals(
                evaluate,
                max_drop,
                force=force,
                min_speedup=min_speedup,
                sensitivity=sensitivity,
                resume=None if resume is None else Path(resume),
            ),
            progress=progress,
        )
        job.compile(verify=mode, keep_original=evaluate is not None or bench, timed=stats)
    if mode:
        job.check()
    if evaluate is not None:
        job.evaluate()
    if bench:
        job.bench()
    job.gate()
    return Result(job.report, job.journal, job.model, wanted, model, job.target)


def _options(calibration: str | os.PathLike[str] | None, calib_mem: str | None) -> dict[str, str]:
    given = {"calibration": None if calibration is None else os.fspath(calibration), "calib_mem": calib_mem}
    return {name: value for name, value in given.items() if value is not None}


def _interface(
    inputs: Sequence[str] | None, outputs: Sequence[str] | None, rename: Mapping[str, str] | None, freeze: bool
) -> InterfaceRequest:
    taken, given = (None if names is None else _patterns(kind, names) for kind, names in
                    (("inputs", inputs), ("outputs", outputs)))  # fmt: skip
    return InterfaceRequest(taken, given, dict(rename or {}), freeze)


def _patterns(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """The patterns of an argument. A text alone would be taken for a list of letters."""
    if isinstance(given, str) or not all(isinstance(item, str) for item in given):
        raise UsageError(f"{name} cannot be {given!r}", hint=f"give a list of texts: {name}=['…']")
    return tuple(given)
