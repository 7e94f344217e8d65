"""Computations of sizes before they are made: what they would cost, and how they are written into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from graphopt_passes.simplify.sources import Elements

from graphopt import Rewrite, Value


@dataclass(frozen=True)
class Made:
    """A node to be made. `key` has all of its attributes; equal nodes are made once."""

    op: str
    inputs: tuple[Made | Value | Elements | int, ...]
    key: tuple[tuple[str, int], ...] = ()


Spelled = Made | Value | Elements | int
"""A node, a value that is there, or a constant: of one axis (a tuple), or a scalar (a number)."""


def parts_of(spelled: Spelled) -> Iterator[Made]:
    """The nodes that have to be made, each once."""
    seen: set[Made] = set()
    pending = [spelled]
    while pending:
        item = pending.pop()
        if isinstance(item, Made) and item not in seen:
            seen.add(item)
            pending.extend(item.inputs)
            yield item


def cost(spelled: Spelled) -> int:
    """How many nodes have to be made."""
    return sum(1 for _ in parts_of(spelled))


def reads(spelled: Spelled) -> set[Value]:
    """The values that are read."""
    found = {spelled} if isinstance(spelled, Value) else set()
    for part in parts_of(spelled):
        found |= {i for i in part.inputs if isinstance(i, Value)}
    return found


def write(rewrite: Rewrite, spelled: Spelled) -> Value:
    """The value, with the nodes and constants that it takes."""
    return _write(rewrite, spelled, {})


def _write(rewrite: Rewrite, spelled: Spelled, done: dict[Spelled, Value]) -> Value:
    if isinstance(spelled, Value):
        return spelled
    found = done.get(spelled)
    if found is None:
        if isinstance(spelled, Made):
            attrs = {name: [value] if name == "axes" else value for name, value in spelled.key}
            found = rewrite.node(spelled.op, [_write(rewrite, i, done) for i in spelled.inputs], attrs)[0]
        else:
            found = rewrite.constant(np.array(spelled, np.int64), "size")
        done[spelled] = found
    return found
