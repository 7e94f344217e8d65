"""How many times as fast one model is as another: pairs of runs, one behind the other, until the answer is clear.

A pair of runs shares the moment, so the ratio within it does not feel a slow phase of the machine. The interval is
that of the median of these ratios by order statistics, which assumes nothing of their distribution (Conover,
"Practical Nonparametric Statistics", 3rd ed., section 3.2); three standard errors wide, because it is looked at many
times on the way.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.runtime import session
from graphopt.runtime.executor import executor
from graphopt.runtime.latency import Latency
from graphopt.runtime.package import Package

__all__ = ["Speedup", "race", "speedup", "summarise"]

_SECONDS = 4.0
_LEAST_SECONDS = 0.25  # caches and clocks settle
_LEAST_PAIRS = 5
_ENOUGH_PAIRS = 15
_MOST_PAIRS = 4000
_ERRORS = 3.0  # standard errors to each side

Feeds = Mapping[str, np.ndarray[Any, Any]]
PairTimes = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Speedup:
    """The latencies (seconds) of both models, and the median of before / after with its interval."""

    before: Latency
    after: Latency
    ratio: float
    low: float
    high: float

    def clears(self, least: float) -> bool:
        """Whether all of the interval is above `least`."""
        return self.low > least


def speedup(
    before: Package,
    after: Package,
    feeds: Feeds,
    limits: Sequence[float] = (1.0,),
    *,
    seconds: float = _SECONDS,
    timeout: float = 600.0,
) -> Speedup:
    """Time both under ONNX Runtime with all optimizations and one thread, on the same inputs.

    One thread, because several wait for each other, and then measure whatever else the machine is doing.
    It ends early when the interval holds none of `limits`, and otherwise after `seconds`; five pairs are run
    however long they take. Raises `ExecutorError`.
    """
    times = executor().call(
        "graphopt.runtime.speedup:time_here", before, after, dict(feeds), tuple(limits), seconds, timeout=timeout
    )
    return summarise(*times)


def summarise(before: Sequence[float], after: Sequence[float]) -> Speedup:
    """What pairs of times (seconds) say."""
    ratio, low, high = _interval(before, after)
    return Speedup(Latency.of(before), Latency.of(after), ratio, low, high)


def time_here(
    before: Package, after: Package, feeds: dict[str, np.ndarray[Any, Any]], limits: tuple[float, ...], seconds: float
) -> PairTimes:
    """Runs in the child: the seconds of each run of both models, pair by pair."""
    options = session.Options(optimized=True, repeated=True, threads=1)
    opened = [session.build(package, options) for package in (before, after)]
    for model in opened:  # the first runs allocate
        model.run(feeds)
        model.run(feeds)
    return race([functools.partial(model.run, feeds) for model in opened], limits, seconds)


def race(runs: Sequence[Callable[[], object]], limits: tuple[float, ...], seconds: float) -> PairTimes:
    """The seconds of each run of two models, pair by pair, until it is clear on which side of `limits` their ratio is.

    Both have run before.
    """
    times: PairTimes = ([], [])
    order = [0, 1]
    shuffle = random.Random(0).shuffle
    start = time.perf_counter()
    check = _LEAST_PAIRS
    while len(times[0]) < _MOST_PAIRS:
        shuffle(order)
        for index in order:
            begin = time.perf_counter()
            runs[index]()
            times[index].append(time.perf_counter() - begin)
        pairs, spent = len(times[0]), time.perf_counter() - start
        if pairs < check:
            continue
        check = pairs + 1 + pairs // 8
        if spent > seconds or (pairs >= _ENOUGH_PAIRS and spent > _LEAST_SECONDS and _is_clear(times, limits)):
            break
    return times


def _is_clear(times: tuple[list[float], list[float]], limits: tuple[float, ...]) -> bool:
    _, low, high = _interval(*times)
    return not any(low <= limit <= high for limit in limits)


def _interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """The median of before / after, and the interval that it lies in."""
    ratios = np.sort(np.asarray(before, np.float64) / np.maximum(np.asarray(after, np.float64), 1e-9))
    middle, reach = len(ratios) / 2, _ERRORS * math.sqrt(len(ratios)) / 2
    low = max(0, math.floor(middle - reach))
    high = min(len(ratios) - 1, math.ceil(middle + reach))
    return float(np.median(ratios)), float(ratios[low]), float(ratios[high])
