"""A model made ready to travel to the child process: its structure in bytes, its weights as places in files.

No weight is copied to build a package. One that lies in a file travels as (path, offset, length); one that
exists only in memory travels beside the pickle, as a buffer. The structure is the model as it is, except that

* big initializers of the main graph, and big Constants there, are marked external: the child supplies them;
* initializers that a caller could override are plain constants: verification leaves them at their default;
* `value_info` is left out: what a file claims about its intermediate values is not believed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import serde

__all__ = ["PLACEHOLDER", "Package", "Port", "Stamp", "Weight", "package", "ports_of"]

PLACEHOLDER = "weights"  # the external file that the structure names; the child makes it

_SMALL = 1024  # bytes: less than this stays inside the structure
_SMALL_INTEGERS = 65536  # shape inference reads integer constants, so many more of them stay inside
_INTEGERS = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL}
_FLOAT8 = {
    ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ
}  # fmt: skip
_SUB_BYTE = {"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"}

Stamp = tuple[int, int, int, int]
"""Device, inode, size and modification time: what a file was when the package was made."""


@dataclass(frozen=True)
class Port:
    """A graph input or output: its name, its ONNX element type and shape (None: unknown, str: symbolic).

    `dtype` is None when the value is no tensor (a sequence, a map, an optional).
    """

    name: str
    dtype: int | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant of the main graph: `length` bytes at `offset` of the file `path`, or `data` in memory."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    length: int
    path: str | None = None
    offset: int = 0
    stamp: Stamp | None = None
    data: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    @property
    def key(self) -> tuple[str, int, int, Stamp] | None:
        """Equal for weights that are the same bytes of the same file; None for a weight in memory."""
        if self.path is None or self.stamp is None:
            return None
        return self.path, self.offset, self.length, self.stamp

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte."""
        return ir.DataType(self.dtype).name in _SUB_BYTE


@dataclass(frozen=True, eq=False)
class Package:
    """What the child process needs to build a session; see the module's docstring.

    `float8`: whether there are 8-bit floats in it.
    """

    proto: bytes
    weights: tuple[Weight, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    float8: bool = False

    @property
    def weight_bytes(self) -> int:
        return sum(weight.length for weight in self.weights)


def package(model: ir.Model, *, outputs: Iterable[str] = ()) -> Package:
    """Pack `model`; the values of the main graph named in `outputs` become further outputs of it."""
    proto = onnx.ModelProto(ir_version=max(4, model.ir_version))  # before 4, constants had to be inputs too
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.name = model.graph.name or "graph"
    for value in _inputs(model):
        serde.serialize_value_into(graph.input.add(), value)
    for value in model.graph.outputs:
        serde.serialize_value_into(graph.output.add(), value)
    known = {value.name for value in model.graph.outputs}
    extra = [name for name in dict.fromkeys(outputs) if name not in known]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)

    weights = _Weights(graph)
    for name, value in model.graph.initializers.items():
        # ONNX Runtime drops what nobody reads, and then refuses to be given its content.
        wanted = value.uses() or value.is_graph_output() or name in extra
        if value.const_value is not None and wanted:
            weights.add(name, value.const_value)
    for node in model.graph:
        constant = _constant(node)
        if constant is not None and weights.add(str(node.outputs[0].name), constant, only_big=True):
            continue
        _serialize_node(graph.node.add(), node)
    for function in model.functions.values():
        body = proto.functions.add()
        serde.serialize_function_into(body, function)
        del body.value_info[:]
        for written, node in zip(body.node, function, strict=True):
            _inline_external(written, node)
    ports = [*map(_port, model.graph.outputs), *(Port(name, None, None) for name in extra)]
    made = itertools.chain(model.graph.initializers.values(), *(node.outputs for node in model.graph))
    float8 = any(value.dtype in _FLOAT8 for value in made)
    return Package(proto.SerializeToString(), tuple(weights.found), ports_of(model), tuple(ports), float8)


def ports_of(model: ir.Model) -> tuple[Port, ...]:
    """The inputs that must be given: those without a default value."""
    return tuple(map(_port, _inputs(model)))


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


