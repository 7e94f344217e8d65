"""Operators that carry permutations, and who reads a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt_passes.layout.carry import Carry
from graphopt_passes.layout.orders import Layout, compose

from graphopt import Node, Value


@dataclass(frozen=True, eq=False)
class Unit:
    """A node that carries permutations, and what it reads: tensors, each in a layout."""

    node: Node
    carry: Carry
    operands: dict[int, tuple[Value, Layout]]
    _read: dict[tuple[int, Layout], Layout] = field(default_factory=dict)
    _written: dict[tuple[int, Layout], Layout] = field(default_factory=dict)

    def read(self, index: int, order: Layout) -> Layout:
        """The layout in which it reads the tensor at one of its inputs, when its axes are in this order."""
        found = self._read.get((index, order))
        if found is None:
            found = compose(self.operands[index][1], self.carry.reads[index].layout(order))
            self._read[index, order] = found
        return found

    def written(self, index: int, order: Layout) -> Layout:
        """The layout in which it writes one of its results."""
        found = self._written.get((index, order))
        if found is None:
            found = self._written[index, order] = self.carry.writes[index].layout(order)
        return found


@dataclass(frozen=True)
class Reader:
    """Somebody who reads a tensor in the layout `seen`: an operand of a unit, or (`unit` is None) anything else."""

    unit: Unit | None
    index: int
    seen: Layout
