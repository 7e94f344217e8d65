"""Which of two nodes comes first, in constant time: a number per node, spaced so that new ones fit between."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir

from graphopt.ir.value import nodes_of

_GAP = 1 << 64


class Ranks:
    """Order numbers of the nodes of a model's graphs, kept while nodes are inserted and removed.

    Each node also keeps a floor: a number that everything before it is at or below. New nodes are
    numbered between the floor of the node that they precede and its rank; when that space is used
    up, the graph is numbered anew.
    """

    def __init__(self) -> None:
        self._rank: dict[oir.Node, tuple[int, int]] = {}
        self._top: dict[oir.Graph, int] = {}

    def of(self, node: oir.Node) -> int:
        """The node's number: smaller comes first within one graph."""
        entry = self._rank.get(node)
        if entry is None:
            graph = node.graph
            assert isinstance(graph, oir.Graph), "only nodes of a graph have an order"
            self._number(graph)
            entry = self._rank[node]
        return entry[1]

    def inserted(self, nodes: Sequence[oir.Node], before: oir.Node | None, graph: oir.Graph) -> None:
        """Number `nodes`, which now stand just before `before`, or at the end of `graph` if that is None."""
        if graph not in self._top or not nodes:
            return
        if before is None:
            floor = self._top[graph]
            high = floor + _GAP * (len(nodes) + 1)
        else:
            floor, high = self._rank[before]
        step = (high - floor) // (len(nodes) + 1)
        if step < 1:
            self._number(graph)
            return
        for node in nodes:
            self._rank[node] = (floor, floor + step)
            floor += step
        if before is None:
            self._top[graph] = floor
        else:
            self._rank[before] = (floor, high)

    def removed(self, node: oir.Node) -> None:
        self._rank.pop(node, None)

    def _number(self, graph: oir.Graph) -> None:
        rank = 0
        for node in nodes_of(graph):
            self._rank[node] = (rank, rank + _GAP)
            rank += _GAP
        self._top[graph] = rank
