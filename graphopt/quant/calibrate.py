"""Calibration: the statistics of the activations that a placement needs, in one pass over the data.

The parent sends a batch of inputs; the child runs it, adds what it sees to running statistics
(`TensorStatistics`) and forgets it. Activations never leave the child, memory does not grow with the
number of batches, and what is fetched at a time stays within a budget (`Schedule`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from graphopt.errors import DataError, nearest
from graphopt.quant.channels import ChannelStatistics
from graphopt.quant.collect import Kept, Watch
from graphopt.quant.inside import Exposed, expose
from graphopt.quant.sizes import cut_inputs, sizes_of
from graphopt.quant.statistics import TensorStatistics
from graphopt.runtime.executor import ExecutorDied, ExecutorError, executor
from graphopt.runtime.package import Package, package
from graphopt.verify.validate import patience

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["MEMORY", "UNREACHED", "Calibration", "Watch", "calibrate"]

_CHILD = "graphopt.quant.collect"
_TIMEOUT = 300.0  # seconds for one run, and
_ROW_TIMEOUT = 30.0  # for each row of the batch

_HUGE = 1e8  # larger than what networks compute with, but for masks
_ONE = "there is one sample only, and others may go beyond its ranges"

_S = TypeVar("_S", TensorStatistics, ChannelStatistics)
_K = TypeVar("_K")
Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


UNREACHED = "no sample reached it"
"""Why there are no statistics of what stands in a body that was never run."""

MEMORY = 1 << 29
"""Bytes of activations that are fetched at a time, unless the caller says otherwise."""


@dataclass(frozen=True)
class Calibration:
    """Statistics by value name, the number of batches they come from, and what the user should know about
    them.

    `synthetic`: the inputs were invented, so the ranges are a guess. `along` and `products` have the statistics of
    channels and the sums of X^T X ([K, K] float64) by name and watched axis; what did not fit is missing, and
    `unfit` says why, by the same keys. `missing`: values in bodies that cannot be watched, or were never computed, with
    the reason.
    """

    statistics: Mapping[str, TensorStatistics]
    batches: int
    synthetic: bool = False
    warnings: tuple[str, ...] = field(default=())
    along: Mapping[tuple[str, int], ChannelStatistics] = field(default_factory=dict)
    products: Mapping[tuple[str, int], Array] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def has(self, watches: Iterable[Watch | str]) -> bool:
        """Whether all this was watched, or looked for in vain."""
        return all(self._has(Watch(w) if isinstance(w, str) else w) for w in watches)

    def _has(self, watch: Watch) -> bool:
        if watch.name in self.missing:
            return True
        keys = [(watch.name, axis) for axis in (watch.channels, watch.gram) if axis is not None]
        if watch.name not in self.statistics or not all(key in self.along or key in self.unfit for key in keys):
            return False
        key = (watch.name, watch.gram or 0)
        return watch.gram is None or key in self.products or key in self.unfit

    @property
    def channels(self) -> dict[str, ChannelStatistics]:
        """Statistics of channels by value name; of a value watched along several axes, those of the first."""
        return {name: found for (name, _), found in reversed(list(self.along.items()))}

    @property
    def grams(self) -> dict[str, Array]:
        """Sums of X^T X by value name, [K, K] float64; of a value watched along several axes, that of the first."""
        return {name: found for (name, _), found in reversed(list(self.products.items()))}

    def updated(self, newer: Calibration) -> Calibration:
        """These statistics, with those of `newer` in place of what it has, too."""
        return replace(
            self,
            statistics={**self.statistics, **newer.statistics},
            along={**self.along, **newer.along},
            products={**self.products, **newer.products},
            missing={**self.missing, **newer.missing},
            unfit={**self.unfit, **newer.unfit},
        )

    def merged(self, later: Calibration) -> Calibration:
        """What was seen in the batches of both; a branch may have been taken in those of one of them alone."""
        statistics = _both(self.statistics, later.statistics)
        along = _both(self.along, later.along)
        unfit = {**self.unfit, **later.unfit} | {key: c.unfit for key, c in along.items() if c.unfit is not None}
        products: dict[tuple[str, int], Array] = {}
        for key, matrix in (*self.products.items(), *later.products.items()):
            if key not in unfit:
                before = products.get(key)
                products[key] = before + matrix if before is not None and before.size and matrix.size else matrix
        return Calibration(
            statistics,
            self.batches + later.batches,
            self.synthetic,
            tuple(_warnings(statistics, unfit)),
            {key: found for key, found in along.items() if key not in unfit},
            products,
            {name: why for name, why in {**self.missing, **later.missing}.items() if name not in statistics},
            unfit,
        )


def calibrate(
    model: Model,
    watches: Sequence[Watch | str],
    batches: Iterable[Feeds],
    *,
    synthetic: bool = False,
    budget: int = MEMORY,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Run the model over `batches` (arrays by input name) and watch float tensors of it.

    A name among `watches` stands for a `Watch` without more; several watches may have the same name. `budget`: bytes
    of activations that are fetched at a time; where a batch needs more, it is run in parts: fewer rows where the
    first axis of the inputs counts rows, else fewer values. `progress` is told (batches done, None). Raises
    `DataError` if there is no batch, or if the model cannot be run on one.
    """
    seen = _Seen(model, [Watch(w) if isinstance(w, str) else w for w in watches])
    packed = seen.packed
    pause = patience(packed) if synthetic else _TIMEOUT  # made-up batches are small
    cut = cut_inputs(model)
    run = executor()
    number = count = total = 0
    generation = -1
    try:
        for batch in batches:
            feeds = _checked(batch, packed, count)
            if not count:
                row = {name: (1, *a.shape[1:]) if name in cut else a.shape for name, a in feeds.items()}
                sizes = sizes_of(model, seen.names, row)
                number = run.call(f"{_CHILD}:begin", *seen.given(cut, sizes, budget), timeout=pause)
                generation = run.generation
            if run.generation != generation:
                raise ExecutorDied("the process that runs models was lost", hint="run again")
            rows = max((len(feeds[name]) for name in cut), default=1)
            more = run.call(f"{_CHILD}:add", number, feeds, timeout=pause + _ROW_TIMEOUT * rows)
            while more:
                more = run.call(f"{_CHILD}:go_on", number, timeout=pause + _ROW_TIMEOUT * rows)
            count += 1
            total += rows
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
    found = seen.calibration(kept, count, synthetic)
    return replace(found, warnings=(_ONE, *found.warnings)) if total == 1 and not synthetic else found


