"""The corrections that work on one weighted operator at a time: how its weight is rounded, and its bias with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.calibrate import Watch
from graphopt.quant.correct.bias import conv_means, mean_error, tap_shares
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.rounding import ROUNDINGS, Moments, Rounded, best_rounding
from graphopt.quant.correct.rows import to_rows
from graphopt.quant.expected import decibels
from graphopt.quant.types import dequantize

if TYPE_CHECKING:
    from graphopt.ir.value import Node
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.operands import Heavy

__all__ = ["WEIGHT_CORRECTIONS", "WeightCorrections", "spread_channels", "summed_axis"]

WEIGHT_CORRECTIONS = (*ROUNDINGS, "bias", "empirical")

_LARGEST_GRAM = 4096  # channels: 128 MiB of second moments, and as many multiplications as a minute has

Array = np.ndarray[Any, Any]


class WeightCorrections:
    """`names`: those of `WEIGHT_CORRECTIONS` that are wanted; others are none of its business.

    Ask for `watches` before calibration, `use` the statistics after it. `gains` and `notes` grow with each weight.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._methods = tuple(m for m in ROUNDINGS if m in names)
        self._bias = "bias" in names
        self.measures = "empirical" in names
        self._calibration: Calibration | None = None
        self.gains: list[Gain] = []
        self.notes: list[str] = []

    def watches(self, heavy: Sequence[Heavy]) -> list[Watch]:
        """What calibration has to keep of the inputs of weighted operators."""
        if not (self._bias or self.measures or {"clip", "gptq"} & set(self._methods)):
            return []
        found = []
        for h in heavy:
            axis = summed_axis(h)
            if axis is not None:
                gram = "gptq" in self._methods and _is_matrix(h) and _width(h) <= _LARGEST_GRAM
                found.append(Watch(h.x.name, gram=axis) if gram else Watch(h.x.name, channels=axis))
                if self.measures and h.bias is not None:
                    found.append(Watch(h.output.name, channels=1 if h.node.op == "Conv" else -1))
        return list(dict.fromkeys(found))

    def use(self, calibration: Calibration) -> None:
        """Round by what is known of the inputs from now on."""
        self._calibration = calibration

    def rounded(
        self, group: Sequence[Heavy], weight: Array, *, dtype: str, bits: int, least: Array | None
    ) -> Rounded:
        """The weight that the operators of `group` share; `dtype`, `bits` and `least` as in `best_rounding`."""
        axis = group[0].axis
        known = [self._moments(h, weight) for h in group] if self._methods else []
        moments = _together([m for m in known if m is not None]) if None not in known else None
        where = group[0].node.name
        done = best_rounding(
            weight, axis=axis, dtype=dtype, bits=bits, least=least, moments=moments, methods=self._methods
        )
        self.gains += [Gain(name, where, before, after) for name, before, after in done.gains]
        self.notes += [f"{where}: {note}" for note in done.notes]
        return done

    def bias(self, heavy: Heavy, weight: Array, done: Rounded) -> Array:
        """The values of an operator's bias, [channels], less what rounding its weight adds to its outputs' means."""
        assert heavy.bias is not None
        values = heavy.bias.values
        statistics = self._channels(heavy)
        if not self._bias or statistics is None or heavy.axis is None:
            return values
        means, variances = (spread_channels(heavy, weight.shape, v) for v in statistics)
        off = to_rows(dequantize(done.integers, done.params, heavy.axis) - weight, heavy.axis, 0).values
        shift = mean_error(off, means)
        noise = Moments(squares=variances).power(off) * len(off)
        power = Moments(squares=variances).power(to_rows(weight, heavy.axis, 0).values) * len(off)
        before, after = decibels(noise + float(shift @ shift), power), decibels(noise, power)
        if after > before:
            self.gains.append(Gain("bias", heavy.node.name, before, after))
        return np.asarray(values - shift, np.float32)

    def _moments(self, heavy: Heavy, weight: Array) -> Moments | None:
        """Of the input; around the means where the bias will take those over."""
        statistics = self._channels(heavy)
        if statistics is None or heavy.axis is None:
            return None
        assert self._calibration is not None
        means, variances = statistics
        centered = self._bias and heavy.bias is not None
        key = (heavy.x.name, summed_axis(heavy) or 0)
        gram = self._calibration.products.get(key)
        if gram is not None and _is_matrix(heavy):
            gram = gram / max(int(self._calibration.along[key].count.max()), 1)
            return Moments(gram=gram - np.outer(means, means) if centered else gram)
        squares = variances if centered else variances + means**2
        return Moments(squares=spread_channels(heavy, weight.shape, squares))

    def _channels(self, heavy: Heavy) -> tuple[Array, Array] | None:
        """Means and variances of the input's channels, [C], if calibration kept them."""
        axis = summed_axis(heavy)
        if self._calibration is None or axis is None:
            return None
        found = self._calibration.along.get((heavy.x.name, axis))
        if found is None or not found.count.size or not found.count.all():
            return None
        means = found.mean
        return means, np.maximum(found.squares / found.count - means**2, 0.0)


def spread_channels(heavy: Heavy, shape: tuple[int, ...], values: Array) -> Array:
    """Values of input channels [C] for each weight of a weight of that shape: [K], or [N, K] for a Conv."""
    if heavy.node.op != "Conv":
        return values
    node = heavy.node
    return conv_means(values, int(node.attr("group", 1)), shape[0], _shares(node, heavy, shape[2:]))


def summed_axis(heavy: Heavy) -> int | None:
    """The axis of the input that is summed over; None where there is no weight or it is no matrix."""
    weight = heavy.weight
    if weight is None:
        return None
    if heavy.node.op == "Conv":
        return 1
    if weight.rank != 2:
        return None
    return 0 if heavy.node.op == "Gemm" and heavy.node.attr("transA", 0) else -1


def _width(heavy: Heavy) -> int:
    """The elements of the input that are summed up for one output."""
    assert heavy.weight is not None
    sizes = [d for d in heavy.weight.shape or () if isinstance(d, int)]
    return int(np.prod(sizes)) // (sizes[heavy.axis] if heavy.axis is not None else 1)


def _is_matrix(heavy: Heavy) -> bool:
    """Whether the sums are products of a matrix with the channels, so that second moments of these say it all."""
    if heavy.node.op != "Conv":
        return True
    assert heavy.weight is not None
    shape = heavy.weight.shape or ()
    return heavy.node.attr("group", 1) == 1 and all(d == 1 for d in shape[2:])


def _shares(node: Node, heavy: Heavy, kernel: tuple[int, ...]) -> Array:
    """`tap_shares` of a Conv; 1 where padding or sizes are not known."""
    sizes = (heavy.x.shape or ())[2:]
    known = [d for d in sizes if isinstance(d, int)]
    rank = len(kernel)
    if len(known) != rank or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return np.ones(kernel)
    pads = [int(p) for p in node.attr("pads", (0,) * 2 * rank)]
    strides, dilations = ([int(v) for v in node.attr(name, (1,) * rank)] for name in ("strides", "dilations"))
    return tap_shares(known, kernel, strides, pads, dilations)


def _together(known: Sequence[Moments]) -> Moments | None:
    """The moments of inputs that the same weight reads: their mean."""
    if not known:
        return None
    grams = [m.gram for m in known if m.gram is not None]
    if len(grams) == len(known):
        return Moments(gram=np.asarray(sum(grams) / len(grams)))
    squares = [np.diag(m.gram) if m.gram is not None else m.squares for m in known]
    return Moments(squares=np.asarray(sum(s for s in squares if s is not None) / len(squares)))
