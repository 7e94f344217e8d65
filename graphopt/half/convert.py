"""Half precision with islands of float32, which are found by measuring.

First by range: what calibration saw beyond the largest half stays float32, and so do constants. Then by error: the
nodes are ranked by how much noise they add, the worst of them stay float32, and how many is found by bisection on
the signal-to-noise ratio of the model's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as oir

from graphopt.errors import DataError, UsageError
from graphopt.half.build import in_half, rounding
from graphopt.half.plan import HALVES, Place, half_places, out_of_range
from graphopt.quant.calibrate import calibrate
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.verify.validate import made_up_feeds

if TYPE_CHECKING:
    from graphopt.engine.passes import Context

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

_SAMPLES = 4
_GOALS = {"float16": 50.0, "bfloat16": 30.0}


@dataclass(frozen=True)
class HalfOptions:
    """How to convert.

    `dtype`: `float16` or `bfloat16`. `snr`: the least signal-to-noise ratio, in dB, of every output against the float32
    model; None for 50 (float16) or 30 (bfloat16). `skip`: patterns of names of nodes that stay float32.
    """

    dtype: str = "float16"
    snr: float | None = None
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Halved:
    """What was done: how many nodes compute in half precision, which do not and why, and what it costs.

    `snr`: the least signal-to-noise ratio of an output in dB, inf for equal outputs. `probes`: how many variants of the
    model were run to find the islands. `synthetic`: the inputs for all this were made up.
    """

    converted: int
    kept: Mapping[str, str]
    snr: float
    probes: int
    synthetic: bool


def convert_half(ctx: Context, options: HalfOptions) -> Halved:
    """Convert the main graph of `ctx.model` to half precision, as one rewrite called `half`.

    Inputs and outputs keep their types. Raises `UsageError` for options that cannot be, `DataError` if the model
    cannot be run.
    """
    chosen, halved = search_half(ctx, options)
    if chosen:
        model, half = ctx.model.ir, HALVES[options.dtype]
        ctx.replace_model("half", lambda _: in_half(model, chosen, half))
    return halved


def search_half(ctx: Context, options: HalfOptions) -> tuple[list[Place], Halved]:
    """What `convert_half` would convert, and what it would say of it."""
    if options.dtype not in HALVES:
        raise UsageError(f"half.dtype cannot be {options.dtype!r}", hint=f"choose {' or '.join(HALVES)}")
    half = HALVES[options.dtype]
    search = _Search(ctx, half, _GOALS[options.dtype] if options.snr is None else options.snr)
    skip = [n for n in ctx.model.ir.graph if any(fnmatchcase(n.name or "", pattern) for pattern in options.skip)]
    places, kept = half_places(ctx.model, half, skip)
    if not places:
        return [], Halved(0, named(kept), math.inf, 0, search.synthetic)
    large = out_of_range(ctx.model, places, half, search.statistics(places))
    kept.update(large)
    chosen, noisy, snr = search.islands([p for p in places if p.node not in large])
    kept.update(noisy)
    return chosen, Halved(len(chosen), named(kept), snr, search.probes, search.synthetic)


def named(kept: Mapping[oir.Node, str]) -> dict[str, str]:
    """Reasons by the names of the nodes."""
    return {node.name or f"{node.op_type} of {node.outputs[0].name}": reason for node, reason in kept.items()}


class _Search:
    """Runs variants of a model on the same samples."""

    def __init__(self, ctx: Context, half: oir.DataType, goal: float) -> None:
        self._model, self._half, self._goal = ctx.model, half, goal
        self._progress: Callable[[str, int, int | None], None] = ctx.progress
        self.synthetic = ctx.data is None
        self.probes = 0
        self._feeds = _samples(ctx)
        self._outputs: list[dict[str, Array]] | None = None

    def statistics(self, places: Sequence[Place]) -> Mapping[str, Any]:
        """What calibration sees of the values that are to be half."""
        values = [p.node.inputs[i] for p in places for i in p.inputs]
        values += [p.node.outputs[i] for p in places for i in p.outputs]
        # An initializer is what it is, even one that callers may override.
        names = [v.name or "" for v in values if v is not None and not v.is_initializer()
                 and self._model.facts.const(v) is None]  # fmt: skip
        unique = list(dict.fromkeys(names))
        return calibrate(self._model, unique, self._feeds, synthetic=self.synthetic).statistics if unique else {}

    def islands(self, places: list[Place]) -> tuple[list[Place], dict[oir.Node, str], float]:
        """Those of the places that can be half, why the others cannot, and the ratio that is reached."""
        snr = self._snr(places)
        if snr >= self._goal or not places:
            return places, {}, snr
        ranked = self._ranked(places)
        low, high, reached = 0, len(ranked), math.inf  # with `high` of them float32 the goal is reached
        while high - low > 1:
            middle = (low + high) // 2
            snr = self._snr(ranked[middle:])
            if snr >= self._goal:
                high, reached = middle, snr
            else:
                low = middle
        order = {p.node: i for i, p in enumerate(places)}
        chosen = sorted(ranked[high:], key=lambda p: order[p.node])
        return chosen, {p.node: "it adds too much noise" for p in ranked[:high]}, reached

    def _snr(self, places: Sequence[Place]) -> float:
        """The least ratio of an output over all samples, in dB."""
        self.probes += 1
        self._progress("half", self.probes, None)
        if self._outputs is None:
            self._outputs = [self._run(self._model.ir, feeds) for feeds in self._feeds]
        model = rounding(self._model.ir, places, self._half)
        ratios = [
            _ratio(exact[name], found)
            for feeds, exact in zip(self._feeds, self._outputs, strict=True)
            for name, found in self._run(model, feeds).items()
        ]
        return min(ratios, default=math.inf)

    def _ranked(self, places: list[Place]) -> list[Place]:
        """The places by the noise that each of them adds to the relative error of what it reads, most first."""
        names = [p.node.outputs[i].name or "" for p in places for i in p.outputs]
        inner = [n for n in names if n not in {v.name for v in self._model.ir.graph.outputs}]
        rounded = rounding(self._model.ir, places, self._half)
        exact, noisy = (self._run(m, self._feeds[0], (*inner, *names)) for m in (self._model.ir, rounded))
        error = {name: _error(exact[name], noisy[name]) for name in names if name in noisy}

        def added(place: Place) -> float:
            before = [error.get(v.name or "", 0.0) for v in place.node.inputs if v is not None]
            after = [error.get(place.node.outputs[i].name or "", 0.0) for i in place.outputs]
            return max(after, default=0.0) - max(before, default=0.0)

        return sorted(places, key=added, reverse=True)

    def _run(self, model: oir.Model, feeds: Feeds, fetch: Sequence[str] = ()) -> dict[str, Array]:
        try:
            return run_model(package(model, outputs=fetch), feeds)
        except ExecutorError as error:
            raise DataError(f"the model cannot be run to measure its error: {error.what}", hint=error.hint) from error


def _samples(ctx: Context) -> list[Feeds]:
    if ctx.data is not None:
        return list(islice(ctx.data, _SAMPLES))
    try:
        return list(made_up_feeds(ctx.model.ir, facts=ctx.model.facts, samples=_SAMPLES, seed=ctx.seed))
    except ExecutorError as error:
        raise DataError(f"no inputs could be made up: {error.what}", hint="give samples with --data") from error


def _error(exact: Array, found: Array) -> float:
    """Noise over signal, as a ratio of root mean squares; infinite where one is not finite."""
    ratio = _ratio(exact, found)
    return 0.0 if ratio == math.inf else math.inf if ratio == -math.inf else 10 ** (-ratio / 20)


def _ratio(exact: Array, found: Array) -> float:
    """Signal over noise in dB: inf for equal arrays, -inf where NaN or infinities are out of place."""
    if exact.dtype.kind != "f":
        return math.inf
    x, y = exact.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(y[finite]).all():
        return -math.inf
    noise = float(np.sum((x[finite] - y[finite]) ** 2))
    signal = float(np.sum(x[finite] ** 2))
    return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
