"""Biases corrected by what the quantized net is seen to do: one more run over the data, then the biases, and a check.

Nagel et al. (arXiv:1906.04721, appendix D) compare the mean of each output with that of the float net, layer after
layer, with a run for each. Here a layer is compared with what it would make of the inputs that it really gets: the mean
of its output with the weights' product with the mean of its input, which is linear and needs no second net. So errors
of the layers in front are not counted again, and one run does for all layers. What the product of means leaves out at
the borders of images is measured on the float net, and taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.calibrate import Calibration, Watch
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.rows import to_rows
from graphopt.quant.correct.weights import spread_channels, summed_axis
from graphopt.quant.expected import decibels

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.value import Value
    from graphopt.quant.operands import Heavy

__all__ = ["Empirical"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer as it was before its weight became integers, with that as rows [N, K] and its `shape`.

    `axis` and `along`: the channels of input and output.
    """

    heavy: Heavy
    name: str
    shape: tuple[int, ...]
    rows: Array
    axis: int
    along: int
    usual: Array
    """[N]: the mean of the output of the float net, less the product of means."""

    @property
    def watches(self) -> tuple[Watch, Watch]:
        """The input and output, by their present names."""
        return Watch(self.heavy.x.name, channels=self.axis), Watch(self.heavy.output.name, channels=self.along)


class Empirical:
    """The layers with a bias; made before anything is inserted, used when all is."""

    def __init__(self, heavy: Sequence[Heavy], calibration: Calibration) -> None:
        self.gains: list[Gain] = []
        self._layers: list[_Layer] = []
        for h in heavy:
            array = None if h.weight is None or h.bias is None or h.axis is None else h.weight.array()
            axis = summed_axis(h)
            if array is None or axis is None:
                continue
            rows, along = to_rows(array, h.axis, 0).values, 1 if h.node.op == "Conv" else -1
            layer = _Layer(h, h.node.name, array.shape, rows, axis, along, np.zeros(()))
            usual = _offset(layer, calibration)
            if usual is not None:
                self._layers.append(replace(layer, usual=usual))

    def correct(self, edit: Editor, run: Callable[[list[Watch]], Calibration]) -> None:
        """Change biases where that brings means nearer to what they should be; `run` calibrates the model as it is."""
        watches = [w for layer in self._layers for w in layer.watches]
        if not watches:
            return
        before = run(list(dict.fromkeys(watches)))
        changed: list[tuple[_Layer, Array, Array]] = []
        for layer in self._layers:
            error = self._error(layer, before)
            stored = _stored_bias(layer.heavy)
            if error is None or stored is None:
                continue
            integers, scale = stored
            wanted = integers - np.rint(error / scale)
            limits = np.iinfo(np.int32)
            found = np.clip(wanted, limits.min, limits.max).astype(np.int32)
            if not np.array_equal(found, integers) and _replace(layer.heavy, found, edit):
                changed.append((layer, integers, error))
        if changed:
            self._check(edit, changed, run(list(dict.fromkeys(watches))))

    def _check(self, edit: Editor, changed: Iterable[tuple[_Layer, Array, Array]], after: Calibration) -> None:
        """Put back the biases with which the means are no nearer."""
        for layer, integers, error in changed:
            now = self._error(layer, after)
            if now is None or float(now @ now) >= float(error @ error):
                _replace(layer.heavy, integers, edit)
                continue
            found = after.along[layer.watches[1].name, layer.along]
            power = float((found.squares / np.maximum(found.count, 1)).sum())
            gain = Gain(
                "empirical", layer.name, decibels(float(error @ error), power), decibels(float(now @ now), power)
            )
            self.gains.append(gain)

    @staticmethod
    def _error(layer: _Layer, seen: Calibration) -> Array | None:
        """[N]: by how much the mean of the output is off."""
        found = _offset(layer, seen)
        return None if found is None else found - layer.usual


def _offset(layer: _Layer, seen: Calibration) -> Array | None:
    """[N]: the mean of a layer's output less what its float weight and bias make of the mean of its input."""
    x, y = (seen.along.get((w.name, w.channels or 0)) for w in layer.watches)
    bias = layer.heavy.bias
    if x is None or y is None or bias is None or not x.count.all() or not y.count.all():
        return None
    means = spread_channels(layer.heavy, layer.shape, x.mean)
    if y.count.size != len(layer.rows):
        return None
    return np.asarray(y.mean - (layer.rows.astype(np.float64) * means).sum(axis=1) - bias.values)


def _stored(heavy: Heavy) -> tuple[Value, Value, Any] | None:
    """The integers and scale of a bias, and the DequantizeLinear that reads them."""
    bias = heavy.bias
    value = bias.reader.inputs[bias.index] if bias is not None else None
    node = None if value is None else value.producer
    if node is None or node.op != "DequantizeLinear" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0], node.inputs[1], node


def _stored_bias(heavy: Heavy) -> tuple[Array, Array] | None:
    found = _stored(heavy)
    if found is None or found[2].outputs[0].use_count != 1:
        return None
    integers, scale = found[0].array(), found[1].array()
    return None if integers is None or scale is None else (integers, scale.astype(np.float64))


def _replace(heavy: Heavy, integers: Array, edit: Editor) -> bool:
    found = _stored(heavy)
    assert found is not None
    value, _, node = found
    try:
        with edit.rewrite("quant.bias", at=node) as rw:
            rw.set_input(node, 0, rw.constant(integers, like=value.name))
    except Decline:
        return False
    edit.drop_unread([value])
    return True
