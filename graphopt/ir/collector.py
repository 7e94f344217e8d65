"""Python's garbage collector, out of the way while large graphs are built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["paused_gc"]


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
