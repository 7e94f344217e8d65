"""A quantized model back in floats: its activations unrounded, its weights as the numbers that they stand for.

A tool may have left out a Relu or Clip because the QuantizeLinear behind it stores nothing below zero. Where a pair
goes that did such work, the Relu comes back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.ir.value import DType
from graphopt.quant.present import SYNTHETIC_KEY, Encoding, encoding_of, is_dequantize, is_quantize, read_present
from graphopt.quant.unfold import MOVES, OPERATORS, sink, unfold

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.model import Model
    from graphopt.ir.value import Graph, Node, Value
    from graphopt.quant.insert import Decliner

__all__ = ["Given", "Stored", "dequantize_graph"]

_POOLS = frozenset(["AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
_SUMS = frozenset(
    ["Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GroupNormalization", "InstanceNormalization",
     "LayerNormalization", "MatMul", "Sub"]
)  # fmt: skip
_OPSET_OF_ROUND = 11
_HALF_WAY = (
    "what it reads and writes stays in integers, and ONNX Runtime loads no float operator in between before opset 11"
)
_SIX = 6.0  # the only upper bound that networks are built with


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as it was stored: the integers, and what they stand for."""

    integers: np.ndarray
    encoding: Encoding


@dataclass
class Given:
    """What a model knew of its quantization: the encodings of activations, and the weights, by their floats now.

    `pairs` and `operators` count what was undone.
    """

    activations: dict[Value, list[Encoding]] = field(default_factory=dict)
    weights: dict[Value, Stored] = field(default_factory=dict)
    pairs: int = 0
    operators: int = 0


def dequantize_graph(model: Model, edit: Editor, decline: Decliner | None = None) -> Given:
    """Undo the quantization of `model`, through the Editor; what was undone is returned.

    What cannot be undone stays as it is, and `decline` is told why. Once nothing is quantized any more, the metadata do
    not say that ranges are guesses. Linear in the size of the model.
    """
    given = _Strip(model, edit, decline).run()
    if not read_present(model):
        model.metadata.pop(SYNTHETIC_KEY, None)
    return given