def _both(a: Mapping[_K, _S], b: Mapping[_K, _S]) -> dict[_K, _S]:
    """Sums of what is in both, and what is in one alone."""
    sums = {**a, **b}
    for key in a.keys() & b.keys():
        sums[key] = copy.copy(a[key])
        sums[key].merge(b[key])
    return sums


def _checked(feeds: Feeds, packed: Package, number: int) -> dict[str, Array]:
    """A batch with what the model takes, and nothing else."""
    where = f"batch {number}"
    if not isinstance(feeds, Mapping):
        raise DataError(f"is {type(feeds).__name__}, not a dict of arrays", where=where)
    for port in packed.inputs:
        if port.name not in feeds:
            hint = nearest(port.name, feeds) if feeds else "there is no array at all"
            raise DataError(f"no array for the input {port.name!r}", where=where, hint=hint)
    return {port.name: np.asarray(feeds[port.name]) for port in packed.inputs}


class _Seen:
    """Watches as the child sees them: those of values in bodies under the names by which they are handed out."""

    def __init__(self, model: Model, watches: Sequence[Watch]) -> None:
        names = dict.fromkeys(w.name for w in watches)
        inputs = {v.name for v in model.main.inputs if not v.is_initializer}
        main = inputs | {v.name for v in model.main.initializers}
        main |= {v.name for node in model.main.nodes for v in node.outputs}
        inner = [name for name in names if name not in main]
        exposed = expose(model, inner) if inner else Exposed(model.ir, {}, {})
        self.missing = exposed.declined
        self._inner = set(inner)
        self._spare: Package | None = None
        self.names = [name for name in names if name not in self.missing]
        self._outer = {name: exposed.outer.get(name, (name, 0)) for name in self.names}
        self.watches = [self._moved(w) for w in watches if w.name in self._outer]
        fetched = [outer for outer, _ in self._outer.values() if outer not in inputs]
        self.packed = package(exposed.model, outputs=fetched)
        if exposed.loose:
            firm = expose(model, [name for name in inner if name not in exposed.loose])
            self._spare = package(firm.model, outputs=[name for name in fetched if name in _names(firm.model)])

    def _moved(self, watch: Watch) -> Watch:
        """The watch on what is handed out, whose axes stand behind those of the iterations."""
        outer, levels = self._outer[watch.name]
        channels, gram = (a if a is None or a < 0 else a + levels for a in (watch.channels, watch.gram))
        return Watch(outer, channels, gram)

    def given(self, cut: Sequence[str], sizes: Mapping[str, int], budget: int) -> tuple[Any, ...]:
        """The arguments of the child's `begin`."""
        return self.packed, self.watches, cut, sizes, budget, self._spare

    def calibration(self, kept: Mapping[str, Kept], count: int, synthetic: bool) -> Calibration:
        statistics: dict[str, TensorStatistics] = {}
        along: dict[tuple[str, int], ChannelStatistics] = {}
        products: dict[tuple[str, int], Array] = {}
        missing = dict(self.missing)
        for name, (outer, levels) in self._outer.items():
            if outer not in kept:
                missing[name] = "its size changes from one iteration to the next"
                continue
            found = kept[outer].statistics
            if name in self._inner and not found.count + found.nan + found.inf:
                missing[name] = UNREACHED
                continue
            statistics[name] = found
            for channels in kept[outer].channels:
                channels.axis -= levels if channels.axis >= 0 else 0
                along[name, channels.axis] = channels
            for gram in kept[outer].grams:
                axis = gram.axis - (levels if gram.axis >= 0 else 0)
                if along[name, axis].unfit is None:
                    products[name, axis] = gram.matrix
        unfit = {key: c.unfit for key, c in along.items() if c.unfit is not None}
        along = {key: c for key, c in along.items() if c.unfit is None}
        warnings = tuple(_warnings(statistics, unfit))
        return Calibration(statistics, count, synthetic, warnings, along, products, missing, unfit)


