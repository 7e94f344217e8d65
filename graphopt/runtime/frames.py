"""Objects over a pipe: pickle frames whose arrays travel beside the pickle, uncopied.

A frame is a count and the sizes of its parts, then the parts: the pickle (protocol 5) and the buffers of its
arrays. Buffers are read straight into 64-byte aligned memory, so an array that arrives can be handed to a
kernel as it is.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import time
from typing import Any

import numpy as np

__all__ = ["Expired", "aligned", "read_frame", "write_frame"]

_COUNT = struct.Struct("<I")
_CHUNK = 1 << 26  # one write call: Linux caps them at 2 GiB, macOS at less


class Expired(Exception):
    """The deadline passed before a whole frame had arrived."""


def aligned(length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Uninitialized memory of `length` bytes that starts on a 64-byte boundary."""
    memory = np.empty(length + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + length]


def write_frame(fd: int, value: object) -> None:
    """Write `value` to the file descriptor; raises OSError when the other end is gone."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    head = _COUNT.pack(len(parts)) + b"".join(struct.pack("<Q", part.nbytes) for part in parts)
    for part in [memoryview(head), *parts]:
        sent = 0
        while sent < part.nbytes:
            sent += os.write(fd, part[sent : sent + _CHUNK])


def read_frame(fd: int, deadline: float | None = None) -> Any:
    """Read one frame; EOFError at the end of the pipe, Expired when `deadline` (time.monotonic()) passed."""
    (count,) = _COUNT.unpack(_read(fd, _COUNT.size, deadline))
    sizes = struct.unpack(f"<{count}Q", _read(fd, 8 * count, deadline))
    body, *buffers = [_read(fd, size, deadline) for size in sizes]
    return pickle.loads(body, buffers=buffers)


def _read(fd: int, size: int, deadline: float | None) -> memoryview:
    view = aligned(size).data
    got = 0
    while got < size:
        if deadline is not None:
            _wait(fd, deadline)
        step = os.readv(fd, [view[got:]])
        if step == 0:
            raise EOFError
        got += step
    return view


def _wait(fd: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise Expired
