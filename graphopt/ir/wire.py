"""Protobuf wire scan: take the large payloads out of a serialised model, and splice payloads back in.

A model file is nearly all `raw_data`. The scan jumps from field to field by length, descends only into
messages that can hold a large payload, and never touches the payloads themselves. What remains is a small
message that protobuf can parse. Splicing is the same walk in the other direction: each placeholder becomes
a payload of known size, and the lengths of all messages around it are corrected.
"""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

SMALL = 1024
"""Payloads up to this many bytes stay in the message."""

DEPTH = 100
"""Messages nested deeper than this are refused, as protobuf itself does."""

Buffer = bytes | mmap.mmap

# The messages that can hold a payload: field number -> kind of the message in that field.
_RAW, _TENSOR, _SPARSE, _ATTRIBUTE, _NODE, _GRAPH, _FUNCTION, _MODEL = range(8)
_FIELDS: dict[int, dict[int, int]] = {
    _TENSOR: {9: _RAW},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
}
_CHILDREN = {kind: {number << 3 | 2: child for number, child in f.items()} for kind, f in _FIELDS.items()}


class WireError(Exception):
    """The bytes are not a well-formed message; `offset` is where the scan stopped."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Payload:
    """The place of payload number `index`, `length` bytes long, in a spliced message."""

    index: int
    length: int


Piece = bytes | Payload


def strip(data: Buffer, marker: str) -> tuple[bytes, int]:
    """The model without its large payloads, and how many were taken out.

    Each `raw_data` above `SMALL` bytes is replaced by external data with the location `marker` and the
    payload's own offset and length in `data`. The marker must be unpredictable, so that no file can hold it.
    Raises WireError.
    """
    scan = _Strip(data, marker)
    scan.run()
    return b"".join(piece for piece in scan.pieces if isinstance(piece, bytes)), scan.count


def splice(skeleton: bytes, key: bytes, lengths: list[int]) -> tuple[list[Piece], int]:
    """The pieces of the full message in order, and its size in bytes.

    Wherever `skeleton` has a `raw_data` of `key` followed by an 8-byte little-endian index, the result has
    payload `index` of `lengths[index]` bytes. The key must occur nowhere else.
    """
    scan = _Splice(skeleton, key, lengths)
    size = scan.run()
    return list(_join(scan.pieces)), size


def placeholder(key: bytes, index: int) -> bytes:
    """What stands for payload `index` in a skeleton."""
    return key + index.to_bytes(8, "little")


def varint(value: int) -> bytes:
    """`value` as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: Buffer | memoryview, pos: int) -> tuple[int, int]:
    """The varint at `pos`, and the position after it."""
    value = shift = 0
    start = pos
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise WireError("a varint of more than 64 bits", start)
            return value, pos
        shift += 7
        if shift > 63:
            raise WireError("a varint of more than 10 bytes", start)