class _Weights:
    """Sorts constants into those that stay in the structure and those that travel beside it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.found: list[Weight] = []
        self._stamps: dict[str, Stamp | None] = {}
        self._offset = 0

    def add(self, name: str, tensor: ir.TensorProtocol, *, only_big: bool = False) -> bool:
        small = _SMALL_INTEGERS if tensor.dtype in _INTEGERS else _SMALL
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes <= small:
            if only_big:
                return False
            _serialize_tensor(self.graph.initializer.add(), tensor, name)
            return True
        shape = tuple(tensor.shape.numpy())
        weight = self._in_file(name, tensor, shape)
        if weight is None:
            data = _bytes_of(tensor)
            weight = Weight(name, int(tensor.dtype), shape, data.nbytes, data=data)
        self.found.append(weight)
        written = self.graph.initializer.add(name=name, data_type=weight.dtype, dims=shape)
        written.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", PLACEHOLDER), ("offset", self._offset), ("length", weight.length)):
            written.external_data.add(key=key, value=str(value))
        self._offset += -(-weight.length // 4096) * 4096
        return True

    def _in_file(self, name: str, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> Weight | None:
        file = getattr(tensor, "file", None)
        if file is not None:  # a span of the file the model was loaded from
            if file.changed():
                return None  # another file has its path now; the tensor still reads the old one
            path = str(Path(file.path).absolute())
        elif isinstance(tensor, ir.ExternalTensor):
            path = str(Path(tensor.path).absolute())
        else:
            return None
        if path not in self._stamps:
            self._stamps[path] = _stamp(path)
        stamp = self._stamps[path]
        if stamp is None:
            return None
        offset, length = getattr(tensor, "offset", 0) or 0, tensor.nbytes
        return Weight(name, int(tensor.dtype), shape, length, path, offset, stamp)


def _stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _bytes_of(tensor: ir.TensorProtocol) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The tensor's bytes as ONNX stores them; a view of its memory where that has the same layout."""
    if hasattr(tensor, "view"):  # a span: its bytes are stored as ONNX wants them
        return np.frombuffer(tensor.view(), np.uint8)
    if tensor.dtype.name not in _SUB_BYTE:
        array = np.asarray(tensor.numpy())
        if array.flags.c_contiguous and array.dtype.byteorder in "=|<" and array.nbytes == tensor.nbytes:
            return array.reshape(-1).view(np.uint8)
    return np.frombuffer(tensor.tobytes(), np.uint8)


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    attribute = node.attributes.get("value")
    if attribute is None or attribute.type != ir.AttributeType.TENSOR or not node.outputs:
        return None
    tensor: ir.TensorProtocol = attribute.as_tensor()
    return tensor


def _serialize_tensor(proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        proto.data_type = int(tensor.dtype)
        proto.dims.extend(tensor.shape.numpy())
        proto.raw_data = tensor.tobytes()
    else:
        serde.serialize_tensor_into(proto, tensor)
    proto.name = name


def _serialize_node(proto: onnx.NodeProto, node: ir.Node) -> None:
    serde.serialize_node_into(proto, node)
    del proto.metadata_props[:]
    _inline_external(proto, node)


def _inline_external(proto: onnx.NodeProto, node: ir.Node) -> None:
    """Nobody supplies weights inside attributes and bodies: put external ones into the structure."""
    pairs: list[tuple[onnx.NodeProto, ir.Node]] = [(proto, node)]
    while pairs:
        written, source = pairs.pop()
        for attribute in written.attribute:
            value = source.attributes[attribute.name]
            if attribute.type == onnx.AttributeProto.TENSOR:
                _refill([attribute.t], [value.value])
            for body, graph in zip(_bodies(attribute), _graphs(value), strict=True):
                del body.value_info[:]
                _refill(body.initializer, _initializers(graph))
                pairs.extend(zip(body.node, graph, strict=True))


def _refill(written: Sequence[onnx.TensorProto], sources: Sequence[Any]) -> None:
    for proto, tensor in zip(written, sources, strict=True):
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            name = proto.name
            proto.Clear()
            _serialize_tensor(proto, tensor, name)


def _bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()] if not attribute.is_ref() else []
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _initializers(graph: ir.Graph) -> list[Any]:
    return [value.const_value for value in graph.initializers.values() if value.const_value is not None]


def _port(value: ir.Value) -> Port:
    tensor = value.dtype is not None and isinstance(value.type, ir.TensorType)
    shape = None
    if value.shape is not None:
        shape = tuple(_dim(dim) for dim in value.shape)
    return Port(str(value.name), int(value.dtype) if tensor and value.dtype is not None else None, shape)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None  # some exporters write -1 for a size that is not known
    return dim.value or None
