"""The copy of a model that the whole-model inference runs on: with what can be believed, and nothing that explodes.

* Types inside the graph are taken out, so that inference is not led by a wrong `value_info`; only what no schema
  can tell, the outputs of operators of unknown domains, keeps its declared type, and what such an operator passes
  into a body its rank.
* Sizes of graph inputs that have no name get one each; what they default to is taken out.
* A local function that is called like an ONNX operator is moved to a domain of its own, because the inference
  would take it for the operator.
* Operators whose inference functions are known to be wrong are hidden.
* Local functions are left out when inlining them all would explode, or when they call themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.helper

from graphopt.ir.dims import Dim
from graphopt.ir.native import Translator
from graphopt.ir.schemas import is_standard, lookup, misjudged

OPAQUE = "graphopt.opaque"  # a domain without schemas
_SHADOWED = "graphopt.shadowed"
_MAX_FUNCTION = 20_000
_MAX_INLINED = 200_000
_MAX_DEPTH = 48

Identifier = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """`model`: what to infer. `functions`: all local functions, those too that were left out of it."""

    model: onnx.ModelProto
    functions: dict[Identifier, onnx.FunctionProto]


def standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def identifier(node: onnx.NodeProto) -> Identifier:
    return standard(node.domain), node.op_type, node.overload


def prepare(source: onnx.ModelProto, translator: Translator) -> Prepared:
    """The copy to infer; `source` holds no weights and is left as it is."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    functions = {(standard(f.domain), f.name, f.overload): f for f in model.functions}
    _declare_inputs(model.graph, translator)
    imports = {standard(o.domain): o.version for o in model.opset_import}
    every = list(graphs(model.graph))
    for graph in every:
        _open_bodies(graph, imports, functions)
        _strip(graph, imports, functions, translator)
    if model.ir_version >= 4:
        _drop_overridable(model.graph)
    model.ir_version = max(4, model.ir_version)  # before, inference looks at initializers only if they are inputs
    for function in model.functions:
        del function.value_info[:]
        _hide_misjudged(function, functions)
    _move_shadows(model, functions)
    _import_domains(model, (node for graph in every for node in graph.node))
    for function in model.functions:
        _import_domains(function, (node for body in _function_graphs(function) for node in body))
    copies = {key: _copied(f) for key, f in functions.items()}
    _drop_explosive(model)
    return Prepared(model, copies)


def _open_bodies(
    graph: onnx.GraphProto, imports: dict[str, int], functions: dict[Identifier, onnx.FunctionProto]
) -> None:
    """Take the sizes out of the inputs of all bodies that the nodes of a graph hold.

    What If, Loop and Scan pass in, the inference finds out. What an operator passes in that has no schema, nobody can
    tell but the declaration; of that the rank is believed, for a name may stand for another size than outside.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                for value in body.input:
                    if not value.type.HasField("tensor_type"):
                        continue
                    if not _is_foreign(node, imports, functions):
                        value.type.tensor_type.ClearField("shape")
                    for size in value.type.tensor_type.shape.dim:
                        size.Clear()


def _is_foreign(
    node: onnx.NodeProto, imports: dict[str, int], functions: dict[Identifier, onnx.FunctionProto]
) -> bool:
    """Whether neither a schema nor a function of the model says what an operator does."""
    version = imports.get(standard(node.domain))
    known = identifier(node) in functions
    return not known and (version is None or lookup(standard(node.domain), node.op_type, version) is None)


def _copied(function: onnx.FunctionProto) -> onnx.FunctionProto:
    copy = onnx.FunctionProto()
    copy.CopyFrom(function)
    return copy


def graphs(top: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies inside it."""
    stack = [top]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    stack.append(attribute.g)
                elif attribute.type == onnx.AttributeProto.GRAPHS:
                    stack.extend(attribute.graphs)


def _declare_inputs(graph: onnx.GraphProto, translator: Translator) -> None:
    for value in graph.input:
        if value.type.HasField("tensor_type"):
            shape = value.type.tensor_type.shape
            names = [Dim.unknown(f"?{value.name}.{i}") for i in range(len(shape.dim))]
            fact = translator.from_model(value.type, names)
            if fact.shape is not None:
                translator.write_shape(shape, fact.shape)


def _strip(
    graph: onnx.GraphProto,
    imports: dict[str, int],
    functions: dict[Identifier, onnx.FunctionProto],
    translator: Translator,
) -> None:
    opaque: set[str] = set()
    for node in graph.node:
        if _is_foreign(node, imports, functions):
            opaque.update(node.output)
        elif identifier(node) not in functions and _is_misjudged(node, imports[standard(node.domain)]):
            node.domain = OPAQUE
    kept = [value for value in graph.value_info if value.name in opaque]
    for value in [*kept, *graph.output]:
        if value.name not in opaque:
            value.ClearField("type")
        elif value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            fact = translator.from_model(value.type)
            translator.write_shape(value.type.tensor_type.shape, fact.shape or ())
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.value_info[:]
    graph.value_info.extend(copies)


