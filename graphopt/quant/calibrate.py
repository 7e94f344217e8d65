"""Calibration: the statistics of the activations that a placement needs, in one pass over the data.

The parent sends a batch of inputs; the child runs it, adds what it sees to running statistics
(`TensorStatistics`) and forgets it. Activations never leave the child, memory does not grow with the
number of batches, and what is fetched at a time stays within a budget (`Schedule`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import DataError
from graphopt.quant.channels import ChannelStatistics
from graphopt.quant.collect import Kept, Watch
from graphopt.quant.sizes import cut_inputs, sizes_of
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.executor import ExecutorDied, ExecutorError, executor
from graphopt.runtime.package import package
from graphopt.verify.validate import patience

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["MEMORY", "Calibration", "Watch", "calibrate"]

_CHILD = "graphopt.quant.collect"
_TIMEOUT = 300.0  # seconds for one batch, and
_ROW_TIMEOUT = 30.0  # for each of its rows

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


MEMORY = 1 << 29
"""Bytes of activations that are fetched at a time, unless the caller says otherwise."""


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
    budget: int = MEMORY,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Run the model over `batches` (arrays by input name) and watch float tensors of its main graph.

    A name among `watches` stands for a `Watch` without more; several watches may have the same name. `budget`: bytes
    of activations that are fetched at a time; where a batch needs more, it is run in parts: fewer rows where the
    first axis of the inputs counts rows, else fewer values. `progress` is told (batches done, None). Raises
    `DataError` if there is no batch, or if the model cannot be run on one.
    """
    watched = [Watch(w) if isinstance(w, str) else w for w in watches]
    values = list(dict.fromkeys(w.name for w in watched))
    inputs = {v.name for v in model.main.inputs}
    packed = package(model.ir, outputs=[name for name in values if name not in inputs])
    pause = patience(packed) if synthetic else _TIMEOUT  # made-up batches are small
    cut = cut_inputs(model)
    run = executor()
    number = count = 0
    generation = -1
    try:
        for feeds in batches:
            if not count:
                row = {name: (1, *a.shape[1:]) if name in cut else a.shape for name, a in feeds.items()}
                sizes = sizes_of(model, values, row)
                number = run.call(f"{_CHILD}:begin", packed, watched, cut, sizes, budget, timeout=pause)
                generation = run.generation
            if run.generation != generation:
                raise ExecutorDied("the process that runs models was lost", hint="run again")
            rows = max((len(feeds[name]) for name in cut), default=1)
            run.call(f"{_CHILD}:add", number, dict(feeds), timeout=pause + _ROW_TIMEOUT * rows)
            count += 1
            if progress is not None:
                progress(count, None)
        kept: dict[str, Kept] = run.call(f"{_CHILD}:finish", number, timeout=_TIMEOUT) if count else {}
    except ExecutorError as error:
        hint = "give samples with --data" if synthetic else error.hint
        raise DataError(f"the model cannot be run for calibration: {error.what}", hint=hint) from error
    finally:
        if number and run.generation == generation and run.pid is not None:
            run.call(f"{_CHILD}:drop", number, timeout=_TIMEOUT)
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
