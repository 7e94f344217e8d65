"""Small models and what was made of them, many in one call, each by ONNX Runtime and by onnx's reference evaluator.

Starting a call costs more than running a model of three nodes, so the rule checker sends dozens at a time. What
one executor does not run becomes an error in its place, and stops none of the others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from graphopt.runtime import reference, session
from graphopt.runtime.distrust import distrusted, endless, foreign, mistaken
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import Package, Port

__all__ = ["EXECUTORS", "Entry", "ExecutorName", "Outcome", "Outcomes", "Trial", "last_entry", "run_trials"]

Arrays = dict[str, np.ndarray[Any, Any]]
ExecutorName = Literal["onnxruntime", "reference"]
EXECUTORS: tuple[ExecutorName, ...] = ("onnxruntime", "reference")

_PATIENCE = 0.2  # seconds of computing that the reference evaluator, which is Python, may take for a model
_LINE = 32  # bytes of an entry in the diary


@dataclass(frozen=True, eq=False)
class Trial:
    """A serialized model without external data, others that were made of it, and inputs by name for all."""

    models: tuple[bytes, ...]
    feeds: Arrays


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an executor made of a model: the outputs by name, or why there are none; `died`: it ended the process.

    `ignorant`: it does not have an operator of the model, of another domain than the standard one.
    """

    arrays: Arrays | None = None
    error: str | None = None
    died: bool = False
    ignorant: bool = False


Outcomes = dict[ExecutorName, Outcome]
Entry = tuple[int, int, ExecutorName]
"""One run: the number of the trial, which of its models, the executor."""


def run_trials(trials: Sequence[Trial], dead: Mapping[Entry, Outcome], diary: str) -> list[tuple[Outcomes, ...]]:
    """Runs in the child: for each trial, what the executors make of its models.

    An executor that does not run the first is not given the others. What is `dead` is known to end the process, and
    left out. Each run is first written to the file `diary`: should the process end there, the parent knows where.
    """
    with Path(diary).open("wb", buffering=0) as file:

        def run(entry: Entry) -> Outcome:
            number, which, name = entry
            os.pwrite(file.fileno(), f"{number} {which} {name}".ljust(_LINE).encode(), 0)
            return dead.get(entry) or _run(trials[number].models[which], trials[number].feeds, name)

        found: list[tuple[Outcomes, ...]] = []
        for number, trial in enumerate(trials):
            first = {name: run((number, 0, name)) for name in EXECUTORS}
            able = [name for name in EXECUTORS if first[name].arrays is not None]
            others = [
                {name: run((number, which, name)) if name in able else _NOT_RUN for name in EXECUTORS}
                for which in range(1, len(trial.models))
            ]
            found.append((first, *others))
    return found


def last_entry(diary: str) -> Entry | None:
    """The run that the process was at; None if it had not begun any."""
    words = Path(diary).read_text().split()
    return next(((int(words[0]), int(words[1]), e) for e in EXECUTORS if words[2:] == [e]), None)


_NOT_RUN = Outcome(error="the other model does not run, so this one was not tried")


def _run(model: bytes, feeds: Arrays, name: ExecutorName) -> Outcome:
    proto = onnx.ModelProto.FromString(model)
    package = _package(proto, model)
    try:
        if name == "onnxruntime":
            if (fault := endless(proto, feeds) or mistaken(proto)) is not None:
                return Outcome(error=fault)
            return Outcome(session.run_once(package, feeds, session.Options(threads=1)))
        if (domain := foreign(proto)) is not None:
            return Outcome(error=f"it has no operators of {domain}", ignorant=True)
        if (fault := distrusted(proto)) is not None:
            return Outcome(error=fault)
        with _limited():
            return Outcome(reference.run_reference(package, [feeds])[0])
    except ExecutorError as error:
        return Outcome(error=error.what)
    except _Late:
        return Outcome(error="it takes too long")


class _Late(BaseException):
    """Time is up; no Exception, which `run_reference` would take for the model's."""


@contextmanager
def _limited() -> Iterator[None]:
    """Within, Python code is interrupted when its time is up, where the system has timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _ring(number: int, frame: object) -> None:
    del number, frame
    raise _Late


def _package(proto: onnx.ModelProto, model: bytes) -> Package:
    constant = {initializer.name for initializer in proto.graph.initializer}
    inputs = tuple(_port(value) for value in proto.graph.input if value.name not in constant)
    return Package(model, (), inputs, tuple(map(_port, proto.graph.output)))


def _port(value: onnx.ValueInfoProto) -> Port:
    is_tensor = value.type.HasField("tensor_type")
    return Port(value.name, value.type.tensor_type.elem_type if is_tensor else None, None)
