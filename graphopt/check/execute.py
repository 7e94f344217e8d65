"""Runs models before and after a rewrite in the child process, many at a time, whatever some of them do to it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.runtime.executor import ExecutorDied, ExecutorError, executor
from graphopt.runtime.trial import Entry, Outcome, Outcomes, Trial, last_entry

__all__ = ["Pair", "Ran", "run_groups", "run_pairs", "warm"]

Arrays = dict[str, np.ndarray[Any, Any]]
Pair = tuple[onnx.ModelProto, onnx.ModelProto, Arrays]
"""The model before, the model after, and inputs for both."""
Ran = tuple[Outcomes, Outcomes]
"""What the executors made of both."""

_TIMEOUT = 8.0  # seconds for a batch of small models
_MEMORY = 1 << 31


def warm() -> None:
    """Start the child process, so that it is there when it is needed."""
    executor().warm()


def run_pairs(pairs: Sequence[Pair]) -> list[Ran]:
    """What each executor computes before and after; what does not run is an outcome, too.

    Behind the first result that ends the process, though its original does not, no more pairs are run, and fewer
    are returned: starting the process again takes a second.
    """
    found = run_groups([((before, after), feeds) for before, after, feeds in pairs])
    return [(before, after) for before, after in found]


def run_groups(groups: Sequence[tuple[Sequence[onnx.ModelProto], Arrays]]) -> list[tuple[Outcomes, ...]]:
    """The same for a model and any number of others that were made of it."""
    trials = [Trial(tuple(model.SerializeToString() for model in models), feeds) for models, feeds in groups]
    if not trials:
        return []
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        return _survive(trials, str(Path(folder) / "diary"))


def _survive(trials: list[Trial], diary: str) -> list[tuple[Outcomes, ...]]:
    """Run the trials, and again without what ended the process, until it is alive at the end."""
    dead: dict[Entry, Outcome] = {}
    while True:
        Path(diary).write_bytes(b"")
        try:
            found: list[tuple[Outcomes, ...]] = executor().call(
                "graphopt.runtime.trial:run_trials", trials, dead, diary, timeout=_TIMEOUT, memory=_MEMORY
            )
            return found
        except ExecutorError as error:
            entry = last_entry(diary)
            if entry is None or entry in dead:
                raise
            dead[entry] = Outcome(error=f"{error.what} ({error.hint})", died=isinstance(error, ExecutorDied))
            if entry[1]:
                trials = trials[: entry[0] + 1]
