"""The search for orders of axes in which fewer elements have to be moved.

Every unit has an order of its axes; at first the one it has in the model. A tensor costs what it takes to bring it
from the layout in which it is written into each of the layouts in which it is read: so many Transposes, and each moves
all of its elements.

A move begins at a Transpose. Either who reads its result is given the order in which it could do without, or who
writes its operand is; from there the new order spreads over all tensors to whoever can take it. For each unit that was
reached there are two possibilities then, the order it has and the new one, and the cheapest choice for all of them
together is a minimum cut: no local step that turns out to be one too many, and nothing that swings back and forth. The
choice is made only if the sum of costs strictly falls, and if there are no more Transposes afterwards, unless those
move less than half as much as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graphopt_passes.layout.cut import choose
from graphopt_passes.layout.orders import FREE, Layout, Price, compose, inverse, own, straight
from graphopt_passes.layout.units import Reader, Unit
from graphopt_passes.layout.wiring import Wiring

from graphopt import Value

_MAX_ROUNDS = 8
_REACH = 500  # units that a move may concern; if there are more, the next moves begin where this one ended


@dataclass(frozen=True)
class Move:
    """Units with the order that they might take instead of the one they have, and the tensors that this concerns."""

    orders: dict[Unit, Layout]
    tensors: dict[Value, Layout]


class Search:
    """Orders of the units of one graph; `orders` has those that are not as in the model."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.orders: dict[Unit, Layout] = {}
        self._tried: dict[tuple[Unit, Layout], Move] = {}  # moves that were not worth it, by what they would change
        self.refused = 0  # moves that would not be better

    def run(self, transposed: Iterable[Value]) -> None:
        """Look for better orders around these results of Transposes."""
        roots = dict.fromkeys(self.wiring.root(value)[0] for value in transposed)
        for _ in range(_MAX_ROUNDS):
            moves = [move for root in roots for move in self._improve(root)]
            if not moves:
                return
            # Where axes of size 1 were moved instead, there may be something left to do.
            roots |= dict.fromkeys(tensor for move in moves for tensor in move.tensors)

    def _improve(self, root: Value) -> list[Move]:
        """Make the moves that begin at a tensor, as far as they are worth it."""
        made: list[Move] = []
        for unit, order in list(self._starts(root)):
            if (unit, order) in self._tried or order == self.order(unit):
                continue
            move = self._spread(unit, order)
            chosen = choose(self, move)
            if chosen and self._is_better(chosen, move.tensors):
                self.orders.update(chosen)
                made.append(move)
                self._try_again(chosen)
            else:
                self._tried.update(dict.fromkeys(move.orders.items(), move))
                self.refused += 1
        return made

    def _try_again(self, changed: Iterable[Unit]) -> None:
        """Moves that were not worth it may be now, where something has changed next to them."""
        near = {root for unit in changed for root, _ in self._around(unit, self.order(unit))}
        self._tried = {pair: move for pair, move in self._tried.items() if near.isdisjoint(move.tensors)}

    def _starts(self, root: Value) -> Iterator[tuple[Unit, Layout]]:
        """Orders of units next to a tensor in which they would do without the Transpose between them."""
        stored = self.stored(root)
        producer = self.wiring.producer(root)
        for reader in self.wiring.readers(root):
            wanted = self.wanted(reader)
            if self.wiring.price(root, stored, wanted) == FREE:
                continue
            if reader.unit is not None:
                yield from self._asked_to_read(reader, stored)
            if producer is not None:
                yield from self._asked_to_write(*producer, own(wanted))

    # -- the state ---------------------------------------------------------------------------------------

    def order(self, unit: Unit) -> Layout:
        return self.orders.get(unit, unit.carry.straight)

    def stored(self, root: Value) -> Layout:
        """The layout in which a tensor is written."""
        producer = self.wiring.producer(root)
        if producer is None:
            return straight(len(self.wiring.shape(root)))
        return producer[0].written(producer[1], self.order(producer[0]))

    def wanted(self, reader: Reader, orders: dict[Unit, Layout] | None = None) -> Layout:
        """The layout in which somebody reads a tensor; `orders`: instead of those that hold now."""
        unit = reader.unit
        if unit is None:
            return reader.seen
        order = (orders or {}).get(unit) or self.order(unit)
        return unit.read(reader.index, order)

    # -- one move ----------------------------------------------------------------------------------------

    def _spread(self, unit: Unit, order: Layout) -> Move:
        """Give a unit an order, and everybody next to it one that goes with it, as far as that is possible."""
        orders = {unit: order}
        tensors: dict[Value, Layout] = {}
        pending = [unit]
        for current in pending:
            for root, layout in self._around(current, orders[current]):
                if root in tensors or self.wiring.is_free(root):
                    continue
                tensors[root] = layout
                if len(orders) > _REACH:
                    continue
                for other, wished in self._asked(root, layout):
                    if other not in orders and wished != self.order(other):
                        orders[other] = wished
                        pending.append(other)
        return Move(orders, tensors)

    def _around(self, unit: Unit, order: Layout) -> Iterator[tuple[Value, Layout]]:
        """The tensors that a unit reads and writes, in the layouts that it wants."""
        for index, (root, _) in unit.operands.items():
            yield root, own(unit.read(index, order))
        for index in unit.carry.writes:
            yield unit.node.outputs[index], unit.written(index, order)

    def _asked(self, root: Value, layout: Layout) -> Iterator[tuple[Unit, Layout]]:
        """Units next to a tensor, with the order in which they write or read it in a layout."""
        producer = self.wiring.producer(root)
        if producer is not None:
            yield from self._asked_to_write(*producer, layout)
        for reader in self.wiring.readers(root):
            yield from self._asked_to_read(reader, layout)

    def _asked_to_write(self, unit: Unit, index: int, layout: Layout) -> Iterator[tuple[Unit, Layout]]:
        yield from self._possible(unit, unit.carry.writes[index].order(layout, self.order(unit)))

    def _asked_to_read(self, reader: Reader, layout: Layout) -> Iterator[tuple[Unit, Layout]]:
        unit = reader.unit
        if unit is None:
            return
        spread = unit.carry.reads[reader.index]
        yield from self._possible(unit, spread.order(compose(inverse(reader.seen), layout), self.order(unit)))

    def _possible(self, unit: Unit, order: Layout | None) -> Iterator[tuple[Unit, Layout]]:
        if order is not None and unit.carry.takes(order):
            yield unit, order
        else:
            self.wiring.why_not(unit.node, "the operator cannot work in the order that would spare a Transpose")

    # -- what it is worth --------------------------------------------------------------------------------

    def _is_better(self, chosen: dict[Unit, Layout], tensors: Iterable[Value]) -> bool:
        before, after = self._sum({}, chosen, tensors), self._sum(chosen, chosen, tensors)
        if after.total >= before.total:
            return False
        return after.nodes <= before.nodes or 2 * after.moved <= before.moved

    def _sum(self, orders: dict[Unit, Layout], units: Iterable[Unit], tensors: Iterable[Value]) -> Price:
        """What the tensors of a move cost, and what the units add themselves."""
        moved = nodes = 0
        for root in tensors:
            producer = self.wiring.producer(root)
            stored = self.stored(root)
            if producer is not None and producer[0] in orders:
                stored = producer[0].written(producer[1], orders[producer[0]])
            readers = self.wiring.readers(root)
            for wanted in {self.wiring.form(root, self.wanted(r, orders)) for r in readers}:
                cost = self.wiring.price(root, stored, wanted)
                moved, nodes = moved + cost.moved, nodes + cost.nodes
        for unit in units:
            if orders.get(unit, self.order(unit)) != unit.carry.straight:
                nodes += unit.carry.nodes
        return Price(moved, nodes)
