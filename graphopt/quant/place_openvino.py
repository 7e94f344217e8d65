"""Placement for OpenVINO's CPU plugin: the inputs of operators, from which its low-precision passes make kernels.

The plugin moves a DQ forward through what its passes know, and fuses the Q that follows an operator, with the
activation in between, into its kernel; so a Q belongs in front of what wants integers, and further up in front of what
only moves data. The rules start from NNCF's, and were decided by the kernels and latencies of OpenVINO 2026.4:
* the bias is stored as int32 behind a DQ: a float bias, as NNCF leaves it, keeps activation and Q out of the kernel;
* of an Add behind a convolution, both operands get a pair: only so it becomes the convolution's own sum;
* a pair behind a MaxPool leaves the pool float, so it stands before it;
* zero points are free in Conv and products with weights; ConvTranspose and products of two activations need zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.quant.operands import Heavy, redundant_activation, sole_reader
from graphopt.quant.place_inputs import InputFlow, float_summands, is_float

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.place import Pair

__all__ = ["OpenVINOFlow", "objection"]

_ACTIVATIONS = frozenset(["Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Elu", "HardSwish", "HardSigmoid",
                          "Gelu", "Swish", "Mish"])  # fmt: skip


def objection(heavy: Heavy) -> str | None:
    """Why a weighted operator that could be quantized stays float."""
    maker = heavy.x.producer
    if heavy.other is not None and maker is not None and maker.op == "Softmax":
        return "probabilities times values: 8 bits are too coarse for a Softmax over many positions"
    return None


class OpenVINOFlow(InputFlow):
    """Inputs of weighted operators and of pools, both operands of the sums behind convolutions."""

    def run(self) -> None:
        super().run()
        self.share_concatenations("; one scale around Concat, which then joins integers")

    def weighted(self, heavy: Heavy) -> None:
        node = heavy.node
        if heavy.other is not None:
            kind = heavy.rule.pair_dtype
            for index, value in enumerate((heavy.x, heavy.other)):
                self._read(value, node, index, f"operand of {node.op}: both, with zero point 0, for its kernel", kind)
            return
        kind, why = self.table.activation, "all inputs of weighted operators, for an integer kernel"
        if node.op == "ConvTranspose" and not _from_zero(heavy.x):
            kind, why = "int8", "its kernel wants zero point 0"
        self.result.sources[node] = self._read(heavy.x, node, 0, f"input of {node.op}: {why}", kind)

    def _read(self, value: Value, node: Node, index: int, reason: str, kind: str | None = None) -> Pair:
        """A pair for one input, before whatever only moves the data to it."""
        at = node
        while value.producer is not None and self.moves(value.producer) and not self.protects(value.producer):
            mover = value.producer
            source = mover.inputs[0]
            if source is None or not is_float(source):
                break
            value, at, index = source, mover, 0
        if at != node:
            reason += f", before {at.op}, which then moves integers"
        return self.read(value, at, index, reason, kind)

    def between(self, node: Node) -> None:
        summands = float_summands(node) if node.op == "Add" and "Add" in self.table.elementwise else None
        if summands is not None and any(map(self._convolved, summands)):
            for index, value in enumerate(summands):
                reason = "operand of an Add behind a Conv: with both on integers, the sum is part of the convolution"
                self._read(value, node, index, reason)

    def _convolved(self, value: Value) -> bool:
        """Whether a quantized Conv makes a value for one reader alone."""
        maker = value.producer
        if maker is not None and maker.op in _ACTIVATIONS and maker.inputs[0] is not None:
            value = value if sole_reader(value) is None else maker.inputs[0]
            maker = value.producer
        return maker is not None and maker.op == "Conv" and maker in self.heavy and sole_reader(value) is not None

    def pool(self, pool: Node) -> None:
        value = pool.inputs[0]
        if value is None or not is_float(value) or sole_reader(value) != pool:
            return  # the others would have to go on with what was rounded for the pool
        if self.wanted(pool.outputs[0]):
            self._read(value, pool, 0, f"input of {pool.op}, whose output is quantized: it averages integers")

    def wanted(self, value: Value) -> bool:
        """Whether a pair stands on the value itself: what moves it stands behind its pair here."""
        return any(at in self.quantized for at in value.uses())


def _from_zero(value: Value) -> bool:
    """Whether a value is never negative, so that its zero point is 0 anyway."""
    return value.producer is not None and redundant_activation(value.producer)[0]
