"""The cheapest cut of a network, by Dinic's algorithm: shortest augmenting paths, layer by layer.

E. A. Dinic, Algorithm for solution of a problem of maximum flow in networks with power estimation, 1970.
"""

from __future__ import annotations

ENDLESS = 1 << 60
SOURCE, SINK = 0, 1


class Network:
    """A directed network with capacities. Nodes are numbers; 0 is the source and 1 the sink."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # of each node, the numbers of its edges
        self._to: list[int] = []
        self._left: list[int] = []  # capacity that is left; edge e ^ 1 is edge e backwards

    def node(self) -> int:
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, a: int, b: int, capacity: int) -> None:
        """What it costs if `a` is on the side of the source and `b` on that of the sink."""
        if capacity > 0:
            self._edges[a].append(len(self._to))
            self._edges[b].append(len(self._to) + 1)
            self._to += [b, a]
            self._left += [capacity, 0]

    def sink_side(self) -> set[int]:
        """The nodes on the side of the sink in a cheapest cut, as few as there can be."""
        while (levels := self._levels())[SINK] >= 0:
            self._augment(levels)
        return self._reaching_sink()

    def _levels(self) -> list[int]:
        """How many edges away from the source each node is, -1 for those that are out of reach."""
        levels = [-1] * len(self._edges)
        levels[SOURCE] = 0
        reached = [SOURCE]
        for node in reached:
            for edge in self._edges[node]:
                to = self._to[edge]
                if self._left[edge] and levels[to] < 0:
                    levels[to] = levels[node] + 1
                    reached.append(to)
        return levels

    def _augment(self, levels: list[int]) -> None:
        """Push all that shortest paths can take."""
        next_edge = [0] * len(self._edges)
        path: list[int] = []
        node = SOURCE
        while True:
            if node == SINK:
                amount = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= amount
                    self._left[edge ^ 1] += amount
                full = next(i for i, edge in enumerate(path) if not self._left[edge])
                node = self._to[path[full] ^ 1]
                del path[full:]
            edges = self._edges[node]
            while next_edge[node] < len(edges):
                edge = edges[next_edge[node]]
                if self._left[edge] and levels[self._to[edge]] == levels[node] + 1:
                    break
                next_edge[node] += 1
            else:
                if node == SOURCE:
                    return
                levels[node] = -1
                node = self._to[path.pop() ^ 1]
                continue
            path.append(edges[next_edge[node]])
            node = self._to[path[-1]]

    def _reaching_sink(self) -> set[int]:
        found = {SINK}
        pending = [SINK]
        while pending:
            for edge in self._edges[pending.pop()]:
                origin = self._to[edge]
                if self._left[edge ^ 1] and origin not in found:
                    found.add(origin)
                    pending.append(origin)
        return found


__all__ = ["ENDLESS", "SINK", "SOURCE", "Network"]
