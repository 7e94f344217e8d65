"""Some nodes of a model as a model of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as oir

from graphopt.ir.dims import Dim
from graphopt.ir.dump import Dump
from graphopt.ir.model import Model
from graphopt.ir.value import Node, bodies_of


def region(model: Model, nodes: Iterable[Node]) -> onnx.ModelProto:
    """The model that consists of these nodes, which stand in one graph of `model`.

    Its inputs are the values that they read from outside, with what is known of their types; constants among
    these are its initializers. Its outputs are the values that are read outside, or are graph outputs, or, if there
    are none, those that none of the nodes reads. Local functions that are called come along.

    Raises `ValueError` if there are no nodes, or if they do not stand in one graph.
    """
    chosen = {node._raw for node in nodes}
    graphs = {node.graph for node in chosen}
    if len(graphs) != 1:
        raise ValueError("the nodes of a region stand in one graph" if graphs else "a region has at least one node")
    (graph,) = graphs
    assert graph is not None, "a node outside of any graph has been removed"
    return _Region(model, [node for node in graph if node in chosen]).proto


class _Region:
    def __init__(self, model: Model, nodes: list[oir.Node]) -> None:
        self._model = model
        self._nodes = nodes
        self._dump = Dump(_inline)
        self.proto = onnx.ModelProto(ir_version=max(4, model.ir.ir_version))
        self.proto.graph.name = "region"
        for domain, version in model.ir.graph.opset_imports.items():
            self.proto.opset_import.add(domain=domain, version=version)
        self._name_all()
        for node in nodes:
            self._dump.node(self.proto.graph.node.add(), node)
        self._inputs()
        self._outputs()
        self._functions()

    def _name_all(self) -> None:
        """Values of a model in memory may have no names yet."""
        for value in dict.fromkeys(v for node in self._nodes for v in (*node.inputs, *node.outputs) if v is not None):
            if value.name is None:
                raise ValueError(f"a value of node {value.producer()!r} has no name")

    def _inputs(self) -> None:
        made = {output for node in self._nodes for output in node.outputs}
        facts, graph = self._model.facts, self.proto.graph
        for value in dict.fromkeys(_read(self._nodes)):
            if value in made:
                continue
            tensor = facts.const(value)
            if tensor is None:
                self._port(graph.input.add(), value)
            else:
                self._dump.tensor(graph.initializer.add(), tensor, value.name, True)

    def _outputs(self) -> None:
        inner = set(self._nodes)
        inner |= {node for outer in self._nodes for node in _inside(outer)}
        values = [value for node in self._nodes for value in node.outputs if value.name]
        wanted = [v for v in values if v.is_graph_output() or any(use.node not in inner for use in v.uses())]
        for value in wanted or [v for v in values if not v.uses()]:
            self._port(self.proto.graph.output.add(), value)

    def _port(self, out: onnx.ValueInfoProto, value: oir.Value) -> None:
        out.name = value.name or ""
        fact = self._model.facts.fact(value)
        if fact.proto is not None:
            out.type.CopyFrom(fact.proto)
        elif fact.dtype is not None:
            tensor = out.type.tensor_type
            tensor.elem_type = int(fact.dtype)
            if fact.shape is not None:
                tensor.shape.SetInParent()
                for size in fact.shape:
                    dim = tensor.shape.dim.add()
                    if isinstance(size, Dim):
                        dim.dim_param = str(size)
                    elif size is not None:
                        dim.dim_value = size

    def _functions(self) -> None:
        known = self._model.ir.functions
        pending = list(self._nodes)
        called: dict[tuple[str, str, str], None] = {}
        while pending:
            node = pending.pop()
            key = node.op_identifier()
            if key in known and key not in called:
                called[key] = None
                pending.extend(known[key])
            pending.extend(_inside(node))
        for key in [key for key in known if key in called]:
            self._dump.function(self.proto.functions.add(), known[key])


def _inside(node: oir.Node) -> Iterator[oir.Node]:
    """The nodes in the bodies of a node."""
    for body in bodies_of(node):
        for inner in body:
            yield inner
            yield from _inside(inner)


def _read(nodes: Iterable[oir.Node]) -> Iterator[oir.Value]:
    """The values that nodes and the bodies in them read from outside of these bodies."""
    for node in nodes:
        yield from (value for value in node.inputs if value is not None)
        for body in bodies_of(node):
            own = {*body.inputs, *body.initializers.values(), *(o for inner in body for o in inner.outputs)}
            yield from (value for value in (*_read(body), *body.outputs) if value not in own)


def _inline(header: onnx.TensorProto, tensor: oir.TensorProtocol, _: bool) -> None:
    header.raw_data = tensor.tobytes()
