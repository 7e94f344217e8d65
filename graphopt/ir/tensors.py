"""Tensors whose bytes stay where they are: in an open file, or in a buffer that the caller gave us."""

from __future__ import annotations

import abc
import math
import mmap
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ModelError, UsageError

__all__ = ["BufferTensor", "FileRef", "FileTensor", "SpanTensor", "bytes_needed", "payload"]

CHUNK = 1 << 20
"""Bytes moved at once where a copy has to go through the process."""


class FileRef:
    """A file held open, so that its bytes stay readable after the path was renamed or replaced.

    `path`: where it was opened; `size`: bytes when it was opened. Refuses all but regular files, before
    opening them: a named pipe would block for ever. Raises UsageError for files that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self.path = path
        try:
            self._require_regular(path.stat())
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            info = os.fstat(self._fd)
        except FileNotFoundError:
            raise UsageError("no such file", where=str(path)) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "there is a zero byte in the path"
            raise UsageError(f"cannot be read: {reason}", where=str(path)) from None
        self._require_regular(info)
        self.size = info.st_size
        self._identity = _identity(info)
        self._map: mmap.mmap | None = None

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"FileRef({str(self.path)!r})"

    def fileno(self) -> int:
        """The open file descriptor; read it with positioned calls only."""
        return self._fd

    def map(self) -> mmap.mmap:
        """The whole file, mapped read-only."""
        if self._map is None:
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        return self._map

    def changed(self) -> bool:
        """Whether the path now leads to another file, to other content, or nowhere."""
        try:
            return _identity(self.path.stat()) != self._identity
        except OSError:
            return True

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on. Raises ModelError if the file became shorter."""
        while target:
            count = os.preadv(self._fd, [target[: 1 << 30]], offset)
            if count == 0:
                raise self._shrunk()
            target, offset = target[count:], offset + count

    def require(self, end: int) -> None:
        """Raise ModelError if the file lost bytes before `end`: to touch a mapped page there is fatal."""
        if os.fstat(self._fd).st_size < end:
            raise self._shrunk()

    def _shrunk(self) -> ModelError:
        return ModelError(
            "became shorter while it was in use",
            where=str(self.path),
            hint="let the program that writes it finish first",
        )

    def _require_regular(self, info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode):
            raise UsageError("is a directory, not a file", where=str(self.path))
        if not stat.S_ISREG(info.st_mode):
            raise UsageError("is not a regular file", where=str(self.path))


class SpanTensor(ir.TensorProtocol, abc.ABC):
    """A tensor of known dtype and shape over raw little-endian bytes; arrays are read-only."""

    def __init__(
        self,
        dtype: ir.DataType,
        shape: ir.Shape,
        length: int,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        self.dtype = dtype
        self.shape: ir.Shape = shape
        self.length = length
        self.name = name
        self.doc_string = doc_string
        self.metadata_props: dict[str, str] = metadata_props or {}
        self.meta: dict[str, Any] = {}

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape.numpy())

    @property
    def nbytes(self) -> int:
        """The number of stored bytes."""
        return self.length

    @property
    def raw(self) -> memoryview:
        """The bytes in place."""
        return self.view()

    @abc.abstractmethod
    def view(self) -> memoryview:
        """The bytes in place, without a copy."""

    @abc.abstractmethod
    def tobytes(self) -> bytes:
        """A copy of the bytes."""

    @abc.abstractmethod
    def peek(self, start: int, count: int) -> bytes:
        """At most `count` bytes from byte `start` on, without touching the others."""

    @abc.abstractmethod
    def _load(self) -> memoryview:
        """The bytes in aligned memory of their own."""

    def numpy(self) -> np.ndarray[Any, Any]:
        """The tensor as an array: without a copy if the bytes are aligned and the dtype is not packed."""
        dims = self.shape.numpy()
        if self.dtype.bitwidth % 8:
            return _unpack(self.tobytes(), self.dtype, dims)
        kind = self.dtype.numpy().newbyteorder("<")
        if self.length == 0:
            return np.empty(dims, dtype=kind)
        array = np.frombuffer(self.view(), dtype=kind)
        if not array.flags.aligned:
            array = np.frombuffer(self._load(), dtype=kind)
            array.flags.writeable = False
        return array.reshape(dims)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.numpy().copy().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return np.empty(0).__dlpack_device__()

    def tofile(self, file: Any) -> None:
        """Write the bytes to a binary file object, in chunks."""
        for chunk in payload(self):
            file.write(chunk)


