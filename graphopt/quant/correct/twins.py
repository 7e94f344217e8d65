"""Two models run side by side on the same data: how what one computes differs from what the other does.

Differences are small, and so they are taken element by element in the child process, before any moments are. Neither
activations nor differences leave it, and at any time it holds those of one run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.channels import ChannelStatistics, Gram
from graphopt.runtime.executor import executor
from graphopt.runtime.package import Package

__all__ = ["Twin", "TwinMoments", "run_twins"]

_HERE = "graphopt.quant.correct.twins"
_TIMEOUT = 300.0  # seconds for a batch

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Twin:
    """The value `exact` of one model, and `seen`, which stands for it in the other; channels lie along `axis`.

    Without an axis, everything is one channel. `pairs`: moments of all pairs of channels are kept, not only of each.
    """

    exact: str
    seen: str
    axis: int | None = None
    pairs: bool = False


@dataclass(frozen=True, eq=False)
class TwinMoments:
    """Moments of d = x̂ - x and of x̂, for x of the exact model and x̂ of the other, with C channels.

    `means`: [2C], of d and then of x̂; `squares`: [2C], of the same; `product`: [C], the mean of d x̂. `moments`:
    [2C, 2C], the mean of (d, x̂) (d, x̂)^T; None if pairs were not wanted.
    """

    means: Array
    squares: Array
    product: Array
    moments: Array | None


def run_twins(
    exact: Package, seen: Package, twins: Sequence[Twin], parts: Sequence[Iterable[Feeds]]
) -> list[list[TwinMoments | None]]:
    """The moments of each twin over each of the `parts` of the data.

    None for one that was not finite, or whose size differs between the models. Raises `ExecutorError`.
    """
    run = executor()
    number = run.call(f"{_HERE}:_begin", exact, seen, list(twins), timeout=_TIMEOUT)
    generation = run.generation
    try:
        return [_of_part(number, part) for part in parts]
    finally:
        if run.generation == generation and run.pid is not None:
            run.call(f"{_HERE}:_drop", number, timeout=_TIMEOUT)


def _of_part(number: int, part: Iterable[Feeds]) -> list[TwinMoments | None]:
    run = executor()
    for feeds in part:
        run.call(f"{_HERE}:_add", number, dict(feeds), timeout=_TIMEOUT)
    found: list[TwinMoments | None] = run.call(f"{_HERE}:_finish", number, timeout=_TIMEOUT)
    return found


class _Sums:
    """In the child: the running sums of one twin."""

    def __init__(self, twin: Twin) -> None:
        self.whole, self.axis = twin.axis is None, twin.axis or 0
        self.fit = True
        self.channels, self.product = ChannelStatistics(self.axis), ChannelStatistics(self.axis)
        self.gram = Gram(self.axis) if twin.pairs else None

    def add(self, exact: Array, seen: Array) -> None:
        self.fit = self.fit and exact.shape == seen.shape
        if self.whole:
            exact, seen = exact.reshape(1, -1), seen.reshape(1, -1)
        self.fit = self.fit and -exact.ndim <= self.axis < exact.ndim
        if not self.fit or not exact.size:
            return
        seen = seen.astype(np.float32, copy=False)
        off = seen - exact.astype(np.float32, copy=False)
        both = np.concatenate([off, seen], axis=self.axis)
        if not np.isfinite(both).all():
            self.fit = False
            return
        self.channels.update(both)
        self.product.update(off * seen)
        if self.gram is not None:
            self.gram.update(both)

    def result(self) -> TwinMoments | None:
        count = self.channels.count
        if not self.fit or not count.size or not count.all() or self.channels.unfit or self.product.unfit:
            return None
        moments = None if self.gram is None else self.gram.matrix / self.gram.rows
        return TwinMoments(self.channels.mean, self.channels.squares / count, self.product.mean, moments)


class _Pair:
    """In the child: sessions of both models."""

    def __init__(self, exact: Package, seen: Package, twins: Sequence[Twin]) -> None:
        from graphopt.runtime import session

        options = session.Options(repeated=True)
        self.exact, self.seen = session.build(exact, options), session.build(seen, options)
        self.twins = twins
        self.sums = [_Sums(twin) for twin in twins]

    def add(self, feeds: dict[str, Array]) -> None:
        exact = self.exact.run(feeds, list(dict.fromkeys(t.exact for t in self.twins)))
        seen = self.seen.run(feeds, list(dict.fromkeys(t.seen for t in self.twins)))
        for twin, sums in zip(self.twins, self.sums, strict=True):
            sums.add(exact[twin.exact], seen[twin.seen])

    def finish(self) -> list[TwinMoments | None]:
        """The moments so far; counting begins anew."""
        found = [sums.result() for sums in self.sums]
        self.sums = [_Sums(twin) for twin in self.twins]
        return found


def _begin(exact: Package, seen: Package, twins: list[Twin]) -> int:
    number = next(_numbers)
    _pairs[number] = _Pair(exact, seen, twins)
    return number


def _add(number: int, feeds: dict[str, Array]) -> None:
    _pairs[number].add(feeds)


def _finish(number: int) -> list[TwinMoments | None]:
    return _pairs[number].finish()


def _drop(number: int) -> None:
    _pairs.pop(number, None)


_pairs: dict[int, _Pair] = {}
_numbers: Iterator[int] = itertools.count(1)
