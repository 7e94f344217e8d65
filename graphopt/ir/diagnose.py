"""Why bytes are not an ONNX model: names the file format they are in, or the first field that is broken.

Only runs after something has failed, so it may take its time: it walks all fields by their descriptors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from graphopt.errors import ModelError
from graphopt.ir.wire import DEPTH, Buffer, WireError, read_varint

__all__ = ["Unknown", "first_fault", "not_a_model", "unknown_fields"]

_MAGIC: list[tuple[bytes, int, str, str]] = [
    (b"PK\x03\x04", 0, "a zip archive, as PyTorch writes checkpoints", "export it with torch.onnx.export"),
    (b"\x89HDF", 0, "an HDF5 file, as Keras writes models", "convert it with tf2onnx"),
    (b"TFL3", 4, "a TensorFlow Lite model", "convert it with tf2onnx --tflite"),
    (b"ORTM", 4, "a model in ONNX Runtime's own format", "use the .onnx file it was made from"),
    (b"ftrt", 0, "a TensorRT engine", "use the .onnx file it was built from"),
    (b"ptrt", 0, "a TensorRT engine", "use the .onnx file it was built from"),
    (b"\x1f\x8b", 0, "gzip-compressed", "unpack it with gunzip"),
    (b"BZh", 0, "bzip2-compressed", "unpack it with bunzip2"),
    (b"\xfd7zXZ", 0, "xz-compressed", "unpack it with unxz"),
    (b"7z\xbc\xaf", 0, "a 7-zip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", 0, "zstd-compressed", "unpack it with unzstd"),
    (b"\x93NUMPY", 0, "a NumPy array", "pass the .onnx file"),
    (b"GGUF", 0, "a GGUF model", "export the original model to ONNX"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself", "fetch it with: git lfs pull"),
]
_PATTERNS: list[tuple[bytes, str, str]] = [
    (rb"\x80[\x02-\x05][\x8a\x95}(c]", "a Python pickle, as PyTorch writes", "use torch.onnx.export"),
    (rb".{8}\{\"", "a safetensors file: weights without a graph", "export the model with torch.onnx.export"),
    (rb"\s*<(!doctype\s+html|html)", "an HTML page", "the download has probably failed: try it again"),
    (rb"\s*<\?xml", "an XML file", "pass the .onnx file"),
    (rb"\s*[\[{]", "JSON", "pass the binary .onnx file"),
    (rb"\s*<\s*ir_version", "ONNX in text form", "convert it with onnx.parser.parse_model"),
    (rb"\s*ir_version\s*:", "protobuf in text form", "load it with onnx.load(path, 'textproto')"),
]
_WIRE_NAMES = {0: "a varint", 1: "8 bytes", 2: "a length and bytes", 5: "4 bytes"}
_WIRE_OF = {
    FieldDescriptor.CPPTYPE_INT32: 0,
    FieldDescriptor.CPPTYPE_INT64: 0,
    FieldDescriptor.CPPTYPE_UINT32: 0,
    FieldDescriptor.CPPTYPE_UINT64: 0,
    FieldDescriptor.CPPTYPE_BOOL: 0,
    FieldDescriptor.CPPTYPE_ENUM: 0,
    FieldDescriptor.CPPTYPE_DOUBLE: 1,
    FieldDescriptor.CPPTYPE_FLOAT: 5,
    FieldDescriptor.CPPTYPE_STRING: 2,
    FieldDescriptor.CPPTYPE_MESSAGE: 2,
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A field that the installed onnx does not know, or whose wire type or value ONNX does not allow."""

    path: str
    offset: int
    reason: str
    wrong: bool


def not_a_model(data: Buffer, where: str, fault: str) -> ModelError:
    """The error for bytes that are no model: the format they are in if that can be told, else `fault`."""
    head = bytes(data[:512])
    for magic, at, kind, hint in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return ModelError(f"is not an ONNX model but {kind}", where=where, hint=hint)
    for pattern, kind, hint in _PATTERNS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return ModelError(f"is not an ONNX model but {kind}", where=where, hint=hint)
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return ModelError("is not an ONNX model but text", where=where, hint="pass the binary .onnx file")
    hint = "the file is damaged or cut off: copy, download or export it again"
    return ModelError(f"is not a valid ONNX model: {fault}", where=where, hint=hint)


