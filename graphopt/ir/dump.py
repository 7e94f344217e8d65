"""An onnx_ir model as a proto, with a say in where each tensor's bytes go.

onnx_ir's own serialiser copies every weight into the proto, states the type of each initializer twice and
cannot hold map types; so graphs and tensors are written here, and the rest through onnx_ir.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import onnx
import onnx_ir as ir
from onnx_ir import serde

from graphopt.ir.load import TYPE
from graphopt.ir.tensors import bytes_needed
from graphopt.ir.wire import SMALL

__all__ = ["Dump", "Place", "dump", "tensor_bytes"]

Place = Callable[[onnx.TensorProto, ir.TensorProtocol, bool], None]
"""Called with a written header, its tensor of more than 1 KiB, and whether it is an initializer."""

_QUANTIZATION = "quant_parameter_tensor_names"
_FUNCTION_TYPES_SINCE = 10  # IR version; before, onnx_ir keeps types of function values in the main graph


def dump(model: ir.Model, place: Place) -> onnx.ModelProto:
    """The model as a proto; `place` says what stands for each payload above 1 KiB."""
    return Dump(place).model(model)


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """The size of the tensor's raw data; for strings 0, as they have none."""
    if tensor.dtype == ir.DataType.STRING:
        return 0
    return bytes_needed(tensor.dtype, tensor.shape.numpy())