class _Walk:
    """Copies a model message while letting a subclass replace payloads."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.pieces: list[Piece] = []

    def run(self) -> int:
        """Walk the whole model; returns the size of the result."""
        end = len(self.data)
        try:
            size = self._message(_MODEL, 0, end, 1)
        except IndexError:
            raise WireError("the data ends in the middle of a field", end) from None
        if size is None:
            self.pieces.append(self.data[:])
            return end
        return size

    def wants(self, start: int, end: int) -> bool:
        """Whether the field in [start, end) can hold anything to replace."""
        raise NotImplementedError

    def replace(self, start: int, end: int) -> int | None:
        """Append what stands for the raw_data field with its payload in [start, end), give its size."""
        raise NotImplementedError

    def _message(self, kind: int, start: int, end: int, depth: int) -> int | None:
        """Append the changed message and return its new size, or None if nothing changed."""
        if depth > DEPTH:
            raise WireError(f"messages nested deeper than {DEPTH} levels", start)
        data, children, pieces = self.data, _CHILDREN[kind], self.pieces
        pos = copied = start
        size = 0
        changed = False
        while pos < end:
            at = pos
            tag = data[pos]
            pos += 1
            if tag > 0x7F:
                tag, pos = read_varint(data, at)
            if tag & 7 != 2:
                pos = _skip(data, tag, at, pos)
                continue
            length = data[pos]
            pos += 1
            if length > 0x7F:
                length, pos = read_varint(data, pos - 1)
            stop = pos + length
            if stop > end:
                raise WireError(f"a length of {length} bytes where {max(end - pos, 0)} are left", at)
            child = children.get(tag)
            if child is not None and self.wants(pos, stop):
                mark = len(pieces)
                pieces.extend((b"", b""))  # what precedes the field, and its tag and length
                if child == _RAW:
                    head, new = b"", self.replace(pos, stop)
                else:
                    new = self._message(child, pos, stop, depth + 1)
                    head = varint(tag) + varint(new or 0)
                if new is None:
                    del pieces[mark:]
                else:
                    pieces[mark : mark + 2] = (data[copied:at], head)
                    size += at - copied + len(head) + new
                    copied, changed = stop, True
            pos = stop
        if pos != end:
            raise WireError("a field that runs past the end of its message", start)
        if not changed:
            return None
        pieces.append(data[copied:end])
        return size + end - copied


def _skip(data: Buffer, tag: int, at: int, pos: int) -> int:
    """The position after the scalar field whose tag ends at `pos`."""
    wire = tag & 7
    if wire == 0:
        return read_varint(data, pos)[1]
    if wire == 5:
        return pos + 4
    if wire == 1:
        return pos + 8
    raise WireError(f"wire type {wire}, which no ONNX field has", at)


class _Strip(_Walk):
    def __init__(self, data: Buffer, marker: str) -> None:
        super().__init__(data)
        self._location = _entry("location", marker)
        self.count = 0

    def wants(self, start: int, end: int) -> bool:
        return end - start > SMALL

    def replace(self, start: int, end: int) -> int:
        marker = (
            self._location
            + _entry("offset", str(start))
            + _entry("length", str(end - start))
            + b"\x70\x01"  # data_location = EXTERNAL
        )
        self.pieces.append(marker)
        self.count += 1
        if self.count % 8 == 0 and isinstance(self.data, mmap.mmap):
            _forget(self.data)
        return len(marker)


class _Splice(_Walk):
    def __init__(self, data: bytes, key: bytes, lengths: list[int]) -> None:
        super().__init__(data)
        self._key = key
        self._lengths = lengths
        self._places = list(_find_all(data, key))

    def wants(self, start: int, end: int) -> bool:
        at = bisect.bisect_left(self._places, start)
        return at < len(self._places) and self._places[at] < end

    def replace(self, start: int, end: int) -> int:
        index = int.from_bytes(self.data[start + len(self._key) : end], "little")
        length = self._lengths[index]
        head = b"\x4a" + varint(length)  # field raw_data
        self.pieces.extend((head, Payload(index, length)))
        return len(head) + length


def _forget(data: mmap.mmap) -> None:
    """Unmap the pages touched so far: one byte can map 2 MB, and all of them would count as our memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def _entry(key: str, value: str) -> bytes:
    """An `external_data` entry of a tensor."""
    k, v = key.encode(), value.encode()
    body = b"\x0a" + varint(len(k)) + k + b"\x12" + varint(len(v)) + v
    return b"\x6a" + varint(len(body)) + body


def _find_all(data: bytes, key: bytes) -> Iterator[int]:
    at = data.find(key)
    while at >= 0:
        yield at
        at = data.find(key, at + len(key))


def _join(pieces: list[Piece]) -> Iterator[Piece]:
    """Neighbouring bytes become one piece, so that writing them is one call."""
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            run.append(piece)
            continue
        yield b"".join(run)
        run = []
        yield piece
    yield b"".join(run)
