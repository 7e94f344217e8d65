"""A normal form of models, in which two are equal text if they are the same graph, whatever things are called.

Nodes stand in the order in which the outputs need them, those that nothing needs at the end; values inside are
numbered in that order; constants that nothing reads are gone, and their numbers rounded. Names of inputs, outputs
and attributes, types of inputs and outputs, opsets and operators stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as oir
from onnx import helper, numpy_helper

from graphopt.ir.text import to_text

__all__ = ["inside", "normal_text", "readable"]

_DIGITS = 6  # of floats: more than any rewrite keeps apart, fewer than two machines disagree in
_IR_VERSION = 10
_T = onnx.TensorProto
Graph = onnx.GraphProto


def normal_text(model: onnx.ModelProto, *, without_identity: bool = False) -> str:
    """The text by which two models are compared; `without_identity`: as if there were no Identity in it."""
    made = _bare(model)
    made.ir_version = _IR_VERSION
    made.graph.name = "graph"
    if without_identity:
        _bypass(made.graph)
    _Order(made.graph).sort()
    _rename_inside(made.graph, frozenset())
    return to_text(made, limit=None)


def readable(model: onnx.ModelProto, known: Iterable[str] = (), *, rounded: bool = True) -> str:
    """The text that a golden file shows: as the normal form, but what is among the `known` names keeps its name.

    `rounded=False`: with all digits, for a model to begin with.
    """
    made = _bare(model, rounded)
    _Order(made.graph).sort()
    _rename_inside(made.graph, frozenset(known))
    return to_text(made, limit=None)


def names_in(model: onnx.ModelProto) -> set[str]:
    """The names of all values of the main graph and the bodies in it."""
    found: set[str] = set()
    for graph in _graphs(model.graph):
        found.update(v.name for v in (*graph.input, *graph.initializer))
        found.update(name for node in graph.node for name in node.output)
    return found


def inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with an Identity behind each input and before each output: the rest is inside of a graph."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.value_info[:]
    constant = {tensor.name for tensor in graph.initializer}
    inputs = [v.name for v in graph.input if v.name not in constant]
    # An output that is an input or a constant itself has nothing inside.
    outputs = [v.name for v in graph.output if v.name not in constant and v.name not in inputs]
    taken = names_in(model)
    inner = {name: _fresh(f"{name}_inside", taken) for name in dict.fromkeys((*inputs, *outputs))}
    _rename(graph.node, inner)
    nodes = [helper.make_node("Identity", [name], [inner[name]]) for name in inputs]
    nodes += graph.node
    nodes += [helper.make_node("Identity", [inner[name]], [name]) for name in dict.fromkeys(outputs)]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _fresh(like: str, taken: set[str]) -> str:
    while like in taken:
        like += "_"
    taken.add(like)
    return like


def _graphs(graph: Graph) -> Iterator[Graph]:
    """A graph and the bodies in it."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body)


def _bodies(node: onnx.NodeProto) -> Iterator[Graph]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH and attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


# -- what does not count -------------------------------------------------------------------------


def _bare(model: onnx.ModelProto, rounded: bool = True) -> onnx.ModelProto:
    """A copy without metadata, types of inner values, names of nodes, and opsets that nothing uses."""
    short = _short if rounded else float
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.graph.CopyFrom(model.graph)
    made.functions.extend(model.functions)
    used = {""} | {n.domain for g in _graphs(model.graph) for n in g.node} | {f.domain for f in model.functions}
    used = {"" if domain == "ai.onnx" else domain for domain in used}
    imports = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    for domain in sorted(used & set(imports)):
        made.opset_import.add(domain=domain, version=imports[domain])
    for body in (*_graphs(made.graph), *made.functions):
        del body.metadata_props[:]
        del body.value_info[:]
        body.doc_string = ""
        for node in body.node:
            node.name = node.doc_string = ""
            node.domain = "" if node.domain == "ai.onnx" else node.domain
            del node.metadata_props[:]
            _plain_attributes(node, short)
            attributes = sorted(node.attribute, key=lambda a: a.name)
            del node.attribute[:]
            node.attribute.extend(attributes)
    for graph in _graphs(made.graph):
        del graph.quantization_annotation[:]
        for value in (*graph.input, *graph.output):
            value.doc_string = ""
            del value.metadata_props[:]
        for tensor in graph.initializer:
            tensor.CopyFrom(_plain_tensor(tensor, short))
    return made


def _plain_attributes(node: onnx.NodeProto, short: Callable[[float], float]) -> None:
    for attribute in node.attribute:
        attribute.doc_string = ""
        if attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = short(attribute.f)
        elif attribute.type == onnx.AttributeProto.FLOATS:
            attribute.floats[:] = [short(x) for x in attribute.floats]
        elif attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_plain_tensor(attribute.t, short))
            attribute.t.name = ""


def _plain_tensor(tensor: onnx.TensorProto, short: Callable[[float], float]) -> onnx.TensorProto:
    """The same content, stored in one way, floats as short as asked; without metadata."""
    if tensor.data_location == _T.EXTERNAL:
        return tensor
    if tensor.data_type in (_T.FLOAT, _T.DOUBLE):
        array = numpy_helper.to_array(tensor)
        content = np.array([short(float(x)) for x in array.reshape(-1)], array.dtype).reshape(array.shape)
        return numpy_helper.from_array(content, tensor.name)
    made = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.data_type == _T.STRING:
        made.string_data.extend(tensor.string_data)
    else:
        made.raw_data = oir.serde.TensorProtoTensor(tensor).tobytes()
    return made


