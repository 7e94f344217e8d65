"""Timing models against each other: runs alternate, so a slow moment of the machine hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.runtime import session
from graphopt.runtime.executor import executor
from graphopt.runtime.package import Package

__all__ = ["Latency", "latency"]

_LEAST_ROUNDS = 5
_MOST_ROUNDS = 2000


@dataclass(frozen=True)
class Latency:
    """Seconds per run: the median and the middle half (25 % to 75 %) of `runs` timed runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """What the seconds of at least one timed run come to."""
        low, median, high = (float(value) for value in np.percentile(times, [25, 50, 75]))
        return cls(median=median, low=low, high=high, runs=len(times))


def latency(
    packages: Sequence[Package],
    feeds: Mapping[str, np.ndarray[Any, Any]] | Sequence[Mapping[str, np.ndarray[Any, Any]]],
    seconds: float = 3.0,
    *,
    threads: int = 0,
    timeout: float = 600.0,
) -> list[Latency]:
    """Time each package under ONNX Runtime with all optimizations, on the same inputs, `seconds` in total.

    `feeds` is one dict for all packages, or one for each (when a result takes another input type). At least
    five rounds are run however long they take. `threads` 0: the runtime's own choice. Raises ExecutorError.
    """
    each = [dict(feeds)] * len(packages) if isinstance(feeds, Mapping) else [dict(feed) for feed in feeds]
    if len(each) != len(packages):
        raise ValueError(f"{len(packages)} packages, but feeds for {len(each)}")
    times: list[list[float]] = executor().call(
        "graphopt.runtime.latency:time_here", list(packages), each, seconds, threads, timeout=timeout
    )
    return [Latency.of(found) for found in times]


def time_here(
    packages: list[Package], feeds: list[dict[str, np.ndarray[Any, Any]]], seconds: float, threads: int
) -> list[list[float]]:
    """Runs in the child: the seconds of each timed run, by package."""
    options = session.Options(optimized=True, repeated=True, threads=threads, spin=True)
    opened = [session.build(package, options) for package in packages]
    for model, feed in zip(opened, feeds, strict=True):  # the first runs allocate
        model.run(feed)
        model.run(feed)
    times: list[list[float]] = [[] for _ in opened]
    order = list(range(len(opened)))
    shuffle = random.Random(0).shuffle
    end = time.perf_counter() + seconds
    while len(times[0]) < _LEAST_ROUNDS or (time.perf_counter() < end and len(times[0]) < _MOST_ROUNDS):
        shuffle(order)
        for index in order:
            start = time.perf_counter()
            opened[index].run(feeds[index])
            times[index].append(time.perf_counter() - start)
    return times

