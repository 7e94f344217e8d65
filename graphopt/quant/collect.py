"""In the child process: a session whose watched values go into running statistics, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.channels import ChannelStatistics, Gram
from graphopt.quant.schedule import Schedule
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.package import Package

__all__ = ["Kept", "Watch", "add", "begin", "drop", "finish", "go_on"]

_SAME = 1e-3  # of the largest element: how much a row may differ for being run with another

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Watch:
    """A value to watch: the float tensor `name` of the main graph, or of a body if no other body has that name.

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
    """`cut`: the inputs whose rows may be run in parts; `sizes`: bytes of a row of each value, as far as known.

    `spare`: the model without some of the values, for when it turns out that it cannot be run with them.
    """

    def __init__(
        self,
        packed: Package,
        watches: Sequence[Watch],
        cut: Sequence[str],
        sizes: Mapping[str, int],
        budget: int,
        spare: Package | None = None,
    ) -> None:
        from graphopt.runtime.session import Options, build

        self.session = build(packed, Options(repeated=True))
        self.spare = spare
        names = list(dict.fromkeys(w.name for w in watches))
        self.kept = {name: Kept(w for w in watches if w.name == name) for name in names}
        inputs = {port.name for port in packed.inputs}
        self.fed = [name for name in names if name in inputs]
        self.fetched = [name for name in names if name not in inputs]
        self.work: Iterator[None] = iter(())
        self.cut = list(cut)
        self.outputs = [port.name for port in packed.outputs if port.dtype is not None]
        self.apart: bool | None = None
        self.schedule = Schedule(self.fetched, sizes, budget)

    def add(self, feeds: Mapping[str, Array]) -> Iterator[None]:
        """Add a batch; stops after each run of the model, so that each can have its time."""
        from graphopt.runtime.session import RunFailed

        for name in self.fed:
            self.kept[name].extend(feeds[name])
        lengths = {len(feeds[name]) for name in self.cut}
        total = lengths.pop() if len(lengths) == 1 else 0
        self.schedule.begin(sum(array.size for array in feeds.values()) / max(total, 1))
        start = 0
        while self.fetched and start < max(total, 1):
            step = self.schedule.rows(total - start) if total else 1
            if step < total and not self._rows_apart(feeds):
                self.cut, total, step = [], 0, 1
            piece = self._rows(feeds, start, start + step) if total else dict(feeds)
            try:
                yield from self._run(piece, step)
            except RunFailed:
                if self.spare is not None:
                    self._give_up(self.spare)
                    continue
                if step == 1 or self.schedule.single:
                    raise
                self.schedule.single = True  # its first axis is said to be dynamic, and is not
                continue
            start += step
        for kept in self.kept.values():
            kept.statistics.close_batch()

    def _rows(self, feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        return {name: array[start:stop] if name in self.cut else array for name, array in feeds.items()}

    def _rows_apart(self, feeds: Mapping[str, Array]) -> bool:
        """Whether a row gives the same with another row before it and alone; found out once.

        Where it does not, the first axis counts steps of a sequence, say, and nothing may be cut.
        """
        from graphopt.runtime.session import RunFailed

        if self.apart is None:
            try:
                both = self.session.run(self._rows(feeds, 0, 2), self.outputs)
            except RunFailed:
                self.schedule.single = self.apart = True  # its first axis is said to be dynamic, and is not
                return True
            alone = self.session.run(self._rows(feeds, 1, 2), self.outputs)
            self.apart = bool(both) and all(_is_end(alone[name], array) for name, array in both.items())
        return self.apart

    def _give_up(self, spare: Package) -> None:
        """Go on without the values that the spare model does not give."""
        from graphopt.runtime.session import Options, build

        given = {port.name for port in (*spare.inputs, *spare.outputs)}
        self.session, self.spare = build(spare, Options(repeated=True)), None
        self.fetched = self.schedule.names = [name for name in self.fetched if name in given]
        self.kept = {name: kept for name, kept in self.kept.items() if name in given}

    def _run(self, piece: dict[str, Array], rows: int) -> Iterator[None]:
        for group in self.schedule.groups(rows):
            found = self.session.run(piece, group)
            self.schedule.learn({name: array.nbytes for name, array in found.items()}, rows)
            for name in list(found):
                self.kept[name].extend(found.pop(name))
            yield


def _is_end(alone: Array, both: Array) -> bool:
    """Whether the second half of `both` is `alone`, but for rounding."""
    if alone.ndim == 0 or both.shape != (2 * len(alone), *alone.shape[1:]):
        return False
    if alone.dtype.kind not in "fV":
        return np.array_equal(both[len(alone) :], alone)
    a, b = alone.astype(np.float64), both[len(alone) :].astype(np.float64)
    limit = _SAME * max(float(np.abs(a, where=np.isfinite(a), out=np.zeros_like(a)).max(initial=0.0)), 1e-30)
    return np.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True)


def begin(
    packed: Package,
    watches: Sequence[Watch],
    cut: Sequence[str],
    sizes: Mapping[str, int],
    budget: int,
    spare: Package | None,
) -> int:
    """Open a session for the model, with what is to be watched; its number. `spare` as the collector has it."""
    number = next(_numbers)
    _collectors[number] = _Collector(packed, watches, cut, sizes, budget, spare)
    return number


def add(number: int, feeds: dict[str, Array]) -> bool:
    """Run a batch, in parts if need be, and add what is seen; whether `go_on` has to be called for the rest of it."""
    _collectors[number].work = _collectors[number].add(feeds)
    return go_on(number)


def go_on(number: int) -> bool:
    """Run the model once more; as `add`."""
    return next(_collectors[number].work, number) is None


def finish(number: int) -> dict[str, Kept]:
    """What was seen, by value."""
    return _collectors[number].kept


def drop(number: int) -> None:
    """Close the session."""
    _collectors.pop(number, None)


_collectors: dict[int, _Collector] = {}
_numbers = itertools.count(1)
