"""Placement as node units: every operator stands between DQ and Q, as Qualcomm's HTP wants it through ONNX Runtime.

There an operator without integers around it falls back to the CPU, or the model does not compile. The rules are those
of ONNX Runtime's `quantization/execution_providers/qnn/quant_config.py` and of its QDQ operators: one scale for each
tensor, scales per channel for convolutions alone, the same scale on both sides of what only moves data, int32 biases,
and fixed scales behind Sigmoid, Tanh and Softmax. Between an operator and the Relu or Clip behind it stands the scale
of the latter's output, so that the pair does what the activation does and costs no accuracy. Sizes that are computed
in float on their way to other sizes are no data, and stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.quant.operands import moves_data, redundant_activation, sole_reader
from graphopt.quant.place import Declined, Pair
from graphopt.quant.place_inputs import is_float

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.place import Plan

__all__ = ["UnitFlow"]


class UnitFlow:
    """A pair on every float value of the main graph, and integers for the constants that units read."""

    def __init__(self, model: Model, result: Plan, protects: Callable[[Node | Value], bool]) -> None:
        self.protects = protects
        self.result = result
        self.table = result.table
        self.nodes = [n for n in model.main.nodes if n.is_standard and n.op not in self.table.float and not n.bodies]
        self.inputs = list(model.main.inputs)
        self.heavy = {h.node: h for h in result.heavy}
        self.pairs: dict[Value, Pair] = {}
        self.sizes = _size_nodes(model)

    def run(self) -> None:
        readers = {v for node in self.nodes for v in node.inputs if v is not None}
        for value in self.inputs:
            if value in readers:
                self._pair(Pair(value, None, value, self.table.activation, "input of the model: units read integers"))
        for node in self.nodes:
            if any(map(self._is_size, node.outputs)):
                continue
            self._constants(node)
            for output in node.outputs:
                if is_float(output):
                    self._pair(self._behind(node, output))
        for heavy in list(self.result.heavy):
            if heavy.x not in self.pairs:
                self.result.heavy.remove(heavy)
                self.result.declined.append(Declined(heavy.node, "its input has to stay as it is"))

    def _pair(self, pair: Pair) -> None:
        value = pair.value
        if not is_float(value) or (value.is_output and self.protects(value)):
            return
        uses = value.uses()
        if (uses or value.is_output) and not any(self.protects(reader) for reader, _ in uses):
            self.pairs[value] = pair
            self.result.pairs.append(pair)

    def _is_size(self, value: Value) -> bool:
        """Whether `value` is computed from sizes alone, and other sizes from it."""
        return value.producer in self.sizes and any(reader in self.sizes for reader, _ in value.uses())

    def _behind(self, node: Node, output: Value) -> Pair:
        """The pair on the result of a unit."""
        before = self.pairs.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        if before is not None and moves_data(node, self.table):
            reason = f"{node.op} moves integers: the scale of {before.like.name!r} stays"
            return replace(before, value=output, reason=reason)
        kind = self.table.activation
        if node.op in self.table.fixed:
            scale, zero_point = self.table.fixed[node.op]
            return Pair(output, None, output, kind, f"output of {node.op}: its range is known, and the scale fixed",
                        fixed=(scale, zero_point))  # fmt: skip
        redundant, ceiling = redundant_activation(node)
        reader = sole_reader(output)
        if reader is not None and reader in self.nodes:
            cuts, top = redundant_activation(reader)
            if cuts and is_float(reader.outputs[0]):
                reason = f"output of {node.op}, with the scale behind {reader.op}, which then has nothing left to cut"
                return Pair(output, None, reader.outputs[0], kind, reason, floor_zero=True, ceiling=top)
        reason = f"output of {node.op}: every operator stands between integers"
        return Pair(output, None, output, kind, reason, floor_zero=redundant, ceiling=ceiling)

    def _constants(self, node: Node) -> None:
        """Integers for the constant operands of a unit, other than weights and biases."""
        if node.op not in self.table.elementwise or self.protects(node):
            return
        heavy = self.heavy.get(node)
        own = {heavy.weight, heavy.bias.value if heavy.bias is not None else None} if heavy is not None else set()
        for index, value in enumerate(node.inputs):
            if value is None or value in own or not value.is_const or value.dtype is None:
                continue
            array = value.array() if value.dtype.name == "FLOAT" else None
            if array is not None and array.size:
                reason = f"constant operand of {node.op}: every operand of a unit is stored as integers"
                self.result.pairs.append(Pair(value, [(node, index)], value, self.table.activation, reason))


def _size_nodes(model: Model) -> set[Node]:
    """The nodes of the main graph that compute numbers and lists of numbers from sizes and constants alone."""
    found: set[Node] = set()
    for node in model.main.nodes:
        varying = [v.producer for v in node.inputs if v is not None and not v.is_const]
        computed = bool(varying) and all(producer in found for producer in varying)
        flat = all(output.rank in (0, 1) for output in node.outputs)
        if node.is_standard and not node.bodies and (node.op in ("Shape", "Size") or (computed and flat)):
            found.add(node)
    return found
