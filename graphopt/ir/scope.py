"""One linear pass over each graph of a model: names, order, operator sets, attributes, types."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import onnx
import onnx_ir as ir

from graphopt.errors import ModelError
from graphopt.ir.order import find_cycle, stable_order
from graphopt.ir.payloads import Payloads

__all__ = ["Checked", "GraphCheck", "Key", "plain_domain", "spell"]

Key = tuple[str, str, str]
"""What names a function: domain, name, overload."""

_RUNTIME_DOMAINS = frozenset(
    {
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.microsoft.experimental",
        "com.microsoft.dml",
        "ai.onnx.ml",
        "ai.onnx.contrib",
    }
)
"""ONNX Runtime takes these without an import, so files without one exist."""

_ATTRIBUTE_FIELDS = {
    "f": onnx.AttributeProto.FLOAT,
    "i": onnx.AttributeProto.INT,
    "s": onnx.AttributeProto.STRING,
    "t": onnx.AttributeProto.TENSOR,
    "g": onnx.AttributeProto.GRAPH,
    "tp": onnx.AttributeProto.TYPE_PROTO,
}
_ATTRIBUTE_LISTS = {
    "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS,
    "strings": onnx.AttributeProto.STRINGS,
    "tensors": onnx.AttributeProto.TENSORS,
    "graphs": onnx.AttributeProto.GRAPHS,
    "type_protos": onnx.AttributeProto.TYPE_PROTOS,
}


@dataclass
class Checked:
    """What the check found out.

    `attribute_payloads`: whether an attribute holds a payload outside the message; `types`: value infos whose
    type onnx_ir cannot hold (maps, opaque types), with that type. There the proto carries the type in base64,
    in a metadata entry with the payloads' marker as its key, until `restore` is called.
    """

    attribute_payloads: bool = False
    types: list[tuple[onnx.ValueInfoProto, bytes]] = field(default_factory=list)

    def restore(self) -> None:
        """Give the value infos their types back."""
        for info, body in self.types:
            del info.metadata_props[-1]
            info.type.ParseFromString(body)


class GraphCheck:
    """Checks graphs and the nodes of functions; `functions` collects which functions each of them calls."""

    def __init__(self, where: str, payloads: Payloads) -> None:
        self.where = where
        self.payloads = payloads
        self.functions: dict[Key, set[Key]] = {}
        self.found = Checked()

    def error(self, what: str, hint: str | None = None) -> ModelError:
        return ModelError(what, where=self.where, hint=hint)

    def graph(self, graph: onnx.GraphProto, imports: dict[str, int], calls: set[Key], inside: str) -> dict[str, str]:
        """Check one graph; returns the names that must come from outside, with who reads each."""
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            hint = "store it as a dense tensor"
            raise self.error(f"initializer {name!r} is sparse, which is not supported", hint)
        local: dict[str, int] = {}
        self.declare(local, [info.name for info in graph.input], f"graph input{inside}")
        self._initializers(graph, local, inside)
        free = self.nodes(graph.node, local, imports, calls, inside)
        for info in graph.output:
            if info.name in local:
                continue
            if inside:
                hint = "pass values of an outer graph through an Identity node"
                raise self.error(f"the output {info.name!r}{inside} is produced by no node there", hint)
            raise self.error(f"the graph output {info.name!r} is produced by no node")
        for infos in (graph.input, graph.output, graph.value_info):
            self.infos(infos)
        self.require_text(graph.name, f"the graph{inside}")
        self.texts(graph, f"the graph{inside}")
        return free

    def _initializers(self, graph: onnx.GraphProto, local: dict[str, int], inside: str) -> None:
        first: dict[str, int] = {}
        repeated: list[int] = []
        for index, tensor in enumerate(graph.initializer):
            name = tensor.name
            if not name:
                raise self.error(f"initializer #{index}{inside} has no name")
            label = f"initializer {name!r}{inside}"
            self.payloads.check(tensor, label)
            self.texts(tensor, label)
            if name in first:
                if not self.payloads.same(graph.initializer[first[name]], tensor):
                    raise self.error(f"two initializers{inside} are named {name!r} and differ")
                repeated.append(index)
                continue
            first[name] = index
            if name not in local:
                self.declare(local, [name], f"initializer{inside}")
        if repeated:
            drop = set(repeated)
            ranks = iter([index in drop for index in range(len(graph.initializer))])
            graph.initializer.sort(key=lambda _: next(ranks))
            del graph.initializer[-len(drop) :]

    def nodes(
        self,
        nodes: Any,
        local: dict[str, int],
        imports: dict[str, int],
        calls: set[Key],
        inside: str,
    ) -> dict[str, str]:
        listed = list(nodes)
        for index, node in enumerate(listed):
            for name in node.output:
                if name in local:
                    first = local[name]
                    other = _describe(listed[first], first) if first >= 0 else "an input or initializer"
                    raise self._twice(name, f"{other} and {_describe(node, index)}{inside}")
                if type(name) is not str:
                    raise self._not_utf8(f"an output of {_describe(node, index)}")
                if name:
                    local[name] = index
        free: dict[str, str] = {}
        captured: dict[int, list[str]] = {}
        in_order = True
        for index, node in enumerate(listed):
            outer = self._node(node, index, imports, calls, inside)
            if outer:
                captured[index] = list(outer)
            for name in node.input:
                at = local.get(name, -2)
                if at >= index:
                    in_order = False
                elif at == -2 and name and name not in free:
                    free[name] = _describe(node, index) + inside
            for name, reader in outer.items():
                at = local.get(name, -2)
                if at >= index:
                    in_order = False
                elif at == -2:
                    free.setdefault(name, reader)
        if not in_order:
            self._sort(nodes, listed, local, captured, inside)
        return free

    def _sort(
        self,
        nodes: Any,
        listed: list[onnx.NodeProto],
        local: dict[str, int],
        captured: dict[int, list[str]],
        inside: str,
    ) -> None:
        needs = [
            {local.get(name, -1) for name in (*node.input, *captured.get(index, ()))} - {-1}
            for index, node in enumerate(listed)
        ]
        order = stable_order(needs)
        if order is None:
            cycle = [_describe(listed[index], index) for index in find_cycle(needs)]
            shown = cycle if len(cycle) <= 6 else [*cycle[:5], f"{len(cycle) - 5} more"]
            raise self.error(f"the graph{inside} has a cycle: {' -> '.join([*shown, cycle[0]])}")
        rank = dict(zip(order, range(len(order)), strict=True))
        ranks = iter([rank[index] for index in range(len(order))])
        nodes.sort(key=lambda _: next(ranks))  # in place: the messages stay the same objects

    def _node(
        self, node: onnx.NodeProto, index: int, imports: dict[str, int], calls: set[Key], inside: str
    ) -> dict[str, str]:
        op = node.op_type
        if not op:
            raise self.error(f"{_describe(node, index)}{inside} has no operator")
        domain = node.domain
        for text in (op, domain, node.name, node.overload):
            if type(text) is not str:
                raise self._not_utf8(_describe(node, index))
        if domain == "ai.onnx":
            domain = node.domain = ""
        if self.functions and (key := (domain, op, node.overload)) in self.functions:
            calls.add(key)
        elif domain not in imports and domain not in _RUNTIME_DOMAINS:
            label = f"{_describe(node, index)}{inside}"
            raise self.error(
                f"{label} is of the operator set {domain or 'ai.onnx'!r}, which the model does not import",
                "add an opset_import for it",
            )
        if node.metadata_props or node.doc_string:
            self.texts(node, _describe(node, index))
        attributes = node.attribute
        if not attributes:
            return {}
        label = f"{_describe(node, index)}{inside}"
        if len(attributes) > 1 and len({a.name for a in attributes}) != len(attributes):
            raise self.error(f"{label} has two attributes of one name")
        free: dict[str, str] = {}
        for attribute in attributes:
            for name, reader in self.attribute(attribute, label, imports, calls).items():
                free.setdefault(name, reader)
        return free

    def attribute(
        self, attribute: onnx.AttributeProto, owner: str, imports: dict[str, int], calls: set[Key]
    ) -> dict[str, str]:
        for text in (attribute.name, attribute.ref_attr_name, attribute.doc_string):
            self.require_text(text, f"an attribute of {owner}")
        kind: int = attribute.type
        if kind == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            kind = self._attribute_type(attribute, owner)
            attribute.type = cast("Any", kind)
        if kind in _PLAIN:
            return {}
        label = f"attribute {attribute.name!r} of {owner}"
        if attribute.ref_attr_name:
            return {}
        if kind == onnx.AttributeProto.TENSOR:
            if not attribute.HasField("t"):
                raise self.error(f"{label} has no tensor")
            self._attribute_tensors([attribute.t], label)
        elif kind == onnx.AttributeProto.TENSORS:
            self._attribute_tensors(attribute.tensors, label)
        elif kind == onnx.AttributeProto.STRINGS:
            if not all(_is_utf8(text) for text in attribute.strings):
                raise self._not_utf8(label)
        elif kind in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
            raise self.error(f"{label} is sparse, which is not supported", "store it as a dense tensor")
        elif kind in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            return self._bodies(attribute, label, imports, calls)
        return {}

    def _attribute_tensors(self, tensors: Iterable[onnx.TensorProto], label: str) -> None:
        for tensor in tensors:
            self.found.attribute_payloads |= self.payloads.check(tensor, label)
            self.require_text(tensor.name, label)
            self.texts(tensor, label)

    def _bodies(
        self, attribute: onnx.AttributeProto, label: str, imports: dict[str, int], calls: set[Key]
    ) -> dict[str, str]:
        if attribute.type == onnx.AttributeProto.GRAPH and not attribute.HasField("g"):
            raise self.error(f"{label} has no graph")
        free: dict[str, str] = {}
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            free.update(self.graph(graph, imports, calls, f" in {label}"))
        return free

    def _attribute_type(self, attribute: onnx.AttributeProto, owner: str) -> int:
        """The type of an attribute that does not say it, as the first version of the format allowed."""
        found = [kind for field, kind in _ATTRIBUTE_FIELDS.items() if attribute.HasField(field)]
        found += [kind for field, kind in _ATTRIBUTE_LISTS.items() if len(getattr(attribute, field))]
        if len(found) != 1:
            raise self.error(f"attribute {attribute.name!r} of {owner} has no type")
        return found[0]

    def declare(self, local: dict[str, int], names: Iterable[str], what: str) -> None:
        for name in names:
            if not name:
                raise self.error(f"a {what} has no name")
            if name in local:
                raise self._twice(name, f"as a {what}")
            self.require_text(name, what)
            local[name] = -1

    def infos(self, infos: Iterable[onnx.ValueInfoProto]) -> None:
        for info in infos:
            if info.metadata_props or info.doc_string:
                self.texts(info, f"value {info.name!r}")
            self.require_text(info.name, "a value")
            kind = info.type.WhichOneof("value")
            if kind is None:
                continue
            fits = self._tensor_type(info) if kind == "tensor_type" else _survives(info.type)
            if not fits:
                body = info.type.SerializeToString()
                info.ClearField("type")
                text = base64.b64encode(body).decode()
                info.metadata_props.add(key=self.payloads.marker, value=text)
                self.found.types.append((info, body))

    def _tensor_type(self, info: onnx.ValueInfoProto) -> bool:
        """Check a tensor type; False if onnx_ir cannot hold it."""
        tensor = info.type.tensor_type
        if tensor.elem_type not in _ELEMENT_TYPES:
            raise self.error(f"value {info.name!r} has the unknown element type {tensor.elem_type}")
        return tensor.HasField("elem_type") or not tensor.HasField("shape")

    def texts(self, owner: Any, label: str) -> None:
        self.require_text(owner.doc_string, label)
        for entry in owner.metadata_props:
            self.require_text(entry.key, label)
            self.require_text(entry.value, label)

    def require_text(self, text: object, label: str) -> None:
        # protobuf hands out bytes where a string is not UTF-8
        if type(text) is not str:
            raise self._not_utf8(label)

    def _not_utf8(self, label: str) -> ModelError:
        return self.error(f"{label} has text that is not UTF-8")

    def _twice(self, name: str, by: str) -> ModelError:
        return self.error(f"the name {name!r} is defined twice: {by}")

    def dangling(self, name: str, reader: str) -> ModelError:
        hint = "an initializer may be missing, or an input of the graph"
        return self.error(f"{reader} reads {name!r}, which nothing produces", hint)


_PLAIN = frozenset(
    {
        onnx.AttributeProto.INT,
        onnx.AttributeProto.INTS,
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.FLOATS,
        onnx.AttributeProto.STRING,
    }
)
_ELEMENT_TYPES = frozenset(int(dtype) for dtype in ir.DataType)


def _survives(proto: onnx.TypeProto) -> bool:
    """Whether onnx_ir gives this type back as it was."""
    again = onnx.TypeProto()
    try:
        kind = ir.serde.deserialize_type_proto_for_type(proto)
        shape = ir.serde.deserialize_type_proto_for_shape(proto)
        if kind is None:
            return False
        ir.serde.serialize_type_into(again, kind)
        if shape is not None:
            ir.serde.serialize_shape_into(again, shape)
    except (ir.serde.SerdeError, ValueError, TypeError, AttributeError):
        return False
    return again == proto


def plain_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def spell(key: Key) -> str:
    domain, name, overload = key
    return f"{domain or 'ai.onnx'}::{name}" + (f":{overload}" if overload else "")


def _describe(node: onnx.NodeProto, index: int) -> str:
    return f"node {node.name!r} ({node.op_type})" if node.name else f"node #{index} ({node.op_type})"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
