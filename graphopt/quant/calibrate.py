"""Calibration: the statistics of the activations that a placement needs, in one pass over the data.

The parent sends a batch of inputs; the child runs it, adds what it sees to running statistics
(`TensorStatistics`) and forgets it. Activations never leave the child, and memory does not grow with the
number of batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import DataError
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.executor import ExecutorDied, ExecutorError, executor
from graphopt.runtime.package import Package, package
from graphopt.verify.validate import patience

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["Calibration", "calibrate"]

_HERE = "graphopt.quant.calibrate"
_TIMEOUT = 300.0  # seconds for one batch
_GROUP_BYTES = 1 << 28  # activations that are fetched in one run

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Calibration:
    """Statistics by value name, the number of batches they come from, and what the user should know about
    them.

    `synthetic`: the inputs were invented, so the ranges are a guess.
    """

    statistics: Mapping[str, TensorStatistics]
    batches: int
    synthetic: bool = False
    warnings: tuple[str, ...] = field(default=())


def calibrate(
    model: Model,
    values: Sequence[str],
    batches: Iterable[Feeds],
    *,
    synthetic: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Run the model over `batches` (arrays by input name) and watch the float tensors `values` of its main
    graph.

    `progress` is told (batches done, None). Raises `DataError` if there is no batch, or if the model cannot be
    run on one.
    """
    inputs = {v.name for v in model.main.inputs}
    packed = package(model.ir, outputs=[name for name in values if name not in inputs])
    timeout = patience(packed) if synthetic else _TIMEOUT  # made-up batches are small
    run = executor()
    count = 0
    try:
        number = run.call(f"{_HERE}:_begin", packed, list(values), timeout=timeout)
        generation = run.generation
        for feeds in batches:
            if run.generation != generation:
                raise ExecutorDied("the process that runs models was lost", hint="run again")
            run.call(f"{_HERE}:_add", number, dict(feeds), timeout=timeout)
            count += 1
            if progress is not None:
                progress(count, None)
        statistics = run.call(f"{_HERE}:_finish", number, timeout=timeout)
    except ExecutorError as error:
        hint = "give samples with --data" if synthetic else error.hint
        raise DataError(f"the model cannot be run for calibration: {error.what}", hint=hint) from error
    if not count:
        raise DataError("there is no calibration data", hint="give at least one batch")
    return Calibration(statistics, count, synthetic, tuple(_warnings(statistics)))


def _warnings(statistics: Mapping[str, TensorStatistics]) -> Iterable[str]:
    odd = {name: s for name, s in statistics.items() if s.nan or s.inf}
    for name, s in itertools.islice(odd.items(), 5):
        found = f"{name!r} held {s.nan} NaN and {s.inf} Inf during calibration"
        yield f"{found}; its range comes from the {s.count} finite elements"
    if len(odd) > 5:
        yield f"{len(odd) - 5} more activations held NaN or Inf during calibration"
    silent = [name for name, s in statistics.items() if not s.count]
    if silent:
        first = silent[0]
        yield f"{len(silent)} activations had no finite element, such as {first!r}: they are taken to reach 1"


class _Collector:
    """In the child: a session whose watched outputs go into statistics."""

    def __init__(self, packed: Package, names: list[str]) -> None:
        from graphopt.runtime.session import Options, build

        self.session = build(packed, Options(repeated=True))
        self.statistics = {name: TensorStatistics() for name in names}
        inputs = {port.name for port in packed.inputs}
        self.fed = [name for name in names if name in inputs]
        self.groups = [[name for name in names if name not in inputs]]

    def add(self, feeds: dict[str, Array]) -> None:
        for name in self.fed:
            self.statistics[name].update(feeds[name])
        sizes: dict[str, int] = {}
        for group in self.groups:
            if not group:
                continue
            for name, array in self.session.run(feeds, group).items():
                self.statistics[name].update(array)
                sizes[name] = array.nbytes
        self.groups = list(_grouped(sizes))


def _grouped(sizes: Mapping[str, int]) -> Iterable[list[str]]:
    """Names in groups of at most `_GROUP_BYTES`; a batch is run once for each, to hold no more at a time."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group


def _begin(packed: Package, names: list[str]) -> int:
    number = next(_numbers)
    _collectors[number] = _Collector(packed, names)
    return number


def _add(number: int, feeds: dict[str, Array]) -> None:
    _collectors[number].add(feeds)


def _finish(number: int) -> dict[str, TensorStatistics]:
    return _collectors.pop(number).statistics


_collectors: dict[int, _Collector] = {}
_numbers = itertools.count(1)
