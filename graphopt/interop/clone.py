"""A copy of an `onnx_ir.Model` that shares no more than the bytes of the weights.

The library's own clone shares the types of the values and the tensors with their names: giving a copied value
another dtype or name changes the original. It also refuses nodes that do not stand in topological order.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import onnx
import onnx_ir as oir
from onnx_ir import serde

from graphopt.ir.collector import paused_gc


def clone(model: oir.Model, values: dict[oir.Value, oir.Value] | None = None) -> oir.Model:
    """A copy with its own graphs, bodies, functions, nodes, values, types and names; the weights are shared.

    Linear in nodes and values. `values` is filled with the copies of the main graph's values, and those in its bodies.
    """
    with paused_gc():
        return oir.Model(
            Cloner(values).graph(model.graph),
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            domain=model.domain,
            model_version=model.model_version,
            doc_string=model.doc_string,
            functions=[Cloner().function(f) for f in model.functions.values()],
            metadata_props=dict(model.metadata_props),
            device_configurations=model.device_configurations,
        )


class Cloner:
    """Copies of one scope and the bodies within it; a value is copied where it is first met.

    `values`: copies that there are already, by what they are copies of; those that are made are added.
    """

    def __init__(self, values: dict[oir.Value, oir.Value] | None = None) -> None:
        self.values = {} if values is None else values

    def graph(self, graph: oir.Graph) -> oir.Graph:
        inputs = [self.value(v) for v in graph.inputs]
        initializers = [self.value(v) for v in graph.initializers.values()]
        nodes = [self.node(node) for node in graph]
        copied = oir.Graph(
            inputs,
            [self.value(v) for v in graph.outputs],
            nodes=nodes,
            initializers=initializers,
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props),
        )
        _copy_meta(graph, copied)
        return copied

    def function(self, function: oir.Function) -> oir.Function:
        return oir.Function(
            domain=function.domain,
            name=function.name,
            overload=function.overload,
            graph=self.graph(function.graph),
            attributes=[self._attribute(a) for a in function.attributes.values()],
        )

    def node(self, node: oir.Node) -> oir.Node:
        copied = oir.Node(
            node.domain,
            node.op_type,
            [None if v is None else self.value(v) for v in node.inputs],
            [self._attribute(a) for a in node.attributes.values()],
            overload=node.overload,
            outputs=[self.value(v) for v in node.outputs],
            version=node.version,
            name=node.name,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
            device_configurations=tuple(self._placed(c) for c in node.device_configurations),
        )
        _copy_meta(node, copied)
        return copied

    def value(self, value: oir.Value) -> oir.Value:
        copied = self.values.get(value)
        if copied is None:
            copied = self.values[value] = oir.Value(
                name=value.name,
                type=None if value.type is None else _type(value.type),
                shape=None if value.shape is None else value.shape.copy(),
                doc_string=value.doc_string,
                const_value=None if value.const_value is None else _tensor(value.const_value),
                metadata_props=dict(value.metadata_props) if value.metadata_props else None,
            )
            _copy_meta(value, copied)
        return copied

    def _attribute(self, attribute: oir.Attr) -> oir.Attr:
        kinds = oir.AttributeType
        if attribute.is_ref():
            return attribute
        content: Any
        if attribute.type == kinds.GRAPH:
            content = self.graph(attribute.as_graph())
        elif attribute.type == kinds.GRAPHS:
            content = [self.graph(g) for g in attribute.as_graphs()]
        elif attribute.type == kinds.TENSOR:
            content = _tensor(attribute.as_tensor())
        elif attribute.type == kinds.TENSORS:
            content = [_tensor(t) for t in attribute.as_tensors()]
        else:
            return attribute
        return oir.Attr(attribute.name, attribute.type, content, doc_string=attribute.doc_string)

    def _placed(self, configuration: Any) -> Any:
        """A node's placement on devices names values, which must be those of the copy."""
        specs = [
            spec if spec.value is None else dataclasses.replace(spec, value=self.value(spec.value))
            for spec in configuration.sharding_specs
        ]
        return dataclasses.replace(configuration, sharding_specs=tuple(specs))


def _copy_meta(source: Any, target: Any) -> None:
    """Notes that are not serialized. Exporters leave whole programs there, so only containers are copied."""
    for key, note in source.meta.items():
        target.meta[key] = copy.copy(note) if isinstance(note, dict | list) else note


def _tensor(tensor: oir.TensorProtocol) -> oir.TensorProtocol:
    """The same content under a name of its own: renaming a value renames its tensor."""
    if not isinstance(tensor, serde.TensorProtoTensor):
        return copy.copy(tensor)
    # The name of such a tensor is the name in the proto, which is the caller's.
    if not tensor.raw.HasField("raw_data"):
        own = onnx.TensorProto()
        own.CopyFrom(tensor.raw)
        return serde.TensorProtoTensor(own)
    return oir.LazyTensor(
        lambda: tensor,
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _type(kind: Any) -> Any:
    """An equal type: giving a value a dtype writes it into its type."""
    inner = kind.elem_type
    return type(kind)(inner if isinstance(inner, oir.DataType) else _type(inner), denotation=kind.denotation)
