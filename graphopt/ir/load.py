"""Load a model: the structure into memory, the weights left where they are."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from graphopt.errors import ModelError, UsageError
from graphopt.ir.check import check
from graphopt.ir.collector import paused_gc
from graphopt.ir.diagnose import first_fault, not_a_model, unknown_fields
from graphopt.ir.payloads import Payloads
from graphopt.ir.tensors import FileRef, HeldTensor
from graphopt.ir.value import bodies_of, nodes_of
from graphopt.ir.wire import Buffer, WireError, strip

__all__ = ["TYPE", "Source", "read_model"]

TYPE = "graphopt.type"
"""Key in a value's `meta`: the serialised type of a value whose type onnx_ir cannot hold (maps)."""


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    `path`: the file, None for a model given in memory; `external`: whether weights lay in external data;
    `size`: bytes of the model and the external data it uses; `proto`: the model without its large weights,
    each marked as external data; `ignored`: fields that the installed onnx does not know; a save drops them.
    """

    path: Path | None = None
    external: bool = False
    size: int = 0
    proto: onnx.ModelProto | None = None
    ignored: tuple[str, ...] = ()


def read_model(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto,
    *,
    allow_links: bool = False,
) -> tuple[ir.Model, Source]:
    """Load a model from a path, from its bytes, or from a proto; weights above 1 KiB stay where they are.

    Weights of a file become `FileTensor`s, which stay readable when the path is replaced. External data must
    lie in the model's folder; `allow_links` permits links that leave it. Raises UsageError for a file that
    cannot be read, ModelError for one that is not a valid model.
    """
    with paused_gc():
        return _read_any(source, allow_links)


def _read_any(source: object, allow_links: bool) -> tuple[ir.Model, Source]:
    if isinstance(source, onnx.ModelProto):
        return _read(_serialized(source), "the given model", None, allow_links)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(bytes(source), "the given bytes", None, allow_links)
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"cannot load a model from {type(source).__name__}", hint="pass a path or the bytes")
    path = Path(source)
    return _read(FileRef(path), str(path), path, allow_links)


def _read(data: FileRef | bytes, where: str, path: Path | None, allow_links: bool) -> tuple[ir.Model, Source]:
    size = data.size if isinstance(data, FileRef) else len(data)
    if size == 0:
        raise ModelError("is empty", where=where, hint="copy, download or export the model again")
    buffer = data.map() if isinstance(data, FileRef) else data
    marker = f"graphopt-{secrets.token_hex(12)}"  # no file can hold it: it is made after the file
    proto = _parse(buffer, marker, where)
    ignored = _unknown(proto, buffer, where)
    folder = path.parent if path is not None else None
    payloads = Payloads(data, marker, where, folder, allow_links=allow_links)
    checked = check(proto, where, payloads)
    model = _deserialize(proto, where)
    _resolve(model, payloads, attributes=checked.attribute_payloads)
    if checked.types:
        _move_types(model, marker)
        checked.restore()
    total = size + payloads.external_bytes
    return model, Source(path, payloads.external, total, proto, ignored)


def _parse(buffer: Buffer, marker: str, where: str) -> onnx.ModelProto:
    try:
        skeleton, _ = strip(buffer, f"{marker}:0")
        proto: onnx.ModelProto = onnx.ModelProto.FromString(skeleton)
    except (WireError, DecodeError) as error:
        raise not_a_model(buffer, where, first_fault(buffer) or str(error)) from None
    if not proto.HasField("graph") or not proto.HasField("ir_version"):
        missing = "graph" if proto.HasField("ir_version") else "IR version"
        wrong = [field for field in unknown_fields(buffer) if field.wrong]
        fault = f"{wrong[0].path} {wrong[0].reason}" if wrong else f"it has no {missing}"
        raise not_a_model(buffer, where, fault)
    return proto


def _unknown(proto: onnx.ModelProto, buffer: Buffer, where: str) -> tuple[str, ...]:
    """What protobuf set aside: refused if a known field has a wrong type, else named."""
    size = proto.ByteSize()
    proto.DiscardUnknownFields()
    if proto.ByteSize() == size:
        return ()
    fields = unknown_fields(buffer)
    for field in fields:
        if field.wrong:
            raise not_a_model(buffer, where, f"{field.path} {field.reason}, at byte {field.offset}")
    return tuple(dict.fromkeys(field.path for field in fields))


def _serialized(proto: onnx.ModelProto) -> bytes:
    try:
        data: bytes = proto.SerializeToString()
        return data
    except (EncodeError, ValueError):
        what = "the given model is larger than 2 GB, the most a proto can hold"
        raise UsageError(what, hint="save it with external data and pass the path") from None


def _deserialize(proto: onnx.ModelProto, where: str) -> ir.Model:
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"cannot be represented: {cause}", where=where) from error


def _resolve(model: ir.Model, payloads: Payloads, *, attributes: bool) -> None:
    """Give the marked tensors their bytes."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if type(tensor) is ir.ExternalTensor:
                value.const_value = payloads.resolve(tensor)
            elif type(tensor) is ir.serde.TensorProtoTensor:
                value.const_value = HeldTensor(tensor.raw)
        for node in graph if attributes else ():
            for name, attribute in list(node.attributes.items()):
                made = _attribute(attribute, payloads)
                if made is not None:
                    node.attributes[name] = made


def _attribute(attribute: ir.Attr, payloads: Payloads) -> ir.Attr | None:
    if attribute.is_ref() or attribute.type not in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
        return None
    doc = attribute.doc_string
    if attribute.type == ir.AttributeType.TENSORS:
        tensors = [payloads.resolve(t) if isinstance(t, ir.ExternalTensor) else t for t in attribute.value]
        return ir.AttrTensors(attribute.name, tensors, doc_string=doc)
    if isinstance(attribute.value, ir.ExternalTensor):
        return ir.AttrTensor(attribute.name, payloads.resolve(attribute.value), doc_string=doc)
    return None


def _move_types(model: ir.Model, marker: str) -> None:
    for graph in _graphs(model):
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        values += [output for node in graph for output in node.outputs]
        for value in values:
            if marker in value.metadata_props:
                value.meta[TYPE] = base64.b64decode(value.metadata_props.pop(marker))


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the functions' graphs, and all bodies in them."""
    pending = [model.graph, *(function.graph for function in model.functions.values())]
    while pending:
        graph = pending.pop()
        yield graph
        for node in nodes_of(graph):
            pending.extend(bodies_of(node))
