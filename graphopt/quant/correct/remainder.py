"""The float remainder: what of a quantized model still computes in float, fitted anew to what it gets.

Layer after layer, so that each is fitted to what the fits in front of it have left over; layers that do not read each
other are fitted in one round. Most batches are for the fits, and every fourth is held out: a fit is made if it lowers
the error of the layer there, and a round of them is kept if it lowers that of the model's outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.correct.float_parts import FloatPart, float_part, rounds_of
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.refit import RIDGES, error_left, refit_affine, refit_layer
from graphopt.quant.correct.twins import Twin, TwinMoments, run_twins
from graphopt.quant.expected import decibels
from graphopt.quant.sizes import cut_inputs, sizes_of
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import Package, package

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value

__all__ = ["Remainder"]

_HELD = 4  # every so many batches, one is held out
_FLOATS = ("FLOAT", "DOUBLE")
_WORTH = 1e-2  # of the error: less is no gain that other data would show

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


class Remainder:
    """The parts of a model that could be fitted; made before anything is quantized, used when all is."""

    def __init__(self, model: Model, quantized: Iterable[Node], protects: Callable[[Node | Value], bool]) -> None:
        self.gains: list[Gain] = []
        self.notes: list[str] = []
        self._put_back = 0
        taken = frozenset(quantized)
        nodes = (n for n in model.main.nodes if n.is_standard and n not in taken and not protects(n))
        self._parts = [part for node in nodes if (part := float_part(node)) is not None]
        names = [part.name for part in self._parts]
        self._exact: Package | None = package(model.ir, outputs=names) if names else None

    def correct(self, edit: Editor, batches: Iterable[Feeds], budget: int) -> None:
        """Fit what stands behind quantized values, in rounds; `budget`: bytes of activations that one run may have."""
        rounds = list(rounds_of(edit.model, self._parts))
        data = _divided(batches, cut_inputs(edit.model)) if rounds else None
        if data is None:
            self.notes += ["refit was not used: there is one sample only"] if rounds else []
            return
        try:
            noise = self._noise(edit, data)
            for level in rounds:
                for group in _groups(edit.model, level, data, budget):
                    noise = self._round(edit, group, data, noise)
        except ExecutorError as error:
            self.notes.append(f"refit came to an end: {error.what}")
        if self._put_back:
            self.notes.append(f"refit: with {self._put_back} fits the outputs were no nearer, and they were put back")

    def _round(self, edit: Editor, level: Sequence[FloatPart], data: _Data, noise: float) -> float:
        """Fit parts that do not read each other; the noise of the model's outputs then, which was `noise` before."""
        twins = [Twin(p.name, p.value.name, p.axis, p.rows is not None) for p in level]
        fit, held = self._run(edit, twins, [data.fit(), data.held()])
        gains: list[Gain] = []
        undo: list[tuple[FloatPart, _Fit]] = []
        for part, mine, other in zip(level, fit, held, strict=True):
            if mine is None or other is None:
                continue
            found = _fitted(part, mine, other) if part.rows is not None else _scaled(part, mine, other)
            old = _Fit(*part.constants())
            if found is not None and _replace(part, found, edit):
                gains.append(Gain("refit", part.where, found.before, found.after))
                undo.append((part, old))
        left = self._noise(edit, data) if undo else noise
        if left <= noise:
            self.gains += gains
            return left
        for part, old in undo:
            _replace(part, old, edit)
        self._put_back += len(undo)
        return noise

    def _noise(self, edit: Editor, data: _Data) -> float:
        """The power of what is wrong with the outputs over theirs, on the data held out: the mean over the outputs."""
        outputs = [v.name for v in edit.model.main.outputs if v.dtype is not None and v.dtype.name in _FLOATS]
        (found,) = self._run(edit, [Twin(name, name) for name in outputs], [data.held()])
        shares = [float(m.squares[0] / m.squares[1]) for m in found if m is not None and m.squares[1] > 0.0]
        return float(np.mean(shares)) if shares else 0.0

    def _run(
        self, edit: Editor, twins: Sequence[Twin], parts: Sequence[Iterable[Feeds]]
    ) -> list[list[TwinMoments | None]]:
        assert self._exact is not None
        return run_twins(self._exact, package(edit.model.ir, outputs=[twin.seen for twin in twins]), twins, parts)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Constants, and the signal-to-noise ratio of the output on the data held out, in dB."""

    weight: Array
    bias: Array | None
    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class _Data:
    """The batches to fit with and those held out, each to be read any number of times."""

    fit: Callable[[], Iterable[Feeds]]
    held: Callable[[], Iterable[Feeds]]


def _fitted(part: FloatPart, mine: TwinMoments, other: TwinMoments) -> _Fit | None:
    """The fit of a weighted operator, with the ridge that serves the data held out best; None if none does."""
    weight, bias = part.constants()
    count = weight.shape[1]
    assert mine.moments is not None and other.moments is not None
    if mine.moments.shape != (2 * count, 2 * count):
        return None
    moments, crossed = mine.moments[count:, count:], mine.moments[count:, count:] - mine.moments[:count, count:]
    means = mine.means if bias is not None else np.zeros(2 * count)
    start = np.zeros(len(weight)) if bias is None else bias
    least = before = error_left(weight, np.zeros_like(weight), np.zeros(len(weight)), other.moments, other.means)
    true_means = means[count:] - means[:count]
    best = None
    for ridge in RIDGES:
        found, offset = refit_layer(weight, start, moments, crossed, means[count:], true_means, ridge)
        found, offset = found.astype(np.float32), offset.astype(np.float32)
        left = error_left(weight, found - weight, offset - start, other.moments, other.means)
        if left < least:
            least, best = left, (found, offset)
    if best is None or not least < (1.0 - _WORTH) * before:
        return None
    signal = float(np.einsum("ij,ij->", weight @ other.moments[count:, count:], weight))
    return _Fit(best[0], None if bias is None else best[1], decibels(before, signal), decibels(least, signal))


def _scaled(part: FloatPart, mine: TwinMoments, other: TwinMoments) -> _Fit | None:
    """The fit of factors and offsets for each channel."""
    count = mine.product.size
    factor, offset = part.constants()
    if factor.size != count or offset is None or offset.size != count:
        return None
    means, squares = mine.means[count:], mine.squares[count:]
    variances = np.maximum(squares - means**2, 0.0)
    crossed = variances - (mine.product - mine.means[:count] * means)
    by, added = refit_affine(means, means - mine.means[:count], variances, crossed)
    before, after = float(other.squares[:count].sum()), _affine_error(other, by, added)
    if not after < (1.0 - _WORTH) * before:
        return None
    signal = float(other.squares[count:].sum())
    return _Fit(factor * by, offset * by + added, decibels(before, signal), decibels(after, signal))


def _affine_error(other: TwinMoments, by: Array, added: Array) -> float:
    """The mean of (by x̂ + added - x)² = (d + (by - 1) x̂ + added)², summed over the channels."""
    count = by.size
    change = by - 1.0
    constant = added**2 + 2 * added * (other.means[:count] + change * other.means[count:])
    moving = other.squares[:count] + 2 * change * other.product + change**2 * other.squares[count:]
    return float((moving + constant).sum())


def _replace(part: FloatPart, found: _Fit, edit: Editor) -> bool:
    """Put constants in the place of those there; whether the Editor did."""
    slots = part.laid_out(found.weight, found.bias)
    if not all(np.isfinite(array).all() for _, array in slots):
        return False
    olds = [node.inputs[index] for (node, index), _ in slots]
    try:
        with edit.rewrite("quant.refit", at=part.node, sources=list(dict.fromkeys(n for (n, _), _ in slots))) as rw:
            for ((node, index), array), old in zip(slots, olds, strict=True):
                assert old is not None
                rw.set_input(node, index, rw.constant(array, like=old.name))
    except Decline:
        return False
    for old in olds:
        if old is not None and old.is_initializer and not old.use_count and not old.is_input and not old.is_output:
            edit.drop_initializer(old)
    return True


def _groups(model: Model, level: Sequence[FloatPart], data: _Data, budget: int) -> Iterator[list[FloatPart]]:
    """Parts whose values may be held at once, of both models and with their differences."""
    feeds = next(iter(data.fit()))
    names = [part.value.name for part in level]
    sizes = sizes_of(model, names, {name: np.shape(array) for name, array in feeds.items()})
    group: list[FloatPart] = []
    total = 0
    for part, name in zip(level, names, strict=True):
        size = 6 * sizes.get(name, 0)
        if group and total + size > budget:
            yield group
            group, total = [], 0
        group.append(part)
        total += size
    yield group


def _divided(batches: Iterable[Feeds], cut: Sequence[str]) -> _Data | None:
    """What to fit with and what to judge with; None if there is one sample."""
    first = list(itertools.islice(batches, 2))
    if len(first) > 1:
        return _Data(
            lambda: (feeds for i, feeds in enumerate(batches) if i % _HELD != 1),
            lambda: (feeds for i, feeds in enumerate(batches) if i % _HELD == 1),
        )
    count = min((len(first[0][name]) for name in cut), default=0) if first else 0
    at = count - max(count // _HELD, 1)
    if at < 1:
        return None

    def rows(part: slice) -> list[Feeds]:
        return [{name: a[part] if name in cut else a for name, a in first[0].items()}]

    return _Data(lambda: rows(slice(0, at)), lambda: rows(slice(at, None)))