def first_fault(data: Buffer) -> str | None:
    """The first broken field, as a sentence; None if the wire format is in order."""
    walk = _Check(data)
    try:
        walk.message(onnx.ModelProto.DESCRIPTOR, 0, len(data), "", 1)
    except WireError as error:
        return str(error)
    return None


def unknown_fields(data: Buffer) -> list[Unknown]:
    """All fields that protobuf set aside when it parsed `data`, the first one that is wrong in itself last."""
    walk = _Check(data)
    try:
        walk.message(onnx.ModelProto.DESCRIPTOR, 0, len(data), "", 1)
    except WireError as error:
        path, _, reason = error.reason.partition(": ")
        walk.unknown.append(Unknown(path, error.offset, f"has {reason.rstrip(',')}", True))
    return walk.unknown


class _Check:
    """Walks a message by its descriptor."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.unknown: list[Unknown] = []

    def message(self, kind: Descriptor, start: int, end: int, path: str, depth: int) -> None:
        if depth > DEPTH:
            raise WireError(f"{path[:40]}...{path[-40:]}: messages nested deeper than {DEPTH} levels", start)
        counts: dict[int, int] = {}
        pos = start
        while pos < end:
            at = pos
            tag, pos = self._varint(pos, end, path or kind.name)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise WireError(f"{path or kind.name}: a field with number 0", at)
            field = kind.fields_by_number.get(number)
            count = counts[number] = counts.get(number, -1) + 1
            name = _name(path, field, number, count)
            pos, stop = self._extent(wire, at, pos, end, name)
            if field is None:
                reason = "is a field that the installed onnx does not know"
                self.unknown.append(Unknown(name, at, reason, False))
            elif not _fits(field, wire):
                expected = _WIRE_NAMES[_WIRE_OF[field.cpp_type]]
                reason = f"is stored as {_WIRE_NAMES[wire]} where ONNX has {expected}"
                self.unknown.append(Unknown(name, at, reason, True))
            elif field.message_type is not None:
                self.message(field.message_type, pos, stop, name, depth + 1)
            elif wire == 2 and _WIRE_OF[field.cpp_type] != 2:
                self._packed(_WIRE_OF[field.cpp_type], pos, stop, name)
            elif field.enum_type is not None:
                value = read_varint(self.data, pos)[0]
                if value not in field.enum_type.values_by_number:
                    reason = f"has the value {value}, which ONNX does not define"
                    self.unknown.append(Unknown(name, at, reason, True))
            pos = stop

    def _extent(self, wire: int, at: int, pos: int, end: int, name: str) -> tuple[int, int]:
        """Where the content of a field starts and ends."""
        if wire == 0:
            return pos, self._varint(pos, end, name)[1]
        if wire == 2:
            length, pos = self._varint(pos, end, name)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise WireError(f"{name}: wire type {wire}, which no ONNX field has,", at)
        if pos + length > end:
            raise WireError(f"{name}: a length of {length} bytes where {end - pos} are left", at)
        return pos, pos + length

    def _packed(self, wire: int, pos: int, end: int, name: str) -> None:
        if wire:
            width = 8 if wire == 1 else 4
            if (end - pos) % width:
                raise WireError(f"{name}: {end - pos} bytes for numbers of {width} each", pos)
            return
        if end > pos and self.data[end - 1] > 0x7F:
            raise WireError(f"{name}: a number that runs past the end of its field", pos)

    def _varint(self, pos: int, end: int, name: str) -> tuple[int, int]:
        try:
            value, after = read_varint(self.data, pos)
        except IndexError:
            after = end + 1
        except WireError as error:
            raise WireError(f"{name}: {error.reason}", error.offset) from None
        if after > end:
            raise WireError(f"{name}: cut off in the middle of a number", pos)
        return value, after


def _fits(field: Any, wire: int) -> bool:
    expected = _WIRE_OF[field.cpp_type]
    return wire == expected or (wire == 2 and _repeated(field))


def _repeated(field: Any) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)  # protobuf before 6.30


def _name(path: str, field: FieldDescriptor | None, number: int, count: int) -> str:
    step = field.name if field else f"#{number}"
    if field is not None and _repeated(field):
        step = f"{step}[{count}]"
    return f"{path}.{step}" if path else step