def _short(x: float) -> float:
    return float(f"{x:.{_DIGITS}g}")


# -- order ---------------------------------------------------------------------------------------


class _Order:
    """Puts the nodes of a graph, and of the bodies in it, into the order in which they are needed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        self._order: list[int] = []
        self._seen: set[int] = set()

    def sort(self) -> set[str]:
        """Sort; the names that are read, in the graph and the bodies in it."""
        graph = self._graph
        nodes = list(graph.node)
        reads = [[*node.input, *_sorted_bodies(node)] for node in nodes]
        for value in graph.output:
            self._need(value.name, reads)
        self._order += [i for i in range(len(nodes)) if i not in self._seen]
        ordered = [nodes[i] for i in self._order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)
        read = {name for names in reads for name in names} | {value.name for value in graph.output}
        kept = {t.name: onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read}
        overridable = {value.name for value in graph.input}
        names = [name for name in kept if name in overridable]
        names += [name for i in self._order for name in reads[i] if name in kept]
        del graph.initializer[:]
        graph.initializer.extend(kept[name] for name in dict.fromkeys([*names, *kept]))
        return read

    def _need(self, name: str, reads: list[list[str]]) -> None:
        """Depth first, without recursion: golden graphs are small, but regions of models need not be."""
        stack: list[tuple[int, Iterator[str]]] = []
        pending: Iterator[str] = iter([name])
        current = -1
        while True:
            for wanted in pending:
                maker = self._makers.get(wanted)
                if maker is not None and maker not in self._seen:
                    self._seen.add(maker)
                    stack.append((current, pending))
                    current, pending = maker, iter(reads[maker])
                    break
            else:
                if current < 0:
                    return
                self._order.append(current)
                current, pending = stack.pop()


def _sorted_bodies(node: onnx.NodeProto) -> list[str]:
    """Sort the bodies of a node; the names that they read and do not make."""
    found: dict[str, None] = {}
    for body in _bodies(node):
        read = _Order(body).sort()
        made = {v.name for v in (*body.input, *body.initializer)} | {o for n in body.node for o in n.output}
        found.update(dict.fromkeys(sorted(read - made)))
    return list(found)


# -- names ---------------------------------------------------------------------------------------


def _rename_inside(graph: Graph, known: frozenset[str]) -> None:
    """Number the values that are no inputs or outputs of the main graph, unless their name is a known one."""
    ports = {v.name for v in (*graph.input, *graph.output)}
    mapping: dict[str, str] = {}
    taken = ports | set(known)
    counts = {"c": 0, "t": 0}

    def number(names: Iterable[str], letter: str) -> None:
        for name in names:
            if not name or name in ports or name in mapping:
                continue
            if name in known:
                mapping[name] = name
                continue
            while True:
                counts[letter] += 1
                if (new := f"{letter}{counts[letter]}") not in taken:
                    break
            mapping[name] = new

    def visit(body: Graph) -> None:
        number((tensor.name for tensor in body.initializer), "c")
        if body is not graph:
            number((value.name for value in body.input), "t")
        for node in body.node:
            number(node.output, "t")
            for inner in _bodies(node):
                visit(inner)

    visit(graph)
    for body in _graphs(graph):
        for named in (*body.initializer, *body.input, *body.output):
            named.name = mapping.get(named.name, named.name)
        for node in body.node:
            _rename_node(node, mapping)
        if body is not graph:
            body.name = "body"


def _rename(nodes: Iterable[onnx.NodeProto], mapping: Mapping[str, str]) -> None:
    """Rename values of an outer graph, in its nodes and in the bodies in them."""
    for node in nodes:
        _rename_node(node, mapping)
        for body in _bodies(node):
            for value in body.output:
                value.name = mapping.get(value.name, value.name)
            _rename(body.node, mapping)


def _rename_node(node: onnx.NodeProto, mapping: Mapping[str, str]) -> None:
    node.input[:] = [mapping.get(name, name) for name in node.input]
    node.output[:] = [mapping.get(name, name) for name in node.output]


def _bypass(graph: Graph) -> None:
    """Take every Identity out, and put one before each output, where there may have been one or not."""
    source: dict[str, str] = {}
    resolve: Callable[[str], str] = lambda name: source.get(name, name)  # noqa: E731
    kept: list[Any] = []
    for node in graph.node:  # in topological order, so what an Identity reads is resolved already
        if node.op_type == "Identity" and not node.domain and len(node.input) == 1:
            source[node.output[0]] = resolve(node.input[0])
        else:
            kept.append(node)
    outputs = {v.name for v in graph.output}
    taken = {v.name for v in graph.input} | {o for node in graph.node for o in node.output}
    inner = {name: _fresh(f"{name}_inside", taken) for name in outputs if name not in source}
    inner = {name: new for name, new in inner.items() if any(name in node.output for node in kept)}
    mapping = {**{name: inner.get(target, target) for name, target in source.items()}, **inner}
    _rename(kept, mapping)
    kept += [helper.make_node("Identity", [mapping.get(v.name, v.name)], [v.name]) for v in graph.output]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