def _is_misjudged(node: onnx.NodeProto, version: int) -> bool:
    return standard(node.domain) == "" and misjudged(node.op_type, version, lambda name: _attribute(node, name))


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    """The value of an attribute; None if it is not there, and the name of the parameter of a function that sets it."""
    found = next((a for a in node.attribute if a.name == name), None)
    if found is None or found.ref_attr_name:
        return None if found is None else found.ref_attr_name
    value = onnx.helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


def _hide_misjudged(function: onnx.FunctionProto, functions: dict[Identifier, onnx.FunctionProto]) -> None:
    version = next((o.version for o in function.opset_import if standard(o.domain) == ""), 0)
    for body in _function_graphs(function):
        for node in body:
            if identifier(node) not in functions and _is_misjudged(node, version):
                node.domain = OPAQUE


def _drop_overridable(graph: onnx.GraphProto) -> None:
    """Leave out the defaults of graph inputs: the inference takes every initializer for a constant."""
    inputs = {value.name for value in graph.input}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name not in inputs]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _move_shadows(model: onnx.ModelProto, functions: dict[Identifier, onnx.FunctionProto]) -> None:
    shadows = {key for key in functions if is_standard(key[0], key[1])}
    if not shadows:
        return
    bodies = [node for graph in graphs(model.graph) for node in graph.node]
    for key, function in functions.items():
        bodies += [node for graph in _function_graphs(function) for node in graph]
        if key in shadows:
            function.domain, function.name = _SHADOWED, f"{key[0]}:{key[1]}"
    for node in bodies:
        key = identifier(node)
        if key in shadows:
            node.domain, node.op_type = _SHADOWED, f"{key[0]}:{key[1]}"


def _import_domains(scope: onnx.ModelProto | onnx.FunctionProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """One node of a domain that is not imported would fail the inference of everything."""
    known = {standard(o.domain) for o in scope.opset_import} | {""}
    for domain in dict.fromkeys(standard(node.domain) for node in nodes):
        if domain not in known:
            scope.opset_import.add(domain=domain, version=1)


def _function_graphs(function: onnx.FunctionProto) -> Iterator[list[onnx.NodeProto]]:
    yield list(function.node)
    for node in function.node:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                for graph in graphs(body):
                    yield list(graph.node)


def _drop_explosive(model: onnx.ModelProto) -> None:
    """Leave out functions whose calls, inlined, have too many nodes or are nested too deeply, or never end."""
    if not model.functions:
        return
    called: dict[Identifier, list[Identifier]] = {}
    size: dict[Identifier, int] = {}
    for function in model.functions:
        key = standard(function.domain), function.name, function.overload
        nodes = [identifier(node) for body in _function_graphs(function) for node in body]
        called[key], size[key] = nodes, len(nodes)
    total, depth = _inlined(called, size)
    bad = {key for key in called if total[key] > _MAX_FUNCTION or depth[key] > _MAX_DEPTH}
    calls = [identifier(node) for graph in graphs(model.graph) for node in graph.node]
    if sum(total[key] for key in calls if key in total and key not in bad) > _MAX_INLINED:
        bad = set(called)
    if bad:
        copies = [_copied(f) for f in model.functions if (standard(f.domain), f.name, f.overload) not in bad]
        del model.functions[:]
        model.functions.extend(copies)


def _inlined(
    called: dict[Identifier, list[Identifier]], size: dict[Identifier, int]
) -> tuple[dict[Identifier, int], dict[Identifier, int]]:
    """Per function: its nodes with all calls inlined, and how deep the calls go; both huge in a cycle."""
    total: dict[Identifier, int] = {}
    depth: dict[Identifier, int] = {}
    for start in called:
        stack, opened = [start], set[Identifier]()
        while stack:
            key = stack[-1]
            callees = [c for c in called[key] if c in called]
            waiting = [c for c in dict.fromkeys(callees) if c not in total and c not in opened and c != key]
            opened.add(key)
            if waiting and key not in total:
                stack += waiting
                continue
            stack.pop()
            # A callee that has no total by now is further down this stack: a cycle.
            total.setdefault(key, size[key] + sum(total.get(c, _MAX_INLINED) for c in callees))
            depth.setdefault(key, 1 + max((depth.get(c, _MAX_DEPTH) for c in callees), default=0))
    return total, depth
