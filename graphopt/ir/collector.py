"""Python's garbage collector, out of the way while large graphs are built."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["collect_if_grown", "paused_gc"]

_GROWTH = 1.5  # of the blocks of memory that Python objects take
_left: list[int] = []  # how many there were after the last collection, or at the first call


def collect_if_grown() -> None:
    """Free the graphs of earlier runs, if there is much that could be freed.

    Graphs are full of cycles, and `paused_gc` makes old objects of them, which the collector looks at too seldom for a
    process that optimizes one model after the other.
    """
    blocks = sys.getallocatedblocks()
    if not _left:
        _left.append(blocks)
    elif blocks > _GROWTH * _left[0]:
        gc.collect()
        _left[0] = sys.getallocatedblocks()


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """Without the collector: it would walk all the new objects again and again, and find them all alive.

    Afterwards they count as old, so that they are not walked at once for being new. Objects that somebody froze
    before stay frozen, at the price of that walk.
    """
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            if gc.get_freeze_count() == 0:
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()
