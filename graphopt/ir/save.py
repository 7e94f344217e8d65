"""Save a model: the structure from memory, each weight straight from where it lies.

Inline weights stay inline and external ones external unless asked otherwise; above 2 GB, the most that
protobuf can hold, they go external by themselves. The model file is renamed into place last, and external
data always gets a name of its own: whatever happens on the way, the old model or the new one is complete.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.ir.collector import paused_gc
from graphopt.ir.dump import Place, dump, tensor_bytes
from graphopt.ir.files import Replacement, require_writable
from graphopt.ir.load import Source
from graphopt.ir.notes import remove_notes
from graphopt.ir.tensors import FileRef, FileTensor, payload
from graphopt.ir.wire import Payload, WireError, placeholder, splice, strip

__all__ = ["WEIGHTS", "Written", "skeleton", "to_bytes", "write_model"]

LIMIT = 2**31 - 1
"""The largest message protobuf can read, in bytes."""

WEIGHTS = "graphopt:weights"
"""Location of every weight in a skeleton."""

_PAGE, _LINE, _LARGE = 4096, 64, 1 << 20  # alignment of external weights: large ones can be mapped


@dataclass(frozen=True)
class Written:
    """What a save wrote: the model's path, the bytes of its parts, all files."""

    path: Path
    model_bytes: int
    data_bytes: int
    files: tuple[Path, ...]


def write_model(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    external: bool | None = None,
    strip: bool = False,
    inspect: Callable[[onnx.ModelProto], None] = lambda _: None,
    check: Callable[[Path], None] = lambda _: None,
) -> Written:
    """Save `model` to `path`; an existing file is replaced as the very last step.

    `inspect` is called before anything is written, with the structure, in which tensors above 1 KiB have no elements;
    `check` with the finished file before the last step. If one of them raises, nothing is replaced.

    `external` puts weights above 1 KiB into a data file beside the model (True) or into the model (False);
    None keeps it as in `source`. `strip` leaves out descriptions and metadata.

    Raises UsageError if the file cannot be written or would pass 2 GB.
    """
    target = Path(os.path.realpath(path))
    require_writable(target)
    layout = _layout(model, target, _wish(source, external), external, strip=strip)
    inspect(layout.emptied())
    if not layout.data:
        with Replacement(target) as out:
            _write_message(layout, out)
            check(out.temporary)
            stale = _superseded(target)
            out.commit()
        _remove(stale)
        return Written(Path(path), layout.size, 0, (Path(path),))
    if target.parent != Path(os.path.realpath(Path(path).parent)):
        raise UsageError(
            "external data cannot be saved through a link to another folder: it would not be found",
            where=str(path),
            hint=f"save to {target}",
        )
    with Replacement(target.parent / layout.data_name) as data, Replacement(target) as out:
        _write_data(layout, data)
        _write_message(layout, out)
        check(out.temporary)
        stale = _superseded(target)
        data.commit()
        try:
            out.commit()
        except BaseException:
            _remove([data.target])
            raise
    _remove(stale)
    files = (Path(path), Path(path).parent / layout.data_name)
    return Written(Path(path), layout.size, data.size, files)