class _Strip:
    def __init__(self, model: Model, edit: Editor, decline: Decliner | None) -> None:
        self.model = model
        self.edit = edit
        self._decline = decline
        self.given = Given()

    def run(self) -> Given:
        for graph in list(self.model.graphs()):
            self._unfold(graph)
            for node in list(graph.nodes):
                if is_dequantize(node) and node.alive:
                    self._attempt("dequant.pair", node, functools.partial(self._dequantize, node))
        return self.given

    def _unfold(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.op in OPERATORS and node.domain in ("", CONTRIBUTED) and node.alive:
                self._attempt("dequant.operator", node, functools.partial(self._operator, node))
            elif node.op in MOVES and node.is_standard and node.alive and _moves_integers(node):
                self._attempt("dequant.pair", node, functools.partial(self._sink, node))

    def _attempt(self, by: str, node: Node, change: Callable[[], None]) -> None:
        try:
            change()
        except Decline as declined:
            if self._decline is not None:
                self._decline(by, node, declined.reason)

    def _operator(self, node: Node) -> None:
        if self.model.opset() < _OPSET_OF_ROUND and _comes_integer(node.inputs[0]) and _goes_integer(node.outputs[0]):
            raise Decline(_HALF_WAY)
        made: dict[Value, Stored] = {}
        with self.edit.rewrite("dequant.operator", at=node, same_type=False) as rw:
            unfold(node, rw, functools.partial(self._floats, made))
        self.given.weights.update(made)
        self.given.operators += 1

    def _sink(self, node: Node) -> None:
        with self.edit.rewrite("dequant.pair", at=node, same_type=False) as rw:
            sink(node, rw)

    def _floats(self, made: dict[Value, Stored], rw: Rewrite, stored: Value, encoding: Encoding) -> Value:
        integers = stored.content()
        value = rw.constant(encoding.decode(integers), f"{stored.name}_float")
        made[value] = Stored(integers, encoding)
        return value

    def _dequantize(self, node: Node) -> None:
        """Let everybody read floats instead of what a DequantizeLinear gives."""
        stored = node.inputs[0]
        if stored is None:
            raise Decline("an input is missing")
        encoding = encoding_of(node)
        if encoding is None:
            raise Decline("its scale is computed at run time, or of a form that is not known")
        if stored.is_const:
            self._constant(node, stored, encoding)
            return
        q = stored.producer
        if q is None or not is_quantize(q):
            raise Decline("what it reads comes from no QuantizeLinear")
        mine = encoding_of(q)
        encoding = encoding.simplest()
        if mine is None or not mine.equals(encoding):
            raise Decline("the QuantizeLinear in front of it has another scale")
        x = q.inputs[0]
        assert x is not None, "encoding_of has seen it"
        if x.is_const:
            self._pair_of_constant(node, x, encoding)
        else:
            self._activation(node, x, encoding)

    def _constant(self, node: Node, stored: Value, encoding: Encoding) -> None:
        made: dict[Value, Stored] = {}
        with self.edit.rewrite("dequant.weight", at=node) as rw:
            rw.replace(node.outputs[0], self._floats(made, rw, stored, encoding))
        self.given.weights.update(made)

    def _pair_of_constant(self, node: Node, x: Value, encoding: Encoding) -> None:
        """A weight stored in floats counts as what the pair behind it makes of it, which is what was trained."""
        integers = encoding.encode(x.content())
        with self.edit.rewrite("dequant.weight", at=node) as rw:
            value = rw.constant(encoding.decode(integers), x.name)
            rw.replace(node.outputs[0], value)
        self.given.weights[value] = Stored(integers, encoding)

    def _activation(self, node: Node, x: Value, encoding: Encoding) -> None:
        if x.dtype != node.outputs[0].dtype:
            raise Decline("the pair changes the type")
        # A pair keeps the shape, also where it is not known, as behind operators that have no schema.
        with self.edit.rewrite("dequant.pair", at=node, same_type=False) as rw:
            source = _clipped(rw, x, encoding)
            rw.replace(node.outputs[0], source)
        self.given.activations.setdefault(source, []).append(encoding)
        self.given.pairs += 1


def _comes_integer(value: Value | None) -> bool:
    """Whether integers come from where nothing makes floats of them: the state of a Loop or Scan, an input."""
    while value is not None and not value.is_const:
        node = value.producer
        if node is None or (node.op not in MOVES and node.op not in OPERATORS and not is_quantize(node)):
            return True
        value = node.inputs[0] if node.op in MOVES else None
    return False


def _goes_integer(value: Value) -> bool:
    """Whether integers go to where nothing makes floats of them."""
    pending = [value]
    while pending:
        value = pending.pop()
        if value.is_output:
            return True
        for reader, _ in value.uses():
            if reader.op in MOVES:
                pending.append(reader.outputs[0])
            elif reader.op not in OPERATORS and not is_dequantize(reader):
                return True
    return False


def _moves_integers(node: Node) -> bool:
    source = node.inputs[0]
    return source is not None and is_quantize(source.producer)


def _clipped(rw: Rewrite, x: Value, encoding: Encoding) -> Value:
    """`x` behind the Relu or Clip whose work the pair did, if it stands where networks have one."""
    low, high = encoding.range.low, encoding.range.high
    if low < 0.0 or x.dtype != DType.FLOAT or not _may_be_rectified(_origin(x)):
        return x
    if abs(high - _SIX) > 1e-3:
        (made,) = rw.node("Relu", [x])
    else:
        bounds = [rw.constant(np.array(bound, np.float32), "bound") for bound in (0.0, _SIX)]
        (made,) = rw.node("Clip", [x, *bounds])
    return made


def _may_be_rectified(x: Value) -> bool:
    """Whether a Relu could have stood behind this: it is the sum of a layer, and may be negative."""
    producer = x.producer
    if producer is None or producer.op not in _SUMS or x.range[0] >= 0.0:
        return False
    return not any(v is not None and v.is_const and v.shape in ((), (1,)) for v in producer.inputs[:2])


def _origin(x: Value) -> Value:
    """Where the elements of a value come from: pools give none below those that they read."""
    producer = x.producer
    while producer is not None and producer.op in (MOVES | _POOLS) and producer.is_standard:
        source = producer.inputs[0]
        if source is None:
            break
        x, producer = source, source.producer
    return x
