"""In the child process: a session whose watched values go into running statistics, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.channels import ChannelStatistics, Gram
from graphopt.quant.schedule import Schedule
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.package import Package

__all__ = ["Kept", "Watch", "add", "begin", "drop", "finish"]

Array = np.ndarray[Any, Any]


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


class Kept:
    """What is kept of one value."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        watches = list(watches)
        self.statistics = TensorStatistics()
        grams = dict.fromkeys(w.gram for w in watches if w.gram is not None)
        channels = dict.fromkeys(axis for w in watches for axis in (w.channels, w.gram) if axis is not None)
        self.channels = [ChannelStatistics(axis) for axis in channels]
        self.grams = [Gram(axis) for axis in grams]

    def extend(self, array: Array) -> None:
        """Add a part of a batch."""
        if array.dtype.kind == "V" or array.dtype.itemsize < 4:
            array = array.astype(np.float32)  # half precision, which numpy computes with in software
        self.statistics.extend(array)
        fit = set()
        for channels in self.channels:
            channels.update(array)
            if channels.unfit is None:
                fit.add(channels.axis)
        for gram in self.grams:
            if gram.axis in fit:
                gram.update(array)


class _Collector:
    """`cut`: the inputs whose rows may be run in parts; `sizes`: bytes of a row of each value, as far as known."""

    def __init__(
        self, packed: Package, watches: Sequence[Watch], cut: Sequence[str], sizes: Mapping[str, int], budget: int
    ) -> None:
        from graphopt.runtime.session import Options, build

        self.session = build(packed, Options(repeated=True))
        names = list(dict.fromkeys(w.name for w in watches))
        self.kept = {name: Kept(w for w in watches if w.name == name) for name in names}
        inputs = {port.name for port in packed.inputs}
        self.fed = [name for name in names if name in inputs]
        self.fetched = [name for name in names if name not in inputs]
        self.cut = list(cut)
        self.schedule = Schedule(self.fetched, sizes, budget)

    def add(self, feeds: Mapping[str, Array]) -> None:
        from graphopt.runtime.session import RunFailed

        for name in self.fed:
            self.kept[name].extend(feeds[name])
        lengths = {len(feeds[name]) for name in self.cut}
        total = lengths.pop() if len(lengths) == 1 else 0
        self.schedule.begin(sum(array.size for array in feeds.values()) / max(total, 1))
        start = 0
        while self.fetched and start < max(total, 1):
            step = self.schedule.rows(total - start) if total else 1
            piece = {n: a[start : start + step] if total and n in self.cut else a for n, a in feeds.items()}
            try:
                self._run(piece, step)
            except RunFailed:
                if step == 1 or self.schedule.single:
                    raise
                self.schedule.single = True  # its first axis is said to be dynamic, and is not
                continue
            start += step
        for kept in self.kept.values():
            kept.statistics.close_batch()

    def _run(self, piece: dict[str, Array], rows: int) -> None:
        for group in self.schedule.groups(rows):
            found = self.session.run(piece, group)
            self.schedule.learn({name: array.nbytes for name, array in found.items()}, rows)
            for name in list(found):
                self.kept[name].extend(found.pop(name))


def begin(
    packed: Package, watches: Sequence[Watch], cut: Sequence[str], sizes: Mapping[str, int], budget: int
) -> int:
    """Open a session for the model, with what is to be watched; its number."""
    number = next(_numbers)
    _collectors[number] = _Collector(packed, watches, cut, sizes, budget)
    return number


def add(number: int, feeds: dict[str, Array]) -> None:
    """Run a batch, in parts if need be, and add what is seen."""
    _collectors[number].add(feeds)


def finish(number: int) -> dict[str, Kept]:
    """What was seen, by value."""
    return _collectors[number].kept


def drop(number: int) -> None:
    """Close the session."""
    _collectors.pop(number, None)


_collectors: dict[int, _Collector] = {}
_numbers = itertools.count(1)
