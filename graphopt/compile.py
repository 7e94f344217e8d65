"""One optimization from input to checked result, phase by phase, each with its time in the report."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engine.assemble import Asked, Ruleful, accuracy_of, assemble, with_options
from graphopt.engine.goals import Goals
from graphopt.engine.journal import Journal
from graphopt.engine.metric import call_metric
from graphopt.engine.names import check_names, remarks
from graphopt.engine.passes import Pass, Progress, silent
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.selection import Selection
from graphopt.errors import DataError, VerificationError
from graphopt.interop.convert import to_ir
from graphopt.interop.form import Form, apply_form
from graphopt.interop.onnxscript import adapted
from graphopt.ir.model import Model
from graphopt.ir.protect import protect
from graphopt.ir.request import SizeRequest
from graphopt.report.measure import measure
from graphopt.report.report import Latency, PassSummary, Report
from graphopt.rules.rule import Accuracy
from graphopt.targets.target import Target, load_target
from graphopt.verify.recipe import Prepared

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.runtime.package import Package
    from graphopt.verify.modes import Mode, PassCheck
    from graphopt.verify.record import Recorder

_VERSIONS = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "numpy")
_BENCH_SECONDS = 3.0
_TOO_LOSSY = "calibrate with real data (--data), or let --max-drop find the layers that have to stay float"
_LEVELS = {Accuracy.EXACT: "-O1", Accuracy.FAST: "-O3"}
_SAMPLES = 1


class Job:
    """A model on its way through a pipeline, with the report that grows on the way.

    Once it is prepared, `original` is the model as it was, `feeds` is what it is run on, and `no_feeds` says why there
    is nothing to run it on, else None. `options`: of any pass that has them.
    """

    def __init__(
        self,
        model: Any,
        passes: str | Sequence[Asked],
        *,
        target: str | Target,
        data: Any,
        accuracy: str | None,
        stop_after: int | None,
        seed: int,
        allow_links: bool,
        rules: Ruleful | Iterable[Ruleful] = (),
        selection: Selection | None = None,
        sizes: SizeRequest | None = None,
        trust_sizes: bool = False,
        form: Form | None = None,
        goals: Goals | None = None,
        options: Mapping[str, str] | None = None,
        progress: Progress = silent,
    ) -> None:
        self._progress = progress
        self.target = target if isinstance(target, Target) else load_target(target)
        passes = adapted(passes)
        self.accuracy = accuracy_of(passes, accuracy)
        self.assembly = assemble(passes, rules)
        self.passes, self._added = with_options(self.assembly.passes, options or {}), self.assembly.added
        self._goals = (goals or Goals(timed=False)).checked(self.passes)
        self.selection = selection or Selection()
        check_names(self.selection, self.passes)
        self._stop_after, self._seed = stop_after, seed
        self.seconds: dict[str, float] = {}
        with self._phase("load"):
            ir, source = to_ir(model, allow_links=allow_links)
            self.source = "a model in memory" if source is None or source.path is None else os.fspath(source.path)
            self._remarks: list[str] = []
            self._reshaped = bool(sizes)
            if sizes:
                from graphopt.verify.resizing import resize

                ir, source, self._remarks = resize(ir, source, sizes, self.source, seed=seed, verify=not trust_sizes)
            if form:
                ir = apply_form(ir, form, allow_links=allow_links)
                self._reshaped = True
                source = None if source is None else dataclasses.replace(source, proto=None)
            self.model = Model(ir, source)
            self.model.facts  # noqa: B018 - inferred here, so that its time counts as loading
        protect(self.model, self.selection.protect)  # what names nothing is said before any work is done
        self._data_spec = data
        self._data: Iterable[dict[str, np.ndarray]] | None = None
        self.original: Package | None = None
        self.feeds: list[dict[str, np.ndarray]] = []
        self.no_feeds: str | None = None
        self._lossless: Package | None = None
        self._recorder: Recorder | None = None
        self.journal = Journal()
        self.report: Report

    def compile(self, *, verify: Mode | None, keep_original: bool, timed: bool = False) -> None:
        """Run the passes. `verify` keeps what `check` needs, `keep_original` what `evaluate` and `bench` need.

        `timed`: measure each rule.

        Raises `VerificationError` for a pass that changes what the model computes, if `verify` asks for each.
        """
        from graphopt.runtime.executor import executor

        if verify:
            executor().warm()
        self._begin_report()
        self._load_data()
        shared: dict[str, Any] = {}
        if verify or keep_original:
            self.prepare()
        pipeline = self._pipeline(
            shared,
            before_lossy=self._keep_lossless if verify else None,
            after_pass=self._check_of_passes() if verify == "pass" else None,
            watch=self._record if verify == "local" else None,
            timed=timed,
        )
        with self._phase("passes"):
            self.journal = pipeline.run(self.model)
        self._summarise(shared)

    def _begin_report(self) -> None:
        source = self.model.source
        before = measure(self.model, source.path if source is not None else None)
        self.report = Report(
            source=self.source,
            target=self.target.name,
            before=before,
            after=dataclasses.replace(before),
            seconds=self.seconds,
            stopped_after=None,
            versions=_versions(),
            notes=list(self._remarks),
        )
        if source is not None:
            self.report.before.file_bytes = source.size

    def prepare(self) -> None:
        """Keep the original, and choose what it is run on."""
        from graphopt.runtime.package import package

        self._load_data()
        with self._phase("verify"):
            self.original = package(self.model.ir)
            self._choose_feeds()

    def replay(self, watch: Callable[[Editor], None], before_lossy: Callable[[Model], None]) -> Journal:
        """Run the passes and nothing else. `watch` and `before_lossy` as a `Pipeline` has them."""
        self._load_data()
        return self._pipeline({}, watch=watch, before_lossy=before_lossy).run(self.model)

    def _pipeline(self, shared: dict[str, Any], **hooks: Any) -> Pipeline:
        return Pipeline(
            self.passes,
            self.target,
            accuracy=self.accuracy,
            data=self._data,
            seed=self._seed,
            stop_after=self._stop_after,
            progress=self._progress,
            shared=shared,
            selection=self.selection,
            goals=self._goals,
            **hooks,
        )

    def check(self) -> None:
        """Compare the result with the original: strictly up to the first lossy pass, by distance after it.

        Raises `VerificationError` if they differ.
        """
        from graphopt.runtime.package import package

        strict = self.accuracy
        with self._phase("verify"):
            self._progress("verify", 0, None)
            self._check_rewrites()
            if self._lossless is None:
                self._validate(package(self.model.ir), strict, "the result")
            else:
                self._validate(self._lossless, strict, "the model before quantization")
                self._validate(package(self.model.ir), Accuracy.APPROX, "the result")

    def _validate(self, result: Package, accuracy: Accuracy, what: str) -> None:
        from graphopt.verify.validate import Verification, validate

        assert self.original is not None
        if self.no_feeds is not None:
            self.report.verification = Verification("skipped", self.no_feeds, accuracy=accuracy.label)
            return
        found = validate(self.original, result, self.feeds, accuracy=accuracy.label)
        found = dataclasses.replace(found, feeds="synthetic" if self._data is None else "data")
        self.report.verification = found
        if found.status == "failed":
            lossy = accuracy is Accuracy.APPROX
            raise VerificationError(
                f"{what} does not compute what the original computes: {found.reason}",
                where=self.source,
                hint=f"nothing was written; {_TOO_LOSSY if lossy else self._to_bisect()}",
            )

    def _check_of_passes(self) -> PassCheck | None:
        from graphopt.verify.modes import PassCheck

        if self.no_feeds is not None:
            return None
        assert self.original is not None
        hint = f"nothing was written; {self._to_bisect()}"
        return PassCheck(self.original, self.feeds, self.accuracy, self.source, hint)

    def _record(self, editor: Editor) -> None:
        from graphopt.verify.record import Recorder

        self._recorder = Recorder(editor)

    def _check_rewrites(self) -> None:
        """Judge each rewrite on its own, if they were recorded. Raises `VerificationError` for the first wrong one."""
        from graphopt.verify.modes import check_rewrites

        if self._recorder is None or self.no_feeds is not None:
            return
        hint = f"nothing was written; {self._to_bisect('make a test of it')}"
        found = check_rewrites(
            self._recorder, self.feeds, self.passes, self.accuracy, where=self.source, hint=hint
        )
        self.report.notes.append(f"{found.compared} rewrite{'s' * (found.compared != 1)} compared one by one")
        self.report.notes += [f"{count} not compared: {reason}" for reason, count in found.skipped.items()]

    def _to_bisect(self, why: str = "find the rewrite to blame") -> str:
        """How to bisect this run, and what that is good for."""
        if self._reshaped:
            return f"{why}: write the model in this form with -O0, and bisect that"
        passes = ",".join(item.spelling() for item in self.passes if item.name not in self._added)
        files = self.assembly.files
        if self.model.source is None or self.model.source.path is None or (self.assembly.packs and not files):
            return f"{why}: graphopt.bisect(model, {passes!r})"
        words = ["graphopt", "bisect", self.source, "-p", passes]
        words += [word for file in files for word in ("--rules", file)]
        if self.accuracy in _LEVELS:
            words.append(_LEVELS[self.accuracy])
        if self.target.name != "onnx":
            words += ["-t", self.target.name]
        spec = self._data_spec
        if isinstance(spec, Prepared):
            words, spec = [*words, "--preprocess", spec.text], spec.data
        if isinstance(spec, str | os.PathLike):
            words += ["--data", os.fspath(spec)]
        if self._seed:
            words += ["--seed", str(self._seed)]
        return f"{why}: {shlex.join([*words, *self.selection.spelled()])}"

    def _choose_feeds(self) -> None:
        """Samples that the original and the result are run on: the caller's, or made up from the inputs."""
        from graphopt.runtime.executor import ExecutorError
        from graphopt.verify.validate import made_up_feeds

        if self._data is not None:
            self.feeds = list(itertools.islice(self._data, _SAMPLES))
            return
        try:
            self.feeds = made_up_feeds(
                self.model.ir, self.original, facts=self.model.facts, samples=_SAMPLES, seed=self._seed
            )
        except (DataError, ExecutorError) as error:
            self.no_feeds = error.what

    def evaluate(self) -> None:
        """Apply the metric to the original and the result."""
        from graphopt.runtime.package import package
        from graphopt.runtime.run import open_session

        metric = self._goals.metric
        assert self.original is not None and metric is not None
        with self._phase("evaluate"):
            self._progress("evaluate", 0, None)
            values = []
            for candidate in (self.original, package(self.model.ir)):
                with open_session(candidate, optimized=True, repeated=True) as session:
                    values.append(call_metric(metric, session.run))
        self.report.metric_before, self.report.metric_after = values

    def gate(self) -> None:
        """Raises `GateError`, which carries the report, if the result misses a goal that was asked for."""
        goals = self._goals
        missed = self.report.missed_gate(goals.max_drop) or self.report.missed_speedup(goals.min_speedup)
        if missed is not None:
            missed.report = self.report
            raise missed

    def bench(self) -> None:
        """Measure the latency of the original and the result under ONNX Runtime, in turns."""
        from graphopt.runtime.latency import latency
        from graphopt.runtime.package import package

        assert self.original is not None
        if self.no_feeds is not None:
            self.report.notes.append(f"no latency: {self.no_feeds}")
            return
        with self._phase("bench"):
            self._progress("bench", 0, None)
            times = latency([self.original, package(self.model.ir)], self.feeds[0], _BENCH_SECONDS)
        self.report.latency_before, self.report.latency_after = map(Latency.of, times)

    def _load_data(self) -> None:
        if self._data_spec is None or self._data is not None:
            return
        from graphopt.verify.data import load_data

        inputs = {v.name: (v.dtype, v.shape) for v in self.model.main.inputs if not v.is_initializer}
        self._data = load_data(self._data_spec, inputs)

    def _keep_lossless(self, model: Model) -> None:
        from graphopt.runtime.package import package

        self._lossless = package(model.ir)

    def _summarise(self, shared: dict[str, Any]) -> None:
        report = self.report
        report.after = measure(self.model, None)
        report.notes.extend(remarks(self.selection, self.passes, self.assembly.packs, self.accuracy))
        report.notes.extend(self.journal.notes)
        report.stopped_after = self._stop_after if self.journal.stopped else None
        if self._is_float_again(shared.get("verdict")):
            self._lossless = None
        for name in ("calibration", "verdict", "gains", "budget", "sensitivity"):
            setattr(report, name, shared.get(name))
        report.quantized = list(shared.get("quantized", ()))
        if report.calibration is not None:
            with self._phase("kernels"):
                report.see_kernels(self.model, self.target.compiled_by, shared.get("float", {}))
        passes = {p.name: p for p in self.passes}
        for record in self.journal.records.values():
            report.passes.append(
                PassSummary(
                    name=record.name,
                    spelling=passes[record.name].spelling(),
                    asked=record.name not in self._added,
                    rewrites=record.rewrites,
                    nodes_added=record.nodes_added,
                    seconds=record.seconds,
                    fired=record.fired,
                    tried=record.stats.tried,
                    declined=record.declined,
                    rule_seconds=record.stats.seconds,
                    notes=record.notes,
                    routine=_routine(passes[record.name]),
                )
            )

    def _is_float_again(self, verdict: Any) -> bool:
        """Whether the only lossy pass put back the model that it was given, so that the result is held to more."""
        lossy = sum(item.accuracy is Accuracy.APPROX for item in self.passes)
        return lossy == 1 and verdict is not None and verdict.kept == "float"

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _routine(item: Pass) -> frozenset[str]:
    """The rules of a pass that look at a single operator."""
    return frozenset(f"{item.name}.{r.name}" for r in item.rules() if all(p.size == 1 for p in r.patterns))
