"""Where the bytes of each tensor of a loaded model lie, checked before anybody reads them.

External data must stay inside the model's folder, in regular files that are long enough. What is checked is
rewritten to one form: external data whose location is the loader's own marker and a file number.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PureWindowsPath

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.ir.tensors import BufferTensor, FileRef, FileTensor, SpanTensor, bytes_needed, payload
from graphopt.ir.wire import SMALL

__all__ = ["Payloads"]

MAX_RANK = 64  # numpy's limit

_FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0")
_FLOAT6 = ("FLOAT6E2M3", "FLOAT6E3M2")
_INT32_FIELD = (
    "INT32",
    "INT16",
    "INT8",
    "UINT16",
    "UINT8",
    "BOOL",
    "FLOAT16",
    "BFLOAT16",
    *_FLOAT8,
    *_FLOAT6,
)
_TYPED: dict[str, tuple[str, int]] = {
    "FLOAT": ("float_data", 1),
    "COMPLEX64": ("float_data", 2),
    "DOUBLE": ("double_data", 1),
    "COMPLEX128": ("double_data", 2),
    "INT64": ("int64_data", 1),
    "UINT32": ("uint64_data", 1),
    "UINT64": ("uint64_data", 1),
    "STRING": ("string_data", 1),
    **dict.fromkeys(_INT32_FIELD, ("int32_data", 1)),
}
_VALUE_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class Payloads:
    """The payloads of one model.

    `data`: the file, or the bytes, that the model was scanned from; `marker`: the location that the scan
    wrote; `folder`: where external data may lie, None if there is no folder.
    """

    def __init__(
        self, data: FileRef | bytes, marker: str, where: str, folder: Path | None, *, allow_links: bool
    ) -> None:
        self._sources: list[FileRef | bytes] = [data]
        self.marker = marker
        self._where = where
        self._folder = folder
        self._allow_links = allow_links
        self._files: dict[str, int] = {}
        self._spans: dict[tuple[int, int, int], None] = {}

    @property
    def external(self) -> bool:
        """Whether any tensor lies in external data."""
        return bool(self._files)

    @property
    def external_bytes(self) -> int:
        """Bytes of external data in use, each counted once."""
        return sum(length for _, _, length in self._spans)

    def check(self, tensor: onnx.TensorProto, label: str) -> bool:
        """Check one tensor; True if its bytes lie outside the message. Raises ModelError, UsageError."""
        dims = tuple(tensor.dims)
        try:
            dtype = ir.DataType(tensor.data_type)
        except ValueError:
            raise self._error(f"{label} has the unknown element type {tensor.data_type}") from None
        if dtype == ir.DataType.UNDEFINED:
            raise self._error(f"{label} has no element type")
        if any(dim < 0 for dim in dims):
            raise self._error(f"{label} has the negative dimension {min(dims)} in its shape {list(dims)}")
        if len(dims) > MAX_RANK:
            raise self._error(f"{label} has {len(dims)} dimensions; at most {MAX_RANK} are supported")
        if dtype == ir.DataType.STRING:
            return self._strings(tensor, dims, label)
        needed = bytes_needed(dtype, dims)
        if bytes_needed(dtype, [dim or 1 for dim in dims]) >> 62:
            raise self._error(f"{label} has the shape {list(dims)}, which no computer can hold")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._outside(tensor, dtype, needed, label)
        if tensor.HasField("raw_data"):
            self._require_length(len(tensor.raw_data), needed, dtype, dims, label)
        else:
            self._typed(tensor, dtype, dims, label)
        return False

    def resolve(self, outside: ir.ExternalTensor) -> SpanTensor:
        """The tensor for a checked, marked one."""
        index = int(str(outside.location).rpartition(":")[2])
        source, offset, length = self._sources[index], outside.offset or 0, outside.length or 0
        shape = outside.shape
        name, doc, props = outside.name, outside.doc_string, dict(outside.metadata_props)
        if isinstance(source, FileRef):
            return FileTensor(
                source, offset, outside.dtype, shape, length, name=name, doc_string=doc, metadata_props=props
            )
        data = memoryview(source)[offset : offset + length]
        return BufferTensor(data, outside.dtype, shape, name=name, doc_string=doc, metadata_props=props)

    def same(self, a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
        """Whether two checked tensors have the same type, shape and bytes."""
        if (a.data_type, list(a.dims), a.data_location) != (b.data_type, list(b.dims), b.data_location):
            return False
        if a.data_location != onnx.TensorProto.EXTERNAL:
            fields = ("raw_data", *_VALUE_FIELDS)
            return all(getattr(a, field) == getattr(b, field) for field in fields)
        pair = [self.resolve(_external_tensor(t)) for t in (a, b)]
        return all(x == y for x, y in zip(payload(pair[0]), payload(pair[1]), strict=True))

    def _strings(self, tensor: onnx.TensorProto, dims: tuple[int, ...], label: str) -> bool:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.HasField("raw_data"):
            raise self._error(f"{label} has strings as raw data, where only string_data can hold them")
        self._typed(tensor, ir.DataType.STRING, dims, label)
        return False

    def _typed(self, tensor: onnx.TensorProto, dtype: ir.DataType, dims: tuple[int, ...], label: str) -> None:
        size = 1
        for dim in dims:
            size *= dim
        if dtype.name in _TYPED:
            field, factor = _TYPED[dtype.name]
            needed = size * factor
        else:  # several elements share a byte, and each int32 holds one byte
            field, needed = "int32_data", bytes_needed(dtype, dims)
        count = len(getattr(tensor, field))
        if count == needed:
            return
        for other in _VALUE_FIELDS:
            if count == 0 and other != field and len(getattr(tensor, other)):
                raise self._error(f"{label} has its values in {other}, where {dtype.name} needs {field}")
        shape = list(dims)
        raise self._error(f"{label} has {count} values in {field} where its shape {shape} needs {needed}")

    def _outside(self, tensor: onnx.TensorProto, dtype: ir.DataType, needed: int, label: str) -> bool:
        if tensor.HasField("raw_data"):
            raise self._error(f"{label} has both raw data and external data")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        offset = self._number(entries.get("offset", "0"), "offset", label)
        length = self._number(entries.get("length", str(needed)), "length", label)
        marked = sum(entry.value == f"{self.marker}:0" for entry in tensor.external_data)
        if marked and len(tensor.external_data) != 3:
            both = "more than one raw_data" if marked > 1 else "both raw data and external data"
            raise self._error(f"{label} has {both}")
        self._require_length(length, needed, dtype, tuple(tensor.dims), label)
        if marked:
            return True
        index = self._open(location, label)
        self._read(tensor, index, location, offset, length, label)
        return length > SMALL

    def _read(self, tensor: onnx.TensorProto, index: int, location: str, offset: int, length: int, label: str) -> None:
        """Take small external data into the message, where shape inference sees it; mark the rest."""
        source = self._sources[index]
        assert isinstance(source, FileRef)
        if offset + length > source.size:
            raise self._error(
                f"the external file {location!r} is too short: {label} needs bytes {offset} to "
                f"{offset + length}, the file has {source.size}"
            )
        self._spans[(index, offset, length)] = None
        del tensor.external_data[:]
        if length <= SMALL:
            small = bytearray(length)
            source.read_into(memoryview(small), offset)
            tensor.raw_data = bytes(small)
            tensor.ClearField("data_location")
            return
        fields = (("location", f"{self.marker}:{index}"), ("offset", offset), ("length", length))
        for key, value in fields:
            tensor.external_data.add(key=key, value=str(value))

    def _open(self, location: str, label: str) -> int:
        """The number of the external file at `location`, opened and checked once."""
        if location in self._files:
            return self._files[location]
        if self._folder is None:
            raise UsageError(
                f"{label} lies in the external file {location!r}, which did not come with the model",
                where=self._where,
                hint="pass the path of the model instead",
            )
        problem = self._location_problem(location)
        if problem:
            raise self._error(f"{label} lies in the external file {location!r}, which {problem}")
        path = self._folder / location
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                what = f"{label} lies in the external file {location!r}, which is not a regular file"
                raise self._error(what)
            file = FileRef(path)
        except FileNotFoundError:
            raise ModelError(
                f"{label} lies in the external file {location!r}, which does not exist",
                where=self._where,
                hint=f"put it into {self._folder}",
            ) from None
        except (OSError, UsageError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "what", str(error))
            raise self._error(f"{label}: the external file {location!r} cannot be read: {reason}") from None
        self._sources.append(file)
        self._files[location] = len(self._sources) - 1
        return self._files[location]

    def _location_problem(self, location: str) -> str | None:
        assert self._folder is not None
        if not location or "\0" in location:
            return "is not a file name"
        windows = PureWindowsPath(location)
        if windows.drive or windows.root:
            return "is an absolute path; it must lie in the model's folder"
        if ".." in windows.parts:
            return "leads out of the model's folder"
        if not self._allow_links:
            base = os.path.realpath(self._folder)
            real = os.path.realpath(self._folder / location)
            if os.path.commonpath([base, real]) != base:
                return "is a link that leaves the model's folder; allow links to follow it"
        return None

    def _number(self, text: str, what: str, label: str) -> int:
        if not isinstance(text, str) or not re.fullmatch("[0-9]{1,19}", text):
            raise self._error(f"{label}: the {what} {text!r} of its external data is not a number of bytes")
        return int(text)

    def _require_length(self, length: int, needed: int, dtype: ir.DataType, dims: tuple[int, ...], label: str) -> None:
        if length != needed:
            shape = f"{dtype.name} {list(dims)}"
            raise self._error(f"{label} has {length} bytes of data where {shape} needs {needed}")

    def _error(self, what: str) -> GraphoptError:
        return ModelError(what, where=self._where)


def _external_tensor(tensor: onnx.TensorProto) -> ir.ExternalTensor:
    made = ir.serde.deserialize_tensor(tensor)
    assert isinstance(made, ir.ExternalTensor)
    return made