def _names(model: Any) -> set[str]:
    return {value.name for node in model.graph for value in node.outputs}


def _warnings(statistics: Mapping[str, TensorStatistics], unfit: Mapping[tuple[str, int], str]) -> Iterable[str]:
    odd = {name: s for name, s in statistics.items() if s.nan or s.inf}
    for name, s in itertools.islice(odd.items(), 5):
        found = f"{name!r} held {s.nan} NaN and {s.inf} Inf during calibration"
        yield f"{found}; its range comes from the {s.count} finite elements"
    if len(odd) > 5:
        yield f"{len(odd) - 5} more activations held NaN or Inf during calibration"
    huge = [(name, max(-s.minimum, s.maximum)) for name, s in statistics.items() if s.count]
    huge = [(name, peak) for name, peak in huge if peak > _HUGE]
    for name, peak in huge[:5]:
        yield f"{name!r} reaches {peak:.0e}: if that is in its range, what is small is rounded to 0"
    if len(huge) > 5:
        yield f"{len(huge) - 5} more activations reach more than {_HUGE:.0e}"
    silent = [name for name, s in statistics.items() if not s.count]
    if silent:
        first = silent[0]
        yield f"{len(silent)} activations had no finite element, such as {first!r}: they are taken to reach 1"
    for (name, _), reason in unfit.items():
        yield f"{name!r} is not corrected by channel: {reason}"
