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
from graphopt.quant.channels import ChannelStatistics, Gram
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.executor import ExecutorDied, ExecutorError, executor
from graphopt.runtime.package import Package, package
from graphopt.verify.validate import patience

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["Calibration", "Watch", "calibrate"]

_HERE = "graphopt.quant.calibrate"
_TIMEOUT = 300.0  # seconds for one batch
_GROUP_BYTES = 1 << 28  # activations that are fetched in one run

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Watch:
    """A value to watch: the float tensor `name` of the main graph.

    Its `TensorStatistics` are always kept. `channels`: the axis (negative: from the end) of which `ChannelStatistics`
    are kept. `gram`: the axis of which the sum of X^T X is kept, X being all other axes flattened against that one;
    channel statistics of that axis come with it, and have the mean and the number of rows.
    """

    name: str
    channels: int | None = None
    gram: int | None = None


@dataclass(frozen=True)
class Calibration:
    """Statistics by value name, the number of batches they come from, and what the user should know about
    them.

    `synthetic`: the inputs were invented, so the ranges are a guess. `along` and `products` have the statistics of
    channels and the sums of X^T X ([K, K] float64) by name and watched axis; what did not fit is missing, and
    `warnings` say why.
    """

    statistics: Mapping[str, TensorStatistics]
    batches: int
    synthetic: bool = False
    warnings: tuple[str, ...] = field(default=())
    along: Mapping[tuple[str, int], ChannelStatistics] = field(default_factory=dict)
    products: Mapping[tuple[str, int], Array] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, ChannelStatistics]:
        """Statistics of channels by value name; of a value watched along several axes, those of the first."""
        return {name: found for (name, _), found in reversed(list(self.along.items()))}

    @property
    def grams(self) -> dict[str, Array]:
        """Sums of X^T X by value name, [K, K] float64; of a value watched along several axes, that of the first."""
        return {name: found for (name, _), found in reversed(list(self.products.items()))}


def calibrate(
    model: Model,
    watches: Sequence[Watch | str],
    batches: Iterable[Feeds],
    *,
    synthetic: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Run the model over `batches` (arrays by input name) and watch float tensors of its main graph.

    A name among `watches` stands for a `Watch` without more; several watches may have the same name. `progress` is
    told (batches done, None). Raises `DataError` if there is no batch, or if the model cannot be run on one.
    """
    watched = [Watch(w) if isinstance(w, str) else w for w in watches]
    values = list(dict.fromkeys(w.name for w in watched))
    inputs = {v.name for v in model.main.inputs}
    packed = package(model.ir, outputs=[name for name in values if name not in inputs])
    timeout = patience(packed) if synthetic else _TIMEOUT  # made-up batches are small
    run = executor()
    count = 0
    try:
        number = run.call(f"{_HERE}:_begin", packed, watched, timeout=timeout)
        generation = run.generation
        for feeds in batches:
            if run.generation != generation:
                raise ExecutorDied("the process that runs models was lost", hint="run again")
            run.call(f"{_HERE}:_add", number, dict(feeds), timeout=timeout)
            count += 1
            if progress is not None:
                progress(count, None)
        kept = run.call(f"{_HERE}:_finish", number, timeout=timeout)
    except ExecutorError as error:
        hint = "give samples with --data" if synthetic else error.hint
        raise DataError(f"the model cannot be run for calibration: {error.what}", hint=hint) from error
    if not count:
        raise DataError("there is no calibration data", hint="give at least one batch")
    statistics = {name: k.statistics for name, k in kept.items()}
    along = {(name, c.axis): c for name, k in kept.items() for c in k.channels}
    return Calibration(
        statistics,
        count,
        synthetic,
        tuple(_warnings(statistics, along)),
        {key: c for key, c in along.items() if c.unfit is None},
        {(name, g.axis): g.matrix for name, k in kept.items() for g in k.grams if along[name, g.axis].unfit is None},
    )


def _warnings(
    statistics: Mapping[str, TensorStatistics], along: Mapping[tuple[str, int], ChannelStatistics]
) -> Iterable[str]:
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
    for (name, _), c in along.items():
        if c.unfit is not None:
            yield f"{name!r} is not corrected by channel: {c.unfit}"


class _Kept:
    """What is kept of one value."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self.statistics = TensorStatistics()
        grams = dict.fromkeys(w.gram for w in watches if w.gram is not None)
        channels = dict.fromkeys(axis for w in watches for axis in (w.channels, w.gram) if axis is not None)
        self.channels = [ChannelStatistics(axis) for axis in channels]
        self.grams = [Gram(axis) for axis in grams]

    def update(self, array: Array) -> None:
        self.statistics.update(array)
        fit = set()
        for channels in self.channels:
            channels.update(array)
            if channels.unfit is None:
                fit.add(channels.axis)
        for gram in self.grams:
            if gram.axis in fit:
                gram.update(array)


class _Collector:
    """In the child: a session whose watched outputs go into statistics."""

    def __init__(self, packed: Package, watches: list[Watch]) -> None:
        from graphopt.runtime.session import Options, build

        self.session = build(packed, Options(repeated=True))
        names = list(dict.fromkeys(w.name for w in watches))
        self.kept = {name: _Kept([w for w in watches if w.name == name]) for name in names}
        inputs = {port.name for port in packed.inputs}
        self.fed = [name for name in names if name in inputs]
        self.groups = [[name for name in names if name not in inputs]]

    def add(self, feeds: dict[str, Array]) -> None:
        for name in self.fed:
            self.kept[name].update(feeds[name])
        sizes: dict[str, int] = {}
        for group in self.groups:
            if not group:
                continue
            for name, array in self.session.run(feeds, group).items():
                self.kept[name].update(array)
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


def _begin(packed: Package, watches: list[Watch]) -> int:
    number = next(_numbers)
    _collectors[number] = _Collector(packed, watches)
    return number


def _add(number: int, feeds: dict[str, Array]) -> None:
    _collectors[number].add(feeds)


def _finish(number: int) -> dict[str, _Kept]:
    return _collectors.pop(number).kept


_collectors: dict[int, _Collector] = {}
_numbers = itertools.count(1)
