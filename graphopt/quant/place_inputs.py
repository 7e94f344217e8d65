"""What the styles have in common that quantize the inputs of operators, and never an output for its own sake.

There, every pair has its readers named: the same value may be float for everybody else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from graphopt.quant.operands import moves_data
from graphopt.quant.place import Pair

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.operands import Heavy
    from graphopt.quant.place import Plan

__all__ = ["InputFlow", "float_summands", "is_float"]

_POOLS = ("AveragePool", "GlobalAveragePool")


def is_float(value: Value | None) -> bool:
    """Whether `value` is a float32 tensor that is not a constant."""
    return value is not None and not value.is_const and value.dtype is not None and value.dtype.name == "FLOAT"


def float_summands(add: Node) -> tuple[Value, Value] | None:
    """The operands of an Add of two different floats of the same shape.

    With broadcasting, no runtime makes the sum a part of the convolution in front.
    """
    left, right = add.inputs
    if left is None or right is None or left == right or not (is_float(left) and is_float(right)):
        return None
    return None if left.shape is None or left.shape != right.shape else (left, right)


class InputFlow(ABC):
    """Pairs in front of operators, at most one for each value and type. A style says which inputs it takes."""

    def __init__(self, model: Model, result: Plan, protects: Callable[[Node | Value], bool]) -> None:
        self.protects = protects
        self.result = result
        self.table = result.table
        self.nodes = [node for node in model.main.nodes if node.is_standard]
        self.heavy = {h.node: h for h in result.heavy}
        self.quantized: set[tuple[Node, int]] = set()
        self.pairs: dict[tuple[Value, str], Pair] = {}

    def run(self) -> None:
        for heavy in self.heavy.values():
            self.weighted(heavy)
        for node in self.nodes:
            if not self.protects(node):
                self.between(node)
        for node in reversed(self.nodes):  # a pool may stand in front of a pool
            if node.op in _POOLS and node.op in self.table.elementwise and not self.protects(node):
                self.pool(node)

    @abstractmethod
    def weighted(self, heavy: Heavy) -> None:
        """Take the inputs of a weighted operator."""

    @abstractmethod
    def between(self, node: Node) -> None:
        """Take inputs of a node beside the weighted operators, if it is one that fuses with these."""

    @abstractmethod
    def pool(self, pool: Node) -> None:
        """Take the input of an average, if its output is read as integers."""

    def read(self, value: Value, node: Node, index: int, reason: str, dtype: str | None = None) -> Pair:
        """Let one input of a node come through the pair on `value`, of the table's type if `dtype` is None."""
        kind = dtype or self.table.activation
        pair = self.pairs.get((value, kind))
        if pair is None:
            pair = self.pairs[value, kind] = Pair(value, [], value, kind, reason)
            self.result.pairs.append(pair)
        assert pair.readers is not None
        if (node, index) not in pair.readers:
            pair.readers.append((node, index))
            self.quantized.add((node, index))
        return pair

    def pair_on(self, value: Value | None) -> Pair | None:
        """The pair of the table's type on a value."""
        return None if value is None else self.pairs.get((value, self.table.activation))

    def moves(self, node: Node | None) -> bool:
        """Whether a node only moves data, so that Q and DQ may pass it."""
        return node is not None and moves_data(node, self.table)

    def behind(self, value: Value) -> Iterator[tuple[Node, int]]:
        """The readers of a value, and those behind nodes that only move it."""
        pending, seen = [value], {value}
        while pending:
            for node, index in pending.pop().uses():
                if self.moves(node) and index == 0:
                    fresh = [o for o in node.outputs if o not in seen]
                    seen.update(fresh)
                    pending.extend(fresh)
                else:
                    yield node, index

    def wanted(self, value: Value) -> bool:
        """Whether somebody reads the value, or what only moves it, as integers."""
        return any(at in self.quantized for at in self.behind(value))

    def share_concatenations(self, reason: str) -> None:
        """Give the pairs around each Concat one scale, so that integers can be joined as they are."""
        groups = []
        for node in self.nodes:
            behind = self.pair_on(node.outputs[0]) if node.op == "Concat" else None
            if behind is not None:
                before = [pair for v in node.inputs if (pair := self.pair_on(v)) is not None]
                groups.append([behind, *before])
        self._share([group for group in groups if len(group) > 1], reason)

    def _share(self, groups: list[list[Pair]], reason: str) -> None:
        """Give the pairs of each group one scale; groups with a pair in common are one."""
        united: dict[int, dict[int, Pair]] = {}
        for group in groups:
            merged: dict[int, Pair] = {}
            for pair in group:
                other = united.get(id(pair), {id(pair): pair})
                if other is merged:
                    continue
                if len(other) > len(merged):
                    merged, other = other, merged
                merged.update(other)
                united.update(dict.fromkeys(other, merged))
            united.update(dict.fromkeys(map(id, group), merged))
        for together in {id(found): found for found in united.values()}.values():
            values = tuple(pair.like for pair in together.values())
            for pair in together.values():
                pair.also = values
                pair.reason += reason
