"""Local functions: what all calls of one have in common, which is what may be assumed inside its body."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as oir

from graphopt.ir.prepare import OPAQUE, Identifier, graphs


@dataclass(slots=True)
class Calls:
    """Every call of every local function, and from within which function (None: from a graph)."""

    sites: dict[Identifier, list[tuple[oir.Node, Identifier | None]]] = field(default_factory=dict)

    def add(self, node: oir.Node, caller: Identifier | None) -> None:
        self.sites.setdefault(node.op_identifier(), []).append((node, caller))

    def of(self, function: Identifier) -> list[oir.Node]:
        """The nodes that call a function."""
        return [site for site, _ in self.sites.get(function, [])]

    def order(self, functions: Iterable[Identifier]) -> list[Identifier]:
        """Callers before callees; functions that end up calling themselves are left out."""
        names = list(functions)
        callers = {name: {c for _, c in self.sites.get(name, []) if c is not None} for name in names}
        callees: dict[Identifier, list[Identifier]] = {}
        for name, above in callers.items():
            for caller in above:
                callees.setdefault(caller, []).append(name)
        ready = [name for name in names if not callers[name]]
        order = []
        while ready:
            name = ready.pop()
            order.append(name)
            for callee in callees.get(name, []):
                callers[callee].discard(name)
                if not callers[callee]:
                    ready.append(callee)
        return order


def common_attributes(function: oir.Function, sites: Sequence[oir.Node]) -> dict[str, onnx.AttributeProto | None]:
    """The attributes that have one value in all calls; None for one that no call gives and that has no default."""
    result: dict[str, onnx.AttributeProto | None] = {}
    for name, default in function.attributes.items():
        given = [site.attributes.get(name, default) for site in sites]
        if any(attr.is_ref() for attr in given):
            continue
        protos = [None if attr.value is None else oir.serde.serialize_attribute(attr) for attr in given]
        if protos and all(proto == protos[0] for proto in protos):
            result[name] = protos[0]
    return result


def body_model(
    function: onnx.FunctionProto,
    inputs: Sequence[onnx.TypeProto],
    attributes: dict[str, onnx.AttributeProto | None],
    others: Iterable[onnx.FunctionProto],
) -> onnx.ModelProto:
    """A function's body as a model of its own, for the inference."""
    model = onnx.ModelProto(ir_version=10)
    model.opset_import.extend(function.opset_import)
    model.functions.extend(others)
    model.graph.name = function.name
    for name, kind in zip(function.input, inputs, strict=True):
        model.graph.input.add(name=name).type.CopyFrom(kind)
    for name in function.output:
        model.graph.output.add(name=name)
    model.graph.node.extend(function.node)
    model.opset_import.add(domain=OPAQUE, version=1)
    for graph in graphs(model.graph):
        for node in graph.node:
            _substitute(node, attributes)
    return model


def _substitute(node: onnx.NodeProto, attributes: dict[str, onnx.AttributeProto | None]) -> None:
    """Put values in the place of references. A node that keeps one is hidden: inference would read it as 0."""
    for i in reversed(range(len(node.attribute))):
        reference = node.attribute[i].ref_attr_name
        if not reference:
            continue
        if reference not in attributes:
            node.domain = OPAQUE
            return
        value = attributes[reference]
        if value is None:
            del node.attribute[i]
        else:
            name = node.attribute[i].name
            node.attribute[i].CopyFrom(value)
            node.attribute[i].name = name
