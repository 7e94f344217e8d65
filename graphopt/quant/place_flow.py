"""Placement where an operator runs on integers if a Q follows it, as ONNX Runtime's kernels want it.

A value is *integer* when every reader gets it through one Q/DQ pair, so that its producer can write integers.
Such are the outputs of Conv, then of whatever runs on integers behind them and is *wanted* by a weighted
operator. Other values get a pair only in front of the operators that want it; everybody else reads them as
they are. A body of If, Loop or Scan takes part as if it stood in place, but what it is given and what it gives are
values of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.quant.keep_float import keep_float
from graphopt.quant.operands import Heavy, moves_data, redundant_activation, sole_reader
from graphopt.quant.place import Pair
from graphopt.quant.within import home_of, in_order, not_inside

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Graph, Node, Value
    from graphopt.quant.place import Plan
    from graphopt.targets.table import Weighted

__all__ = ["IntegerFlow"]


@dataclass(frozen=True)
class _Root:
    """Where an integer value got its scale: data movement hands it on."""

    like: Value
    floor_zero: bool = False
    ceiling: float | None = None


class IntegerFlow:
    """Follows the data through the main graph and its bodies: backward for what is wanted, forward for what is
    integer.
    """

    def __init__(self, model: Model, result: Plan, protects: Callable[[Node | Value], bool]) -> None:
        self.protects = protects
        self.table = result.table
        self.result = result
        self.nodes = in_order(model)
        self.outside: dict[Graph, bool] = {}
        self.axes = model.opset() >= self.table.opset_per_channel or bool(result.dequantizer)
        self.heavy = {h.node: h for h in result.heavy}
        self.wanted: set[Value] = set()
        self.handed_on: set[Value] = set()
        self.integer: dict[Value, _Root] = {}
        self.local: dict[tuple[Value, str, Graph], Pair] = {}

    def run(self) -> None:
        self._backward()
        for node in self.nodes:
            heavy = self.heavy.get(node)
            if heavy is not None:
                self._weighted(heavy)
            elif self._moves(node):
                self._movement(node)
            elif self._elementwise(node):
                self._on_integers(node)
        keep_float(self.result, self._is_integer, per_channel=self.axes)

    def _backward(self) -> None:
        for node in reversed(self.nodes):
            self.handed_on.update(v for v in node.outputs if self._handed_on(v))
            heavy = self.heavy.get(node)
            if heavy is not None:
                self.wanted.update(v for v in (heavy.x, heavy.other) if v is not None)
            elif self._moves(node):
                if any(o in self.wanted for o in node.outputs) and node.inputs[0] is not None:
                    self.wanted.add(node.inputs[0])
            elif self._elementwise(node) and self._result(node)[0] in self.wanted:
                self.wanted.update(v for v in node.inputs if v is not None)

    def _handed_on(self, value: Value) -> bool:
        """Whether nobody reads `value` but weighted operators as their data, be it behind data movement."""
        if value.is_output or not value.use_count:
            return False
        for node, index in value.uses():
            moved = index == 0 and self._moves(node) and all(o in self.handed_on for o in node.outputs)
            if not moved and (index != 0 or node not in self.heavy):
                return False
        return True

    def _moves(self, node: Node) -> bool:
        return moves_data(node, self.table) and not self.protects(node) and not self._is_outside(node)

    def _elementwise(self, node: Node) -> bool:
        row = self.table.elementwise.get(node.op)
        if row is None or not node.is_standard or self.protects(node) or self._is_outside(node):
            return False
        return not any(a in node.attrs for a in row.unless_set)

    def _is_outside(self, node: Node) -> bool:
        """Whether a node stands in a body where the target has no integer kernels."""
        graph = node.graph
        if graph not in self.outside:
            self.outside[graph] = not_inside(graph, self.table) is not None
        return self.outside[graph]

    def _carrier(self, value: Value) -> tuple[Value, _Root]:
        """Where a Q belongs that shall make `value` integer: behind the activation that it makes redundant,
        or on it.
        """
        reader = sole_reader(value)
        if reader is not None and not self.table.symmetric:
            redundant, ceiling = redundant_activation(reader)
            if redundant:
                behind = reader.outputs[0]
                return behind, _Root(behind, True, ceiling)
        return value, _Root(value)

    def _result(self, node: Node) -> tuple[Value, _Root]:
        """Where the Q of an elementwise operator stands."""
        output = node.outputs[0]
        through = self.table.elementwise[node.op].output == "through-redundant-activation"
        return self._carrier(output) if through else (output, _Root(output))

    def _weighted(self, heavy: Heavy) -> None:
        node = heavy.node
        self._read(heavy.x, node, 0, f"input of {node.op}")
        if heavy.other is not None:
            self._read(heavy.other, node, 1, f"second operand of {node.op}", heavy.rule.pair_dtype)
        rule = heavy.rule
        if rule.output == "always":
            self._write(heavy.output, _Root(heavy.output), f"output of {node.op}")
        elif rule.output == "through-redundant-activation":
            self._write(*self._carrier(heavy.output), f"output of {node.op}")
        elif rule.output == "if-wanted" and heavy.output in self.handed_on:
            self._write(heavy.output, _Root(heavy.output), f"output of {node.op}, which only integer operators read")
        elif self._falls_back(heavy, rule):
            value, root = self._carrier(heavy.output)
            self._write(value, root, f"output of {node.op}, which would fall back to float without")

    def _falls_back(self, heavy: Heavy, rule: Weighted) -> bool:
        """Whether the runtime fuses what follows into a float kernel unless the output is quantized."""
        reader = sole_reader(heavy.output)
        if reader is None or not rule.output_before or reader.domain != "":
            return False
        flat = heavy.node.op == "Gemm" or heavy.x.rank in (2, None)
        if reader.op in rule.output_before:
            return flat or heavy.bias is None
        if reader.op != "Add" or not rule.bias_add or heavy.bias is not None:
            return False
        others = [v for v in reader.inputs if v is not None and v != heavy.output]
        number = all(v.is_const and v.shape in ((), (1,)) for v in others)
        return not number and (flat or all(v.rank in (1, None) for v in others))

    def _movement(self, node: Node) -> None:
        source = node.inputs[0]
        root = None if source is None else self.integer.get(source)
        if root is None:
            return
        for output in node.outputs:
            if output in self.wanted:
                self._write(output, root, f"{node.op} moves integers: the scale of {root.like.name!r} stays")

    def _is_integer(self, value: Value) -> bool:
        """Whether `value` is integer; it becomes so, if it is what is left of an integer that was only moved."""
        ways = [value]
        while ways[-1] not in self.integer:
            node = ways[-1].producer
            source = node.inputs[0] if node is not None and self._moves(node) else None
            if source is None:
                return False
            ways.append(source)
        root = self.integer[ways.pop()]
        for moved in reversed(ways):
            self._write(moved, root, f"integers that are moved: the scale of {root.like.name!r} stays")
        return value in self.integer

    def _on_integers(self, node: Node) -> None:
        value, root = self._result(node)
        inputs = [(v, i) for i, v in enumerate(node.inputs) if v is not None]
        outside = [(v, i) for v, i in inputs if v not in self.integer]
        if value not in self.wanted or len(outside) == len(inputs):
            return
        if any(v.is_const or not _is_small(v, node.outputs[0]) for v, _ in outside):
            return
        for v, i in outside:
            self._read(v, node, i, f"small input of {node.op}")
        self._write(value, root, f"output of {node.op}, whose inputs are integers")

    def _read(self, value: Value, node: Node, index: int, reason: str, dtype: str | None = None) -> None:
        """Let one input of a node come through a pair, unless everybody reads the value that way."""
        if value in self.integer:
            return
        kind = dtype or self.table.activation
        home = home_of(value, node)
        pair = self.local.get((value, kind, home))
        if pair is None:
            pair = self.local[value, kind, home] = Pair(value, [], value, kind, reason)
            self.result.pairs.append(pair)
        assert pair.readers is not None
        pair.readers.append((node, index))

    def _write(self, value: Value, root: _Root, reason: str) -> None:
        """Let everybody read `value` through one pair, if everybody may."""
        if value in self.integer or value.name in self.result.plain or (value.is_output and self.protects(value)):
            return
        if any(self.protects(reader) for reader, _ in value.uses()):
            return
        self.integer[value] = root
        pair = Pair(value, None, root.like, self.table.activation, reason, root.floor_zero, root.ceiling)
        self.result.pairs.append(pair)


def _is_small(value: Value, output: Value) -> bool:
    """Whether `value` broadcasts over the last two axes, which is where the data of an image is."""
    shape: Sequence[object] | None = value.shape
    return shape is not None and len(shape) >= 3 and len(shape) == output.rank and tuple(shape[-2:]) == (1, 1)