class Dump:
    """Writes a model or parts of one; `place` as for `dump`."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def model(self, model: ir.Model) -> onnx.ModelProto:
        proto = onnx.ModelProto(ir_version=model.ir_version)
        for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            if value := getattr(model, field):
                setattr(proto, field, value)
        _opsets(proto.opset_import, model.opset_imports)
        _strings(proto.metadata_props, model.metadata_props)
        for configuration in model.device_configurations:
            proto.configuration.append(serde.serialize_model_configuration(configuration))
        proto.graph.SetInParent()  # an empty graph is a graph
        self.graph(proto.graph, model.graph)
        own_types = model.ir_version >= _FUNCTION_TYPES_SINCE
        for function in model.functions.values():
            out = proto.functions.add()
            self.function(out, function, None if own_types else proto.graph)
        return proto

    def graph(self, out: onnx.GraphProto, graph: ir.Graph) -> None:
        if graph.name:
            out.name = graph.name
        if graph.doc_string:
            out.doc_string = graph.doc_string
        inputs = set()
        for value in graph.inputs:
            inputs.add(value)
            _value(out.input.add(), value)
            _annotation(out, value)
        outputs = set(graph.outputs)
        for value in graph.initializers.values():
            if value not in inputs:
                _annotation(out, value)
                if value not in outputs and _says_more(value):
                    _value(out.value_info.add(), value)
            if value.const_value is not None:
                self.tensor(out.initializer.add(), value.const_value, value.name, True)
        for node in graph:
            self.node(out.node.add(), node)
            for value in node.outputs:
                if value not in outputs:
                    _annotation(out, value)
                    if _is_typed(value):
                        _value(out.value_info.add(), value)
        for value in graph.outputs:
            _value(out.output.add(), value)
            if value not in inputs and not value.is_initializer():
                _annotation(out, value)
        _strings(out.metadata_props, graph.metadata_props)

    def function(
        self, out: onnx.FunctionProto, function: ir.Function, types_in: onnx.GraphProto | None = None
    ) -> None:
        """`types_in`: a graph that holds the types of the function's values, under the function's name."""
        for field in ("domain", "name", "overload", "doc_string"):
            if value := getattr(function, field):
                setattr(out, field, value)
        _opsets(out.opset_import, function.opset_imports)
        _strings(out.metadata_props, function.metadata_props)
        out.input.extend(value.name or "" for value in function.inputs)
        out.output.extend(value.name or "" for value in function.outputs)
        for attribute in function.attributes.values():
            if attribute.value is None:
                out.attribute.append(attribute.name)
            else:
                self.attribute(out.attribute_proto.add(), attribute)
        values = list(function.inputs)
        for node in function:
            self.node(out.node.add(), node)
            values.extend(node.outputs)
        infos = (out if types_in is None else types_in).value_info
        prefix = "" if types_in is None else f"{function.domain}::{function.name}/"
        for value in values:
            if _is_typed(value):
                _value(infos.add(), value, prefix)

    def node(self, out: onnx.NodeProto, node: ir.Node) -> None:
        out.op_type = node.op_type
        if node.domain:
            out.domain = node.domain
        if node.name:
            out.name = node.name
        if node.overload:
            out.overload = node.overload
        if node.doc_string:
            out.doc_string = node.doc_string
        out.input.extend(["" if value is None else value.name or "" for value in node.inputs])
        names = [value.name or "" for value in node.outputs]
        while names and not names[-1]:
            names.pop()
        out.output.extend(names)
        for attribute in node.attributes.values():
            self.attribute(out.attribute.add(), attribute)
        if node.metadata_props:
            _strings(out.metadata_props, node.metadata_props)
        for configuration in node.device_configurations:
            out.device_configurations.append(serde.serialize_node_device_configuration(configuration))

    def attribute(self, out: onnx.AttributeProto, attribute: ir.Attr) -> None:
        kind = attribute.type
        if attribute.is_ref():
            serde.serialize_reference_attribute_into(out, attribute)
            return
        if kind not in _NESTED:
            serde.serialize_attribute_into(out, attribute)
            return
        out.name = attribute.name
        out.type = cast("Any", kind.value)
        if attribute.doc_string:
            out.doc_string = attribute.doc_string
        if kind == ir.AttributeType.TENSOR:
            self.tensor(out.t, attribute.value, None, False)
        elif kind == ir.AttributeType.GRAPH:
            self.graph(out.g, attribute.value)
        elif kind == ir.AttributeType.TENSORS:
            for tensor in attribute.value:
                self.tensor(out.tensors.add(), tensor, None, False)
        else:
            for graph in attribute.value:
                self.graph(out.graphs.add(), graph)

    def tensor(self, out: onnx.TensorProto, tensor: ir.TensorProtocol, name: str | None, initializer: bool) -> None:
        """Write one tensor; initializers bear the name of their value."""
        raw = tensor.raw if issubclass(type(tensor), serde.TensorProtoTensor) else None
        large = tensor_bytes(tensor) > SMALL
        if raw is not None and not (large and raw.HasField("raw_data")):
            out.CopyFrom(raw)  # typed fields stay typed
            del out.metadata_props[:]
        else:
            out.data_type = tensor.dtype.value
            out.dims.extend(tensor.shape.numpy())
            if tensor.doc_string:
                out.doc_string = tensor.doc_string
            if tensor.dtype == ir.DataType.STRING:
                out.string_data.extend(_string_data(tensor))
            elif not large:
                out.raw_data = tensor.tobytes()
        bears = name or tensor.name
        if bears:
            out.name = bears
        _strings(out.metadata_props, tensor.metadata_props)
        if large and (raw is None or raw.HasField("raw_data")):
            self.place(out, tensor, initializer)


_NESTED = frozenset(
    {ir.AttributeType.TENSOR, ir.AttributeType.TENSORS, ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
)


def _string_data(tensor: ir.TensorProtocol) -> list[bytes]:
    items = tensor.numpy().reshape(-1).tolist()
    return [item if isinstance(item, bytes) else str(item).encode() for item in items]


def _opsets(out: Any, imports: Mapping[str, int]) -> None:
    for domain, version in imports.items():
        out.add(domain=domain, version=version)


def _strings(out: Any, entries: Mapping[str, str]) -> None:
    for key in sorted(entries):
        out.add(key=key, value=entries[key])


def _annotation(out: onnx.GraphProto, value: ir.Value) -> None:
    entries = _meta(value, _QUANTIZATION)
    if entries:
        annotation = out.quantization_annotation.add(tensor_name=value.name)
        _strings(annotation.quant_parameter_tensor_names, entries)


def _is_typed(value: ir.Value) -> bool:
    if not value.name:
        return False
    said = value.type is not None or value.shape is not None or _meta(value, TYPE) is not None
    return bool(said or value.metadata_props or value.doc_string)


def _says_more(value: ir.Value) -> bool:
    """Whether a value info tells about an initializer what its tensor does not."""
    tensor = value.const_value
    if value.metadata_props or value.doc_string or tensor is None:
        return _is_typed(value)
    if value.shape is None or value.dtype is None:
        return False
    return value.dtype != tensor.dtype or tuple(value.shape) != tuple(tensor.shape)


def _value(out: onnx.ValueInfoProto, value: ir.Value, prefix: str = "") -> None:
    out.name = prefix + (value.name or "")
    if value.doc_string:
        out.doc_string = value.doc_string
    if value.metadata_props:
        _strings(out.metadata_props, value.metadata_props)
    kind, shape = value.type, value.shape
    if kind is None:
        body = _meta(value, TYPE)
        if body is not None:
            out.type.ParseFromString(body)
    elif type(kind) is ir.TensorType:
        if kind.denotation:
            out.type.denotation = kind.denotation
        tensor = out.type.tensor_type
        tensor.elem_type = kind.dtype.value
        if shape is not None:
            _shape(tensor.shape, shape)
    else:
        serde.serialize_type_into(out.type, kind)
        if shape is not None:
            serde.serialize_shape_into(out.type, shape)


def _shape(out: onnx.TensorShapeProto, shape: ir.Shape) -> None:
    out.SetInParent()  # a shape of rank 0 is a shape
    for index, dim in enumerate(shape):
        made = out.dim.add()
        if isinstance(dim, int):
            made.dim_value = dim
        elif dim.value is not None:
            made.dim_param = dim.value
        denotation = shape.get_denotation(index)
        if denotation:
            made.denotation = denotation


def _meta(value: ir.Value, key: str) -> Any:
    """An entry of the value's `meta`, which this does not create: for 100 000 values that takes 50 MB."""
    if getattr(value, "_metadata", value) is None:
        return None
    return value.meta.get(key)
