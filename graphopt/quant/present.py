"""What of a model is quantized already: Q/DQ pairs, stored integers, and operators that compute with integers.

Training that knows of quantization, and other tools, write models whose scales are worth keeping. They spell them in
many ways: weights as integers with a DequantizeLinear or as floats with a pair, one scale for all, for each channel or
for each block, any of the integer and 8-bit float types, ONNX's own operators or those of `com.microsoft`, and whole
operators on integers (QLinearConv). `encoding_of` reads each of them as an `Encoding`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.ranges import Range
from graphopt.quant.types import QTYPES, QType, QuantParams, dequantize, quantize

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value

__all__ = [
    "SYNTHETIC_KEY", "Encoding", "Present", "encoding_of", "is_dequantize", "is_quantize", "read_encoding",
    "read_present",
]  # fmt: skip

SYNTHETIC_KEY = "graphopt.calibration"
"""Under it, the metadata of a model say `synthetic` if its ranges are guesses."""

Array = np.ndarray[Any, Any]

_DOMAINS = ("", CONTRIBUTED)
_INTEGER_OPERATORS = frozenset(
    ["ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
     "MatMulNBits", "QAttention", "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool",
     "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul",
     "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QMoE", "GatherBlockQuantized"]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Encoding:
    """How a tensor is stored in integers or 8-bit floats: real = scale × (stored − zero_point).

    `scale`, `zero_point`: of one shape; [] for a tensor, [channels] along `axis`, or with `block` elements of `axis`
    to each scale the shape of the tensor with that axis divided.
    """

    scale: Array
    zero_point: Array
    axis: int | None = None
    block: int = 0

    @property
    def params(self) -> QuantParams:
        return QuantParams(self.scale, self.zero_point)

    @property
    def kind(self) -> QType:
        """The type that is stored."""
        return self.params.kind

    @property
    def range(self) -> Range:
        """The real numbers that can be stored, over all channels."""
        zero, scale = self.zero_point.astype(np.float64), self.scale.astype(np.float64)
        return Range(float(((self.kind.low - zero) * scale).min()), float(((self.kind.high - zero) * scale).max()))

    def equals(self, other: Encoding) -> bool:
        """Whether the same real number is stored in the same way."""
        return (
            self.zero_point.dtype == other.zero_point.dtype
            and (self.axis, self.block) == (other.axis, other.block)
            and self.scale.dtype == other.scale.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point.astype(np.float32), other.zero_point.astype(np.float32))
        )

    def simplest(self) -> Encoding:
        """The same encoding with one scale, if all of its scales and zero points are the same."""
        zeros = self.zero_point.astype(np.float32)
        if self.block or np.ptp(self.scale) or np.ptp(zeros):
            return self
        return Encoding(self.scale.reshape(-1)[:1].reshape(()), self.zero_point.reshape(-1)[:1].reshape(()))

    def decode(self, stored: Array) -> Array:
        """DequantizeLinear: the real numbers, in the type of the scale."""
        return dequantize(stored, self.params, self.axis, self.block).astype(self.scale.dtype)

    def encode(self, real: Array) -> Array:
        """QuantizeLinear: rounded half to even, and saturated."""
        return quantize(real.astype(np.float32), self.params, self.axis, self.block)


def is_quantize(node: Node | None) -> bool:
    """Whether this is ONNX's QuantizeLinear, or ONNX Runtime's."""
    return node is not None and node.op == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantize(node: Node | None) -> bool:
    """Whether this is ONNX's DequantizeLinear, or ONNX Runtime's."""
    return node is not None and node.op == "DequantizeLinear" and node.domain in _DOMAINS


def encoding_of(node: Node) -> Encoding | None:
    """The encoding of a QuantizeLinear or DequantizeLinear; None if it is not fixed, or makes no sense."""
    x, scale, zero = (*node.inputs, None)[:3]
    if x is None or scale is None:
        return None
    try:
        axis, block = int(node.attr("axis", 1)), int(node.attr("block_size", 0))
    except Decline:
        return None
    stored = node.outputs[0] if is_quantize(node) else x
    return read_encoding(scale, zero, stored, axis=axis, block=block, rank=x.rank)


def read_encoding(
    scale: Value, zero: Value | None, stored: Value, *, axis: int = 1, block: int = 0, rank: int | None = None
) -> Encoding | None:
    """An encoding from the inputs of an operator; `stored` is what has its type. None if it is not constant."""
    scales = scale.array()
    zeros = None if zero is None else zero.array()
    if scales is None or (zero is not None and zeros is None) or not _sound(scales):
        return None
    if zeros is None:
        if stored.dtype is None:
            return None
        zeros = np.zeros(scales.shape, stored.dtype.numpy())
    if all(zeros.dtype != kind.dtype for kind in QTYPES.values()):
        return None
    if scales.size == 1 and scales.ndim < 2 and not block:
        return Encoding(scales.reshape(()), zeros.reshape(-1)[:1].reshape(()))
    if rank is None or not -rank <= axis < rank:
        return None
    if zeros.shape != scales.shape:
        if zeros.size != 1:
            return None
        zeros = np.broadcast_to(zeros.reshape(()), scales.shape).copy()
    return Encoding(scales, zeros, axis % rank, block)


def _sound(scales: Array) -> bool:
    return bool(scales.size and np.isfinite(scales.astype(np.float32)).all() and (scales.astype(np.float32) > 0).all())


@dataclass
class Present:
    """What is quantized in a model.

    `pairs` activations go through a QuantizeLinear and a DequantizeLinear, by stored type; `weights` constants are
    dequantized, by stored type, the biases among them under `int32`; `operators` compute with integers, by name.
    """

    pairs: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.pairs or self.weights or self.operators)

    def __str__(self) -> str:
        biases = self.weights["int32"]
        weights = Counter({k: n for k, n in self.weights.items() if k != "int32"})
        parts = [
            _counted(self.pairs, "Q/DQ pair on activations", "Q/DQ pairs on activations"),
            _counted(weights, "weight", "weights"),
            f"{biases} bias{'es' * (biases != 1)}" if biases else "",
            _counted(self.operators, "integer operator", "integer operators"),
        ]
        return ", ".join(part for part in parts if part)


def _counted(found: Counter[str], one: str, many: str) -> str:
    total = sum(found.values())
    return f"{total} {one if total == 1 else many} ({', '.join(sorted(found))})" if total else ""


def read_present(model: Model) -> Present:
    """Look through all graphs of a model. A DequantizeLinear of what comes from outside is a way to read it, and
    does not count.
    """
    found = Present()
    for node in _quantized(model):
        if node.op in _INTEGER_OPERATORS:
            found.operators[node.op] += 1
            continue
        if node.op == "DynamicQuantizeLinear":
            continue  # what reads it counts
        source = node.inputs[0]
        if source is None:
            continue
        kind = "?" if source.dtype is None else source.dtype.name.lower()
        producer = source.producer
        if producer is not None and is_quantize(producer):
            source = producer.inputs[0]
            found.pairs[kind] += source is not None and not source.is_const
        if source is not None and source.is_const:
            found.weights[kind] += 1
    found.pairs += Counter()  # without those that are zero
    return found


def _quantized(model: Model) -> Iterator[Node]:
    for graph in model.graphs():
        for node in graph.find("DequantizeLinear", "DynamicQuantizeLinear", *_INTEGER_OPERATORS):
            if node.domain in _DOMAINS:
                yield node