def to_bytes(model: ir.Model) -> bytes:
    """The whole model as one message. Raises UsageError above 2 GB."""
    layout = _Layout(model, None, 0)
    if layout.size > LIMIT:
        raise UsageError(
            f"the model has {layout.size} bytes, and one message holds at most {LIMIT}",
            hint="save it to a file instead",
        )
    parts: list[bytes | memoryview] = []
    for piece in layout.pieces:
        if isinstance(piece, Payload):
            parts.extend(payload(layout.inline[piece.index]))
        else:
            parts.append(piece)
    return b"".join(parts)


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without payloads above 1 KiB, for shape inference and sessions.

    Each of them is marked as external data with the location `WEIGHTS` and its length.
    """

    def mark(out: onnx.TensorProto, tensor: ir.TensorProtocol, _initializer: bool) -> None:
        _refer(out, WEIGHTS, 0, tensor_bytes(tensor))

    return _dump(model, mark)


class _Layout:
    """Where each payload goes. `level` 0: all inline; 1: initializers external; 2: attributes as well."""

    def __init__(self, model: ir.Model, data_name: str | None, level: int, *, strip: bool = False) -> None:
        self.data_name = data_name or ""
        self.inline: list[ir.TensorProtocol] = []
        self.data: list[tuple[int, ir.TensorProtocol]] = []
        self._level = level
        self._end = 0
        self._offsets: dict[object, int] = {}
        self._headers: list[onnx.TensorProto] = []
        self._key = secrets.token_bytes(16)  # no weight or name can hold it: it is made after them
        self.proto = _dump(model, self._place)
        if strip:
            remove_notes(self.proto)
        lengths = [tensor_bytes(tensor) for tensor in self.inline]
        pieces, self.size = splice(self.proto.SerializeToString(deterministic=True), self._key, lengths)
        self.pieces = pieces

    def emptied(self) -> onnx.ModelProto:
        """The structure with no elements in the tensors whose payloads were placed; it is serialised already."""
        for header in self._headers:
            header.dims[:] = [0]
            for field in ("raw_data", "data_location", "external_data"):
                header.ClearField(field)
        return self.proto

    def _place(self, out: onnx.TensorProto, tensor: ir.TensorProtocol, initializer: bool) -> None:
        self._headers.append(out)
        if self._level == 0 or (self._level == 1 and not initializer):
            out.raw_data = placeholder(self._key, len(self.inline))
            self.inline.append(tensor)
            return
        length = tensor_bytes(tensor)
        same: object = id(tensor)
        if isinstance(tensor, FileTensor):
            same = (tensor.file, tensor.offset, length)
        if same not in self._offsets:
            align = _PAGE if length >= _LARGE else _LINE
            offset = -(-self._end // align) * align
            self._offsets[same] = offset
            self._end = offset + length
            self.data.append((offset, tensor))
        _refer(out, self.data_name, self._offsets[same], length)


def _wish(source: Source | None, external: bool | None) -> bool:
    return external if external is not None else source is not None and source.external


def _layout(model: ir.Model, target: Path, wish: bool, external: bool | None, *, strip: bool) -> _Layout:
    """The first layout that protobuf can hold."""
    name = _fresh_name(target)
    for level in (1, 2) if wish else (0, 1, 2):
        layout = _Layout(model, name, level, strip=strip)
        if layout.size <= LIMIT:
            return layout
        if external is False:
            raise UsageError(
                f"the model has {layout.size} bytes with its weights inside; protobuf holds at most {LIMIT}",
                where=str(target),
                hint="save it with external data",
            )
    raise UsageError(f"the model's structure alone has {layout.size} bytes", where=str(target))


def _dump(model: ir.Model, place: Place) -> onnx.ModelProto:
    try:
        with paused_gc():
            return dump(model, place)
    except GraphoptError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"the model cannot be serialised: {cause}") from error


def _refer(out: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    out.ClearField("raw_data")
    out.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        out.external_data.add(key=key, value=str(value))


def _write_message(layout: _Layout, out: Replacement) -> None:
    for piece in layout.pieces:
        if isinstance(piece, Payload):
            _write_payload(layout.inline[piece.index], piece.length, out)
        else:
            out.write(piece)
    out.finish()


def _write_data(layout: _Layout, out: Replacement) -> None:
    for offset, tensor in layout.data:
        out.seek(offset)
        _write_payload(tensor, tensor_bytes(tensor), out)
    out.finish()


def _write_payload(tensor: ir.TensorProtocol, length: int, out: Replacement) -> None:
    start = out.size
    if isinstance(tensor, FileTensor):
        out.copy(tensor.file, tensor.offset, tensor.length)
    else:
        for chunk in _chunks(tensor):
            out.write(chunk)
    if out.size - start != length:
        found = out.size - start
        raise ModelError(f"tensor {tensor.name!r} has {found} bytes where its shape needs {length}")


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The bytes of a tensor that may be anybody's; its errors are about the model."""
    chunks = payload(tensor)
    while True:
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        except GraphoptError:
            raise
        except Exception as error:
            raise ModelError(f"tensor {tensor.name!r} cannot be read: {error}") from error
        yield chunk


def _fresh_name(target: Path) -> str:
    """A name for the data file that nothing has yet."""
    name = f"{target.name}.data"
    number = 0
    while os.path.lexists(target.parent / name):
        number += 1
        name = f"{target.name}.{number}.data"
    return name


def _superseded(target: Path) -> list[Path]:
    """The data files that only the model at `target` uses: ours by name, and referred to by it."""
    own = re.compile(re.escape(target.name) + r"(\.[0-9]+)?\.data")
    present = {entry.name for entry in os.scandir(target.parent) if own.fullmatch(entry.name)}
    if not present or not target.is_file():
        return []
    try:
        file = FileRef(target)
        proto = onnx.ModelProto.FromString(strip(file.map(), WEIGHTS)[0]) if file.size else onnx.ModelProto()
    except (GraphoptError, WireError, DecodeError):
        return []
    return [target.parent / name for name in sorted(present & _locations(proto))]


def _locations(proto: onnx.ModelProto) -> set[str]:
    """All external files that a model refers to."""
    found: set[str] = set()
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        tensors: list[onnx.TensorProto] = []
        if graphs:
            graph = graphs.pop()
            tensors.extend(graph.initializer)
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                tensors.extend([attribute.t, *attribute.tensors])
                graphs.extend([attribute.g] if attribute.HasField("g") else [])
                graphs.extend(attribute.graphs)
        for tensor in tensors:
            found.update(entry.value for entry in tensor.external_data if entry.key == "location")
    return found


def _remove(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError:
            pass  # a leftover costs space, nothing else
