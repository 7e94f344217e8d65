"""One optimization from input to checked result, phase by phase, each with its time in the report."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engine.journal import Journal
from graphopt.engine.passes import Pass, Progress, silent
from graphopt.engine.pipeline import Pipeline
from graphopt.engine.registry import presets
from graphopt.engine.spec import parse, with_prerequisites
from graphopt.errors import DataError, UsageError, VerificationError, nearest
from graphopt.interop.convert import to_ir
from graphopt.ir.model import Model
from graphopt.report.measure import measure
from graphopt.report.report import Latency, PassSummary, Report
from graphopt.rules.rule import Accuracy
from graphopt.targets.target import Target, load_target

if TYPE_CHECKING:
    from graphopt.runtime.package import Package

_VERSIONS = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "numpy")
_BENCH_SECONDS = 3.0
_WRONG = "run with --stop-after K to find the rewrite, and please report it"
_TOO_LOSSY = "calibrate with real data (--data), or leave layers out (quant{skip=…})"
_SAMPLES = 1


class Job:
    """A model on its way through a pipeline, with the report that grows on the way."""

    def __init__(
        self,
        model: Any,
        passes: str | Sequence[str | Pass],
        *,
        target: str | Target,
        data: Any,
        accuracy: str | None,
        stop_after: int | None,
        seed: int,
        allow_links: bool,
        progress: Progress = silent,
    ) -> None:
        self._progress = progress
        self.target = target if isinstance(target, Target) else load_target(target)
        self._accuracy = _accuracy(passes, accuracy)
        self.passes, self._added = with_prerequisites(_passes(passes))
        self._stop_after, self._seed = stop_after, seed
        self.seconds: dict[str, float] = {}
        with self._phase("load"):
            ir, source = to_ir(model, allow_links=allow_links)
            self.model = Model(ir, source)
            self.model.facts  # noqa: B018 - inferred here, so that its time counts as loading
        self._data_spec = data
        self._data: Iterable[dict[str, np.ndarray]] | None = None
        self._original: Package | None = None
        self._feeds: list[dict[str, np.ndarray]] = []
        self._no_feeds: str | None = None
        self._lossless: Package | None = None
        self.journal = Journal()
        path = source.path if source is not None else None
        before = measure(self.model, path)
        self.report = Report(
            source=os.fspath(path) if path is not None else "a model in memory",
            target=self.target.name,
            before=before,
            after=dataclasses.replace(before),
            seconds=self.seconds,
            stopped_after=None,
            versions=_versions(),
        )
        if source is not None:
            self.report.before.file_bytes = source.size

    def compile(self, *, verify: bool, keep_original: bool) -> None:
        """Run the passes. `verify` keeps what `check` needs, `keep_original` what `evaluate` and `bench` need."""
        from graphopt.runtime.executor import executor
        from graphopt.runtime.package import package

        if verify:
            executor().warm()
        self._load_data()
        shared: dict[str, Any] = {}
        if verify or keep_original:
            with self._phase("verify"):
                self._original = package(self.model.ir)
                self._choose_feeds()
        pipeline = Pipeline(
            self.passes,
            self.target,
            accuracy=self._accuracy,
            data=self._data,
            seed=self._seed,
            stop_after=self._stop_after,
            progress=self._progress,
            shared=shared,
            before_lossy=self._keep_lossless if verify else None,
        )
        with self._phase("passes"):
            self.journal = pipeline.run(self.model)
        self._summarise(shared)

    def check(self) -> None:
        """Compare the result with the original: strictly up to the first lossy pass, by distance after it.

        Raises `VerificationError` if they differ.
        """
        from graphopt.runtime.package import package

        strict = self._accuracy
        with self._phase("verify"):
            self._progress("verify", 0, None)
            if self._lossless is None:
                self._validate(package(self.model.ir), strict, "the result")
            else:
                self._validate(self._lossless, strict, "the model before quantization")
                self._validate(package(self.model.ir), Accuracy.APPROX, "the result")

    def _validate(self, result: Package, accuracy: Accuracy, what: str) -> None:
        from graphopt.verify.validate import Verification, validate

        assert self._original is not None
        if self._no_feeds is not None:
            self.report.verification = Verification("skipped", self._no_feeds, accuracy=accuracy.label)
            return
        found = validate(self._original, result, self._feeds, accuracy=accuracy.label)
        found = dataclasses.replace(found, feeds="synthetic" if self._data is None else "data")
        self.report.verification = found
        if found.status == "failed":
            lossy = accuracy is Accuracy.APPROX
            raise VerificationError(
                f"{what} does not compute what the original computes: {found.reason}",
                where=self.report.source,
                hint=f"nothing was written; {_TOO_LOSSY if lossy else _WRONG}",
            )

    def _choose_feeds(self) -> None:
        """Samples that the original and the result are run on: the caller's, or made up from the inputs."""
        from graphopt.runtime.executor import ExecutorError
        from graphopt.verify.validate import made_up_feeds

        if self._data is not None:
            self._feeds = list(itertools.islice(self._data, _SAMPLES))
            return
        try:
            self._feeds = made_up_feeds(
                self.model.ir, self._original, facts=self.model.facts, samples=_SAMPLES, seed=self._seed
            )
        except (DataError, ExecutorError) as error:
            self._no_feeds = error.what

    def evaluate(self, metric: Callable[[Any], float], max_drop: float | None) -> None:
        """Apply the metric to the original and the result.

        Raises `GateError` if it falls by more than `max_drop` percent.
        """
        from graphopt.runtime.package import package
        from graphopt.runtime.run import open_session

        assert self._original is not None
        with self._phase("evaluate"):
            self._progress("evaluate", 0, None)
            values = []
            for candidate in (self._original, package(self.model.ir)):
                with open_session(candidate, optimized=True, repeated=True) as session:
                    values.append(float(metric(session.run)))
        self.report.metric_before, self.report.metric_after = values
        missed = self.report.missed_gate(max_drop)
        if missed is not None:
            raise missed

    def bench(self) -> None:
        """Measure the latency of the original and the result under ONNX Runtime, in turns."""
        from graphopt.runtime.latency import latency
        from graphopt.runtime.package import package

        assert self._original is not None
        if self._no_feeds is not None:
            self.report.notes.append(f"no latency: {self._no_feeds}")
            return
        with self._phase("bench"):
            self._progress("bench", 0, None)
            times = latency([self._original, package(self.model.ir)], self._feeds[0], _BENCH_SECONDS)
        before, after = (Latency(1e3 * t.median, 1e3 * t.low, 1e3 * t.high, t.runs) for t in times)
        self.report.latency_before, self.report.latency_after = before, after

    def _load_data(self) -> None:
        if self._data_spec is None:
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
        report.notes.extend(self.journal.notes)
        report.stopped_after = self._stop_after if self.journal.stopped else None
        report.calibration = shared.get("calibration")
        if report.calibration is not None and self.target.compiled_by == "onnxruntime":
            self._read_kernels()
        spelled = {p.name: p.spelling() for p in self.passes}
        for record in self.journal.records.values():
            report.passes.append(
                PassSummary(
                    name=record.name,
                    spelling=spelled[record.name],
                    asked=record.name not in self._added,
                    rewrites=record.rewrites,
                    nodes_added=record.nodes_added,
                    seconds=record.seconds,
                    fired=record.fired,
                    tried=record.stats.tried,
                    declined=record.declined,
                    notes=record.notes,
                )
            )

    def _read_kernels(self) -> None:
        """Which heavy operators run on integers, read off the graph that the runtime compiles."""
        from graphopt.quant.coverage import coverage
        from graphopt.runtime.executor import ExecutorError

        with self._phase("kernels"):
            try:
                self.report.coverage = coverage(self.model)
            except ExecutorError as error:
                self.report.notes.append(f"the kernels could not be read: {error.what}")

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _passes(passes: str | Sequence[str | Pass]) -> list[Pass]:
    if isinstance(passes, str):
        return parse(passes)
    found: list[Pass] = []
    for item in passes:
        found += parse(item) if isinstance(item, str) else [item]
    return found


def _accuracy(passes: str | Sequence[str | Pass], asked: str | None) -> Accuracy:
    """What was asked for, else that of the presets among the passes, else `close`."""
    if asked is not None:
        names = [a.label for a in Accuracy]
        if asked not in names:
            raise UsageError(f"there is no accuracy class {asked!r}", hint=nearest(asked, names))
        return Accuracy[asked.upper()]
    known = presets()
    words = passes.replace(",", " ").split() if isinstance(passes, str) else [p for p in passes if isinstance(p, str)]
    classes = [Accuracy[known[w].accuracy.upper()] for w in words if w in known]
    return max(classes, default=Accuracy.CLOSE)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
