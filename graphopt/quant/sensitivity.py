"""What each quantized tensor costs: the noise at the model's outputs when it alone is rounded.

Rounding one tensor at a time tells more than leaving one out of a model that is rounded throughout: where two layers
break a model, taking out either changes nothing. Noises of different tensors hardly correlate, so those of several
tensors add up (Zhou et al., "Adaptive Quantization for Deep Neural Network", arXiv:1712.01048, section 3). Noise is the
power of the difference to the float model over the power of its output, both summed over the samples, and the mean of
that over the outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.value import Node
from graphopt.quant.sizes import cut_inputs
from graphopt.quant.switches import Switch, Switchboard
from graphopt.quant.within import walk
from graphopt.report.macs import UnknownShapeError, node_macs
from graphopt.report.units import decibels
from graphopt.runtime import session
from graphopt.runtime.executor import executor
from graphopt.runtime.package import Package

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Value
    from graphopt.targets.table import Weighted

__all__ = ["Operator", "Sensitivity", "Tensor", "sensitivity"]

_HERE = "graphopt.quant.sensitivity"
_TIMEOUT = 600.0
_MACS = 2e11  # all runs together: some ten seconds on one core, without the runtime's optimizations
_SAMPLES = 32
_NAME = 20  # longer names of activations leave no room in a table
_FAR = 4.0  # from the median: channels that differ more are worth a word

Arrays = dict[str, np.ndarray[Any, Any]]
Measured = dict[str, float]


@dataclass(frozen=True)
class Tensor:
    """An activation with one scale (`values`: its names, several where data is moved), and its noise alone.

    `readers`, `writers`: positions in `Sensitivity.operators`, of those that cannot run on integers without. `reach`:
    its largest magnitude, in standard deviations.
    """

    values: tuple[str, ...]
    noise: float
    readers: tuple[int, ...]
    writers: tuple[int, ...]
    low: float = math.nan
    high: float = math.nan
    reach: float = math.nan

    @property
    def spread(self) -> str:
        """Its range and reach in words, behind a colon; nothing if they are not known."""
        return f": {self.low:.3g} … {self.high:.3g}, {self.reach:.0f} σ" if math.isfinite(self.reach) else ""


@dataclass(frozen=True)
class Operator:
    """A weighted operator. `key`: the name of its first output; `noise`: of its weight and bias alone.

    `inputs`, `outputs`: positions in `Sensitivity.tensors`. `spread`: the largest magnitude in the weight over the
    median of those of its channels.
    """

    key: str
    name: str
    op: str
    macs: int
    noise: float
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    spread: float = math.nan


@dataclass(frozen=True)
class Sensitivity:
    """All that is quantized, and what it costs alone; `noise`: of everything together."""

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    noise: float
    samples: int

    def of(self, operator: Operator) -> float:
        """The noise that an operator brings with it: its weight, what it reads, and what it writes."""
        tensors = {*operator.inputs, *operator.outputs}
        return operator.noise + sum(self.tensors[i].noise for i in tensors)

    def worst(self) -> list[Operator]:
        """The operators, those that cost most first."""
        return sorted(self.operators, key=self.of, reverse=True)

    def between(self) -> list[Tensor]:
        """The activations that no operator here reads or writes as integers, such as those of a Concat alone; those
        that cost most first.
        """
        found = [tensor for tensor in self.tensors if not tensor.readers and not tensor.writers]
        return sorted(found, key=lambda tensor: tensor.noise, reverse=True)

    def carrier(self, operator: Operator) -> tuple[str, Tensor | None, float]:
        """What carries most of an operator's noise: its `weight`, `input` or `output`, which activation that is, and
        how much it is.
        """
        found: list[tuple[str, Tensor | None, float]] = [("weight", None, operator.noise)]
        for kind, positions in (("input", operator.inputs), ("output", operator.outputs)):
            found += [(kind, self.tensors[i], self.tensors[i].noise) for i in positions]
        return max(found, key=lambda part: part[2])

    def reason(self, operator: Operator) -> str:
        """Why an operator costs what it does, in words."""
        kind, tensor, noise = self.carrier(operator)
        if tensor is None:
            far = operator.spread > _FAR
            channel = f": the largest channel is {operator.spread:.0f} × the median" if far else ""
            return f"{kind}, {decibels(noise)}{channel}"
        name = tensor.values[0]
        shown = f" {name}" if len(name) <= _NAME else ""
        return f"{kind}{shown}, {decibels(noise)}{tensor.spread}"


def sensitivity(
    board: Switchboard,
    rules: Mapping[str, Weighted],
    batches: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    statistics: Mapping[str, Any],
    *,
    known: Measured | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Sensitivity:
    """Measure every tensor that `board` has a switch for. `rules`: how weighted operators are quantized.

    `batches`: samples, of which a few are used: one for a large network. `statistics` of calibrated tensors tell their
    ranges. `known`: what an earlier call has measured; it grows. Raises `ExecutorError`.
    """
    wiring = _Wiring(board, rules)
    questions = [*wiring.questions(), ("all", [s.name for s in board.switches])]
    feeds = _samples(board.model, batches, sum(wiring.macs) * len(questions))
    known = {} if known is None else known
    missing = [(label, on) for label, on in questions if label not in known]
    if missing:
        _measure(board, feeds, missing, known, progress)
    return wiring.result(known, statistics, sum(_rows(feed) for feed in feeds))


def _measure(
    board: Switchboard,
    feeds: Sequence[Arrays],
    questions: Sequence[tuple[str, list[str]]],
    known: Measured,
    progress: Callable[[int, int | None], None] | None,
) -> None:
    run = executor()
    names = [switch.name for switch in board.switches]
    number = run.call(f"{_HERE}:_begin", board.packed, list(feeds), names, board.names, timeout=_TIMEOUT)
    generation = run.generation
    try:
        for i, (label, on) in enumerate(questions):
            known[label] = run.call(f"{_HERE}:_noise", number, on, timeout=_TIMEOUT)
            if progress is not None:
                progress(i + 1, len(questions))
    finally:
        if run.generation == generation and run.pid is not None:
            run.call(f"{_HERE}:_drop", number, timeout=_TIMEOUT)


def _samples(model: Model, batches: Iterable[Mapping[str, np.ndarray[Any, Any]]], macs: float) -> list[Arrays]:
    """A few batches, or a few rows of the first, as many as `macs` for one row of each leave time for."""
    most = max(1, min(_SAMPLES, int(_MACS // max(macs, 1))))
    cut = cut_inputs(model)
    found: list[Arrays] = []
    left = most
    for batch in itertools.islice(batches, most):
        feed = {name: a[:left] if name in cut else a for name, a in batch.items()}
        found.append(feed)
        left -= _rows(feed)
        if left <= 0:
            break
    return found


def _rows(feed: Mapping[str, np.ndarray[Any, Any]]) -> int:
    return max([1, *(len(a) for a in feed.values() if a.ndim)])


class _Wiring:
    """Which operator reads and writes which tensor."""

    def __init__(self, board: Switchboard, rules: Mapping[str, Weighted]) -> None:
        nodes = [Node(board.model, raw) for raw in walk(board.model.ir.graph)]
        self.model = board.model
        self.tensors = [s for s in board.switches if not s.const]
        self.constants = [s for s in board.switches if s.const]
        readers = {i for s in board.switches for i, _ in s.readers}
        heavy = sorted(i for i in readers if nodes[i].op in rules and nodes[i].is_standard)
        self.nodes = [nodes[i] for i in heavy]
        self.macs = [_macs(node) for node in self.nodes]
        place = {i: n for n, i in enumerate(heavy)}
        self.reads = [sorted({place[i] for i, _ in s.readers if i in place}) for s in self.tensors]
        written = {name: n for n, node in enumerate(self.nodes) for name in _written(node)}
        needs = [rules[node.op].output != "never" for node in self.nodes]
        self.writes = [
            [written[v] for v in s.values[:1] if v in written and needs[written[v]]] for s in self.tensors
        ]
        self.weights: list[list[Switch]] = [[] for _ in heavy]
        for s in self.constants:
            for i, _ in s.readers:
                owner = place.get(i)
                if owner is None:  # the Add of a bias behind a product
                    inputs = (v.name for v in nodes[i].inputs if v is not None)
                    owner = next((written[name] for name in inputs if name in written), None)
                if owner is not None and s not in self.weights[owner]:
                    self.weights[owner].append(s)

    def questions(self) -> list[tuple[str, list[str]]]:
        """What is to be turned on, with a label that is the same in each run."""
        weights = [
            (f"weight:{node.outputs[0].name}", [s.name for s in constants])
            for node, constants in zip(self.nodes, self.weights, strict=True)
        ]
        return [*weights, *((f"value:{s.values[0]}", [s.name]) for s in self.tensors)]

    def result(self, known: Measured, statistics: Mapping[str, Any], samples: int) -> Sensitivity:
        tensors = tuple(
            _tensor(s, known[f"value:{s.values[0]}"], self.reads[i], self.writes[i], statistics)
            for i, s in enumerate(self.tensors)
        )
        operators = tuple(
            Operator(
                node.outputs[0].name,
                node.name or node.outputs[0].name,
                node.op,
                self.macs[n],
                known[f"weight:{node.outputs[0].name}"],
                tuple(i for i, readers in enumerate(self.reads) if n in readers),
                tuple(i for i, writers in enumerate(self.writes) if n in writers),
                _spread(node),
            )
            for n, node in enumerate(self.nodes)
        )
        return Sensitivity(operators, tensors, known["all"], samples)


def _tensor(
    switch: Switch, noise: float, readers: Sequence[int], writers: Sequence[int], statistics: Mapping[str, Any]
) -> Tensor:
    found = next((statistics[v] for v in switch.values if v in statistics), None)
    if found is None or not found.count:
        return Tensor(switch.values, noise, tuple(readers), tuple(writers))
    largest = max(abs(found.minimum), abs(found.maximum))
    reach = largest / found.deviation if found.deviation > 0.0 else math.nan
    return Tensor(switch.values, noise, tuple(readers), tuple(writers), found.minimum, found.maximum, reach)


def _written(node: Node) -> list[str]:
    """What a Q behind an operator may stand on: its output, or what the bias and the activation behind make of it."""
    value = node.outputs[0]
    found = [value.name]
    for _ in range(2):
        uses = value.uses()
        if len(uses) != 1 or uses[0][0].op not in ("Relu", "Clip", "Add") or value.is_output:
            break
        reader = uses[0][0]
        if reader.op == "Add" and not any(v is not None and v.is_const for v in reader.inputs):
            break
        value = reader.outputs[0]
        found.append(value.name)
    return found


def _spread(node: Node) -> float:
    """The largest magnitude of a weight over the median of its channels' largest; nan without a constant weight."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    array = weight.array() if weight is not None and weight.is_const else None
    if array is None or array.ndim < 2 or not array.size:
        return math.nan
    axis = 0 if node.op.startswith("Conv") else array.ndim - 1
    peaks = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)).max(axis=1)
    middle = float(np.median(peaks))
    return float(peaks.max()) / middle if middle > 0.0 else math.nan


