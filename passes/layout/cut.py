"""Which units of a move should take their new order, as a minimum cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt_passes.layout.flow import ENDLESS, SINK, SOURCE, Network
from graphopt_passes.layout.orders import OVERHEAD, Layout
from graphopt_passes.layout.units import Unit

from graphopt import Value

if TYPE_CHECKING:
    from graphopt_passes.layout.search import Move, Search


def choose(search: Search, move: Move) -> dict[Unit, Layout]:
    """The units that should take the order which the move has for them.

    On the side of the source is who keeps the order it has, on that of the sink who takes the new one. What a tensor
    costs depends on who writes it, and on whether anybody reads it in a layout: each layout that is read has a node of
    its own in the network, next to that of the writer.
    """
    network = Network()
    places = {unit: network.node() for unit in move.orders}
    for unit, order in move.orders.items():
        straight = unit.carry.straight
        network.edge(SOURCE, places[unit], unit.carry.nodes * OVERHEAD * (order != straight))
        network.edge(places[unit], SINK, unit.carry.nodes * OVERHEAD * (search.order(unit) != straight))
    for root in move.tensors:
        _Tensor(search, move, network, places, root).connect()
    taking = network.sink_side()
    return {unit: order for unit, order in move.orders.items() if places[unit] in taking}


class _Tensor:
    """One tensor in the network."""

    def __init__(self, search: Search, move: Move, network: Network, places: dict[Unit, int], root: Value) -> None:
        self._network = network
        self._places = places
        self._readers = search.wiring.readers(root)
        self._root, self._price = root, search.wiring.price
        form = search.wiring.form
        self._now = [form(root, search.wanted(r)) for r in self._readers]
        self._then = [form(root, search.wanted(r, move.orders)) for r in self._readers]
        producer = search.wiring.producer(root)
        self._writer: int | None = None
        self._stored = search.stored(root), search.stored(root)
        if producer is not None and producer[0] in move.orders:
            self._writer = places[producer[0]]
            self._stored = self._stored[0], producer[0].written(producer[1], move.orders[producer[0]])

    def connect(self) -> None:
        pairs = list(zip(self._readers, self._now, self._then, strict=True))
        always = {now for _, now, then in pairs if now == then}
        for layout in always:
            self._always(layout)
        for layout in dict.fromkeys(self._now):
            if layout not in always:
                self._until_taken(layout, [self._place(r.unit) for r, now, _ in pairs if now == layout])
        for layout in dict.fromkeys(self._then):
            if layout not in always:
                self._once_taken(layout, [self._place(r.unit) for r, _, then in pairs if then == layout])

    def _place(self, unit: Unit | None) -> int:
        assert unit is not None, "only a unit changes the layout in which it reads"
        return self._places[unit]

    def _costs(self, layout: Layout) -> tuple[int, int]:
        """What the layout costs while the writer keeps its order, and once it takes the new one."""
        kept, taken = (self._price(self._root, stored, layout).total for stored in self._stored)
        return kept, taken

    def _always(self, layout: Layout) -> None:
        """A layout that somebody reads anyhow: only the writer's choice matters."""
        kept, taken = self._costs(layout)
        if self._writer is not None:
            self._network.edge(self._writer, SINK, kept)
            self._network.edge(SOURCE, self._writer, taken)

    def _until_taken(self, layout: Layout, readers: list[int]) -> None:
        """A layout that is read as long as one of the readers keeps its order."""
        network = self._network
        kept, taken = self._costs(layout)
        place = readers[0] if len(readers) == 1 else network.node()
        for reader in readers if len(readers) > 1 else ():
            network.edge(reader, place, ENDLESS)
        network.edge(place, SINK, kept)
        if self._writer is not None:
            network.edge(place, self._writer, taken - kept)

    def _once_taken(self, layout: Layout, readers: list[int]) -> None:
        """A layout that is read as soon as one of the readers takes its new order."""
        network = self._network
        kept, taken = self._costs(layout)
        place = readers[0] if len(readers) == 1 else network.node()
        for reader in readers if len(readers) > 1 else ():
            network.edge(place, reader, ENDLESS)
        network.edge(SOURCE, place, taken)
        if self._writer is not None:
            network.edge(self._writer, place, kept - taken)
