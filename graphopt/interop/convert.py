"""Models of any kind to `onnx_ir` and back. What the caller hands over is never changed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as oir
from google.protobuf.message import EncodeError

from graphopt.errors import ModelError, UsageError
from graphopt.interop.clone import clone
from graphopt.interop.kinds import Kind, kind_of
from graphopt.ir.dump import dump
from graphopt.ir.load import Source, read_model
from graphopt.ir.save import to_bytes
from graphopt.ir.value import bodies_of
from graphopt.ir.wire import varint

# The tags of ModelProto.graph and GraphProto.initializer: field number, then "length and bytes".
_GRAPH, _INITIALIZER = bytes([7 << 3 | 2]), bytes([5 << 3 | 2])


def to_ir(model: Any, *, allow_links: bool = False) -> tuple[oir.Model, Source | None]:
    """The model as an `onnx_ir.Model` that may be changed freely, and where it came from.

    Takes all that `kind_of` knows. Weights stay where they are: in the file, the bytes, the caller's tensors.
    `allow_links`: external data of a file may be reached through links. Raises `UsageError` for anything that
    is no model, `ModelError` for a model that is not valid.
    """
    kind = kind_of(model)
    if kind is Kind.PATH:
        return read_model(os.fspath(model), allow_links=allow_links)
    if kind is Kind.BYTES:
        return read_model(model)
    if kind is Kind.MODEL:
        source = model.source  # its proto describes the model as loaded; the graph may be another by now
        return clone(model.ir), source and dataclasses.replace(source, proto=None)
    if kind is Kind.PROTO:
        return _read_proto(model)
    if kind is Kind.GRAPHSURGEON:
        from graphopt.interop.graphsurgeon import to_proto

        return _read_proto(to_proto(model))
    return _in_order(clone(model.model if kind is Kind.TORCH else model)), None


def from_ir(model: oir.Model, kind: Kind, *, like: Any = None, source: Source | None = None) -> Any:
    """The model in the form `kind`.

    `like`: what was handed in; a new `ONNXProgram` takes its exported program from it. A path has no form in
    memory: for `Kind.PATH` and `Kind.MODEL` the result is a `graphopt.Model`.
    """
    if kind is Kind.IR:
        return model
    if kind is Kind.BYTES:
        return to_bytes(model)
    if kind is Kind.PROTO:
        return _proto(model)
    if kind is Kind.GRAPHSURGEON:
        from graphopt.interop.graphsurgeon import from_proto, require_held

        require_held(_nodes(model))
        return from_proto(_proto(model))
    if kind is Kind.TORCH:
        if like is None or kind_of(like) is not Kind.TORCH:
            raise UsageError(
                "an ONNXProgram can only be made from an ONNXProgram", hint="ask for as_='ir', which it holds"
            )
        from graphopt.interop.torch import with_model

        return with_model(like, model)
    from graphopt.ir.model import Model

    return Model(model, source)


def _in_order(model: oir.Model) -> oir.Model:
    """Sort nodes that do not stand in topological order, which `onnx_ir` leaves to its users."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        if not _is_ordered(graph, set()):
            try:
                graph.sort()
            except ValueError as error:
                raise ModelError(f"the nodes of the graph {graph.name!r} form a cycle") from error
    return model


def _is_ordered(graph: oir.Graph, seen: set[oir.Node]) -> bool:
    """Whether each node comes after those it reads from. A value that nothing produces is an error."""
    for node in graph:
        for value in node.inputs:
            if value is None or value.is_graph_input() or value.is_initializer():
                continue
            producer = value.producer()
            if producer is None:
                raise ModelError(
                    f"nothing produces the value {value.name!r}",
                    where=f"input of node {node.name or node.op_type!r}",
                )
            if producer not in seen:
                return False
        if not all(_is_ordered(body, seen) for body in bodies_of(node)):
            return False
        seen.add(node)
    return True


def _nodes(model: oir.Model) -> Iterator[oir.Node]:
    pending = [model.graph, *(function.graph for function in model.functions.values())]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(bodies_of(node))


def _proto(model: oir.Model) -> onnx.ModelProto:
    """With all weights in it: a proto in memory has no folder that external data could lie in."""

    def place(header: onnx.TensorProto, tensor: oir.TensorProtocol, _: bool) -> None:
        header.raw_data = tensor.tobytes()

    return dump(model, place)


def _read_proto(proto: onnx.ModelProto) -> tuple[oir.Model, Source]:
    return read_model(proto if _fits(proto) else b"".join(_pieces(proto)))


def _fits(proto: onnx.ModelProto) -> bool:
    """Whether protobuf can write this as one message, which must stay under 2 GB."""
    try:
        proto.ByteSize()
    except EncodeError:
        return False
    return True


def _pieces(proto: onnx.ModelProto) -> Iterator[bytes]:
    """The model in several messages which, one after another, are the model again: parsers merge them."""
    frame = onnx.ModelProto()
    _fill(frame, proto, "graph")
    _fill(frame.graph, proto.graph, "initializer")
    yield frame.SerializeToString()
    for tensor in proto.graph.initializer:
        body = tensor.SerializeToString()
        inner = _INITIALIZER + varint(len(body))
        yield _GRAPH + varint(len(inner) + len(body)) + inner
        yield body


def _fill(target: Any, source: Any, left_out: str) -> None:
    """Copy all fields but one."""
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)
