"""What makes a model bad, for a search: a command fails, a metric falls, a file cannot be built, values are wrong.

A criterion is called with a state of the model and returns why that is bad, None if it is good. It is called with the
original first.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.emit.emitter import EmitOptions, emitter_for
from graphopt.emit.onnx import check_structure
from graphopt.errors import DataError, TargetError, UsageError, VerificationError
from graphopt.ir.model import Model
from graphopt.rules.rule import Accuracy
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import Package, package
from graphopt.runtime.run import open_session
from graphopt.verify.validate import Original

__all__ = ["Builds", "Command", "Criterion", "Metric", "SameValues", "State", "Tell", "all_of", "is_well_formed"]

Arrays = dict[str, np.ndarray[Any, Any]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """A model as some rewrites leave it. `lossless`: as it was before the first pass that is lossy by design, if that
    has begun.
    """

    model: Model
    lossless: Model | None = None


Criterion = Callable[[State], str | None]


def is_well_formed(state: State) -> str | None:
    """onnx's checker takes the model."""
    try:
        check_structure(state.model, Path("the model"))
    except VerificationError as error:
        return error.what
    return None


class SameValues:
    """The model computes what the original does, as a run judges it: strictly up to lossy passes, by distance then.

    Raises DataError where nothing here can run the original.
    """

    def __init__(self, original: Package, feeds: Sequence[Arrays], accuracy: Accuracy) -> None:
        self._original, self._accuracy = Original(original, feeds), accuracy

    def __call__(self, state: State) -> str | None:
        """Why the state is bad."""
        if state.lossless is None:
            return self._judge(state.model, self._accuracy)
        before = self._judge(state.lossless, self._accuracy)
        if before is not None:
            return f"before quantization, {before}"
        return self._judge(state.model, Accuracy.APPROX)

    def _judge(self, model: Model, accuracy: Accuracy) -> str | None:
        found = self._original.compare(package(model.ir), accuracy=accuracy.label)
        if found.status == "skipped":
            raise DataError(f"values cannot be compared: {found.reason}", hint="say what is bad with --oracle")
        return found.reason if found.status == "failed" else None


class Metric:
    """The user's metric falls by no more than `max_drop` percent of the original's."""

    def __init__(self, metric: Callable[[Any], float], max_drop: float) -> None:
        self._metric, self._max_drop = metric, max_drop
        self._original: float | None = None

    def __call__(self, state: State) -> str | None:
        """Why the state is bad. Raises what goes wrong with the original."""
        try:
            with open_session(package(state.model.ir), optimized=True, repeated=True) as session:
                value = float(self._metric(session.run))
        except (ExecutorError, UsageError) as error:
            if self._original is None:
                raise
            return f"the metric cannot be computed: {error.what}"
        if self._original is None:
            self._original = value
        if self._original - value <= abs(self._original) * self._max_drop / 100:
            return None
        return f"the metric falls from {self._original:.6g} to {value:.6g}"


class Builds:
    """The emitter for files named `*suffix` can write the model for `target`."""

    def __init__(self, suffix: str, target: str, options: EmitOptions) -> None:
        self._name = f"model{suffix}"
        self._emitter = emitter_for(self._name, target)
        self._options = options

    def __call__(self, state: State) -> str | None:
        """Why the state is bad. Raises UsageError for options that do not fit the model."""
        with tempfile.TemporaryDirectory(prefix="graphopt-bisect-") as folder:
            try:
                self._emitter.emit(state.model, Path(folder) / self._name, self._options)
            except (TargetError, VerificationError) as error:
                return error.what
        return None


class Command:
    """A command of the user's ends with exit code 0; no shell is involved.

    `{model}` in `line` becomes the path of a temporary ONNX file. `timeout` in seconds; a command that takes longer
    fails. `show` is given what it prints. Raises UsageError for a command that cannot be run.
    """

    def __init__(self, line: str, timeout: float, show: Tell) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"cannot read {line!r}: {error}", where="--oracle") from None
        if not any("{model}" in word for word in self._words):
            what = f"{line!r} does not say where the model goes"
            raise UsageError(what, where="--oracle", hint="write {model} where the path of the model shall stand")
        self._timeout, self._show = timeout, show

    def __call__(self, state: State) -> str | None:
        """Why the state is bad."""
        with tempfile.TemporaryDirectory(prefix="graphopt-bisect-") as folder:
            path = Path(folder) / "model.onnx"
            try:
                emitter_for(path).emit(state.model, path, EmitOptions())
            except VerificationError as error:
                return error.what
            return self._run([word.replace("{model}", str(path)) for word in self._words])

    def _run(self, words: list[str]) -> str | None:
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=self._timeout
            )
        except subprocess.TimeoutExpired as error:
            self._tell(error.stdout)
            return f"the command took longer than {self._timeout:g} s"
        except OSError as error:
            raise UsageError(f"cannot run {words[0]!r}: {error.strerror}", where="--oracle") from None
        self._tell(done.stdout)
        if done.returncode < 0:
            return f"the command was killed by signal {-done.returncode}"
        return f"the command ended with exit code {done.returncode}" if done.returncode else None

    def _tell(self, said: bytes | None) -> None:
        for line in (said or b"").decode("utf-8", "replace").splitlines():
            self._show(line)


def all_of(criteria: Sequence[Criterion]) -> Criterion:
    """Bad by the first criterion that says so."""

    def judge(state: State) -> str | None:
        return next((why for criterion in criteria if (why := criterion(state)) is not None), None)

    return judge