class FileTensor(SpanTensor):
    """`length` bytes from `offset` on of the open file `file`."""

    def __init__(
        self,
        file: FileRef,
        offset: int,
        dtype: ir.DataType,
        shape: ir.Shape,
        length: int,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        super().__init__(dtype, shape, length, name=name, doc_string=doc_string, metadata_props=metadata_props)
        self.file = file
        self.offset = offset

    def __repr__(self) -> str:
        place = f"{str(self.file.path)!r}, offset={self.offset}, length={self.length}"
        return f"FileTensor<{self.dtype},{self.shape}>({place}, name={self.name!r})"

    def view(self) -> memoryview:
        if self.length == 0:
            return memoryview(b"")
        self.file.require(self.offset + self.length)
        return memoryview(self.file.map())[self.offset : self.offset + self.length]

    def tobytes(self) -> bytes:
        data = os.pread(self.file.fileno(), self.length, self.offset)
        return data if len(data) == self.length else self._load().tobytes()

    def peek(self, start: int, count: int) -> bytes:
        return os.pread(self.file.fileno(), min(count, self.length - start), self.offset + start)

    def _load(self) -> memoryview:
        # Read, not copied out of the map: pages of the map would count as ours until the end.
        target = np.empty(self.length, dtype=np.uint8).data
        self.file.read_into(target, self.offset)
        return target


class BufferTensor(SpanTensor):
    """Bytes of a buffer that somebody else holds."""

    def __init__(
        self,
        data: memoryview,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        super().__init__(dtype, shape, len(data), name=name, doc_string=doc_string, metadata_props=metadata_props)
        self._data = data

    def __repr__(self) -> str:
        return f"BufferTensor<{self.dtype},{self.shape}>(length={self.length}, name={self.name!r})"

    def view(self) -> memoryview:
        return self._data

    def tobytes(self) -> bytes:
        return bytes(self._data)

    def peek(self, start: int, count: int) -> bytes:
        return bytes(self._data[start : start + count])

    def _load(self) -> memoryview:
        return memoryview(bytearray(self._data))


class HeldTensor(ir.serde.TensorProtoTensor):
    """A small tensor in the message itself, which knows its type: onnx_ir reads it anew each time it is asked."""

    __slots__ = ("_dtype", "_shape")

    def __init__(self, proto: onnx.TensorProto) -> None:
        super().__init__(proto)
        self._dtype = super().dtype
        self._shape = super().shape

    @property
    def dtype(self) -> ir.DataType:  # type: ignore[override]  # a property there, too
        return self._dtype

    @property
    def shape(self) -> ir.Shape:  # type: ignore[override]
        return self._shape


class _Tensor(Protocol):
    @property
    def dtype(self) -> ir.DataType: ...
    def numpy(self) -> np.ndarray[Any, Any]: ...
    def tobytes(self) -> bytes: ...


def payload(tensor: _Tensor) -> Iterator[bytes | memoryview]:
    """The bytes of `tensor` as ONNX stores them (little endian, packed), in chunks."""
    if isinstance(tensor, FileTensor):
        for start in range(0, tensor.length, CHUNK):
            target = memoryview(bytearray(min(CHUNK, tensor.length - start)))
            tensor.file.read_into(target, tensor.offset + start)
            yield target
        return
    view = _flat(tensor)
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


def _flat(tensor: _Tensor) -> memoryview:
    if isinstance(tensor, SpanTensor):
        return tensor.view()
    if tensor.dtype.bitwidth % 8 or sys.byteorder == "big":
        return memoryview(tensor.tobytes())
    array = np.ascontiguousarray(tensor.numpy())
    if array.dtype.itemsize * 8 != tensor.dtype.bitwidth:
        return memoryview(tensor.tobytes())
    return array.reshape(-1).view(np.uint8).data


def bytes_needed(dtype: ir.DataType, dims: Iterable[int]) -> int:
    """How many bytes ONNX stores for a tensor of this dtype and shape; below one byte per element, packed."""
    return (math.prod(dims) * dtype.bitwidth + 7) // 8


def _unpack(data: bytes, dtype: ir.DataType, dims: tuple[int, ...]) -> np.ndarray[Any, Any]:
    proto = onnx.TensorProto(data_type=int(dtype), dims=dims, raw_data=data)
    return ir.serde.TensorProtoTensor(proto).numpy()


def _identity(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
