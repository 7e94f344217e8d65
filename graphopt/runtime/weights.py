"""The weights that the child process holds: a span of a file is read once, however many sessions use it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.runtime.frames import aligned
from graphopt.runtime.package import Stamp, Weight

__all__ = ["Bytes", "Store"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_CHUNK = 1 << 30  # one read call; Linux returns at most 2 GiB


class Store:
    """Keeps what was read until a package comes that does not need it (or `clear`)."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int, Stamp], Bytes] = {}

    def load(self, weights: Iterable[Weight]) -> list[Bytes]:
        """The bytes of each weight, 64-byte aligned where they come from a file."""
        weights = list(weights)
        needed = {weight.key for weight in weights}
        for key in [key for key in self._held if key not in needed]:
            del self._held[key]  # an open session that uses it keeps it alive
        files: dict[str, int] = {}
        try:
            return [self._one(weight, files) for weight in weights]
        finally:
            for fd in files.values():
                os.close(fd)

    def clear(self) -> None:
        self._held.clear()

    def _one(self, weight: Weight, files: dict[str, int]) -> Bytes:
        key = weight.key
        if key is None:
            assert weight.data is not None
            return weight.data
        if key not in self._held:
            path, offset, length, stamp = key
            if path not in files:
                files[path] = _open(path, stamp)
            self._held[key] = _read(files[path], path, offset, length)
        return self._held[key]


def _open(path: str, stamp: Stamp) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise ModelError(f"the weights cannot be read: {error.strerror}", where=path) from None
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != stamp:
        os.close(fd)
        raise ModelError("the file changed while it was in use", where=path, hint="load the model again")
    return fd


def _read(fd: int, path: str, offset: int, length: int) -> Bytes:
    memory = aligned(length)
    view = memory.data
    done = 0
    while done < length:
        step = os.preadv(fd, [view[done : done + _CHUNK]], offset + done)
        if step == 0:
            raise ModelError(f"the file ends {length - done} bytes before a weight does", where=path)
        done += step
    return memory
