"""Topological order of things that need each other, given by index."""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set

__all__ = ["find_cycle", "stable_order"]


def stable_order(needs: Sequence[Set[int]]) -> list[int] | None:
    """An order in which everything comes after what it needs, near the given one; None if there is none.

    `needs[i]` holds the indices that i needs. Linear but for the heap that keeps the order stable.
    """
    waiting = [len(need) for need in needs]
    users: list[list[int]] = [[] for _ in needs]
    for index, need in enumerate(needs):
        for other in need:
            users[other].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return order if len(order) == len(needs) else None


def find_cycle(needs: Sequence[Set[int]]) -> list[int]:
    """The indices of one cycle from the lowest on, each needed by the next one; empty if there is none."""
    done = [False] * len(needs)
    for start in range(len(needs)):
        place: dict[int, int] = {}
        path: list[tuple[int, list[int]]] = []
        pending = [start]
        while True:
            if pending:
                index = pending.pop()
                if index in place:
                    cycle = [node for node, _ in path[place[index] :]][::-1]
                    first = cycle.index(min(cycle))
                    return cycle[first:] + cycle[:first]
                if not done[index]:
                    place[index] = len(path)
                    path.append((index, pending))
                    pending = sorted(needs[index], reverse=True)
            elif path:
                index, pending = path.pop()
                done[index] = True
                del place[index]
            else:
                break
    return []