def _macs(node: Node) -> int:
    """Multiply-accumulates, sizes that are not known counting as 1; at least 1."""
    try:
        count = node_macs(
            node.domain,
            node.op,
            [_shape(v) for v in node.inputs],
            [_shape(v) for v in node.outputs],
            lambda name: node.attr(name),
        )
    except (UnknownShapeError, KeyError, TypeError, IndexError):
        return 1
    return max(count, 1)


def _shape(value: Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else 1 for d in value.shape)


class _Board:
    """In the child: a session with the outputs of the float model, sample by sample."""

    def __init__(self, packed: Package, feeds: list[Arrays], switches: list[str], outputs: list[str]) -> None:
        self.session = session.build(packed, session.Options(repeated=True))
        self.off = {name: np.array(False) for name in switches}
        self.outputs = outputs
        self.feeds = feeds
        self.float = [self._run(feed, []) for feed in feeds]

    def _run(self, feed: Arrays, on: list[str]) -> list[np.ndarray[Any, Any]]:
        turned = {**self.off, **{name: np.array(True) for name in on}}
        found = self.session.run({**feed, **turned}, self.outputs)
        return [found[name].astype(np.float64) for name in self.outputs]

    def noise(self, on: list[str]) -> float:
        power = np.zeros((2, len(self.outputs)))
        for feed, exact in zip(self.feeds, self.float, strict=True):
            for i, (value, found) in enumerate(zip(exact, self._run(feed, on), strict=True)):
                if value.shape != found.shape:
                    return math.inf
                power[0, i] += float(np.square(found - value).sum())
                power[1, i] += float(np.square(value).sum())
        noise, signal = power
        if not np.isfinite(noise).all():
            return math.inf
        used = signal > 0.0
        return float((noise[used] / signal[used]).mean()) if used.any() else 0.0


def _begin(packed: Package, feeds: list[Arrays], switches: list[str], outputs: list[str]) -> int:
    number = next(_numbers)
    _boards[number] = _Board(packed, feeds, switches, outputs)
    return number


def _noise(number: int, on: list[str]) -> float:
    return _boards[number].noise(on)


def _drop(number: int) -> None:
    _boards.pop(number, None)


_boards: dict[int, _Board] = {}
_numbers = itertools.count(1)
