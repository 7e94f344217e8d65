"""Protos to ONNX text. What the syntax has no words for is written in the nearest words that it has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from graphopt.ir.literals import DTYPES, NAMES, explained, is_coded, number, spelled

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z")
_RESERVED = frozenset({*DTYPES, "seq", "map", "optional", "sparse_tensor", "opaque", "inf", "infinity", "nan"})
_MISTAKEN = re.compile(rf"({'|'.join(sorted(_RESERVED))})(?![A-Za-z0-9])", re.IGNORECASE)
"""What would be taken for a type or a number where the name of a body may stand."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
_WIDTH = 90
_A = onnx.AttributeProto
_STEP = "   "


class Printer:
    """Writes a model. Of tensors with more than `limit` elements only the shape; None for no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.elided = 0

    def is_elided(self, tensor: onnx.TensorProto) -> bool:
        """Whether the text leaves the numbers out: there are too many, or they are not at hand."""
        size = math.prod(tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return False
        return size > 0 and ((self._limit is not None and size > self._limit) or not _has_data(tensor))

    def model(self, model: onnx.ModelProto) -> str:
        fields = [f"ir_version: {model.ir_version}", f"opset_import: {_opsets(model.opset_import)}"]
        fields += [
            f"{field}: {quoted(getattr(model, field))}"
            for field in ("producer_name", "producer_version", "domain", "doc_string")
            if getattr(model, field)
        ]
        if model.model_version:
            fields.append(f"model_version: {model.model_version}")
        if model.metadata_props:
            entries = ", ".join(f"{quoted(e.key)}: {quoted(e.value)}" for e in model.metadata_props)
            fields.append(f"metadata_props: [{entries}]")
        parts = [f"<{', '.join(fields)}>", "\n".join(self.graph(model.graph))]
        parts += ["\n".join(self._function(function)) for function in model.functions]
        return "\n".join(parts) + "\n"

    # -- graphs ---------------------------------------------------------------------------------

    def graph(self, graph: onnx.GraphProto, indent: str = "") -> list[str]:
        """Lines; the first without indent."""
        nested = bool(indent)
        inputs = ", ".join(map(_value, graph.input))
        outputs = ", ".join(map(_value, graph.output))
        lines = [f"{_word(graph.name, 'body') if nested else _name(graph.name)} ({inputs}) => ({outputs})"]
        entries = [self.initializer(tensor) for tensor in graph.initializer]
        entries += [(_value(value), "") for value in graph.value_info]
        lines += _listed(entries, indent + _STEP)
        return [*lines, *self._body(graph.node, indent)]

    def _body(self, nodes: Iterable[onnx.NodeProto], indent: str) -> Iterator[str]:
        yield f"{indent}{{"
        for node in nodes:
            yield from self._node(node, indent + _STEP)
        yield f"{indent}}}"

    def initializer(self, tensor: onnx.TensorProto) -> tuple[str, str]:
        """`float[2] w = {1, 2}`, and a comment."""
        text, comment = self._tensor(tensor)
        head = text[: text.index(" ")]
        return f"{head} {_name(tensor.name)} = {text[len(head) + 1 :]}", comment

    def _function(self, function: onnx.FunctionProto) -> Iterator[str]:
        fields = [f"{f}: {quoted(getattr(function, f))}" for f in ("domain", "overload", "doc_string")
                  if getattr(function, f) or f == "domain"]
        yield f"<{', '.join([*fields, f'opset_import: {_opsets(function.opset_import)}'])}>"
        parameters = [_name(name) for name in function.attribute]
        parameters += [self._attribute(attribute, _STEP)[0] for attribute in function.attribute_proto]
        given = f" <{', '.join(parameters)}>" if parameters else ""
        ports = [", ".join(map(_name, names)) for names in (function.input, function.output)]
        yield f"{_name(function.name)}{given} ({ports[0]}) => ({ports[1]})"
        yield from _listed([(_value(value), "") for value in function.value_info], _STEP)
        yield from self._body(function.node, "")

    def _node(self, node: onnx.NodeProto, indent: str) -> Iterator[str]:
        head = f"[{_name(node.name)}] " if node.name else ""
        head += f"{', '.join(map(_name, node.output))} = " if node.output else "= "
        words = [_word(word, "x") for word in (node.domain.split(".") if node.domain else [])]
        head += ".".join([*words, _word(node.op_type, "Op")])
        if node.overload:
            head += f":{_word(node.overload, 'x')}"
        pieces, comments = [], []
        for attribute in node.attribute:
            text, comment = self._attribute(attribute, indent + _STEP)
            pieces.append(text)
            comments += [comment] if comment else []
        inputs = f" ({', '.join(map(_name, node.input))})"
        if any(a.HasField("g") for a in node.attribute):
            between = f",\n{indent}{_STEP}"
            yield from f"{indent}{head}{inputs} <\n{indent}{_STEP}{between.join(pieces)}\n{indent}>".split("\n")
            return
        given = f" <{', '.join(pieces)}>" if pieces else ""
        note = f"  # {'; '.join(comments)}" if comments else ""
        yield f"{indent}{head}{given}{inputs}{note}"

    # -- attributes and tensors -----------------------------------------------------------------

    def _attribute(self, attribute: onnx.AttributeProto, indent: str) -> tuple[str, str]:
        """The text of an attribute, and a comment for the end of its line."""
        name, kind = _word(attribute.name, "attribute"), attribute.type
        typed = f"{name}: {_A.AttributeType.Name(kind).lower()} =" if kind else f"{name} ="
        if attribute.ref_attr_name:
            return f"{typed} @{_name(attribute.ref_attr_name)}", ""
        if kind == _A.INT:
            return f"{name} = {attribute.i}", ""
        if kind == _A.FLOAT:
            return f"{name} = {_pointed(attribute.f)}", ""
        if kind == _A.STRING:
            return f"{name} = {quoted(_decoded(attribute.s))}", ""
        if kind == _A.TENSOR:
            text, comment = self._tensor(attribute.t)
            head = text[: text.index(" ")]
            called = f" {attribute.t.name}" if _is_word(attribute.t.name) else ""
            called += " =" if attribute.t.data_location == onnx.TensorProto.EXTERNAL else ""
            return f"{name} = {head}{called} {text[len(head) + 1 :]}", comment
        if kind == _A.GRAPH:
            return f"{name} = " + "\n".join(self.graph(attribute.g, indent)), ""
        if kind == _A.TYPE_PROTO and (said := _type(attribute.tp)):
            return f"{name} = {said}", ""
        if kind not in _LISTS:  # what has no words is a list of nothing in the text
            return f"{name}: ints = []", ""
        items = self._items(attribute)
        return (f"{name} = [{', '.join(items)}]" if items else f"{typed} []"), ""

    def _items(self, attribute: onnx.AttributeProto) -> list[str]:
        kind = attribute.type
        if kind == _A.INTS:
            return [str(i) for i in attribute.ints]
        if kind == _A.FLOATS:
            return [_pointed(f) for f in attribute.floats]
        if kind == _A.STRINGS:
            return [quoted(_decoded(s)) for s in attribute.strings]
        return []

    def _tensor(self, tensor: onnx.TensorProto) -> tuple[str, str]:
        """`float[2] {1, 2}`, and a comment."""
        head = NAMES.get(tensor.data_type, "float") + _dims(tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = ", ".join(f"{quoted(e.key)}: {quoted(e.value)}" for e in tensor.external_data)
            return f"{head} [{entries}]", ""
        if self.is_elided(tensor):
            self.elided += 1
            return f"{head} {{...}}", f"{math.prod(tensor.dims)} numbers that are not shown"
        if tensor.data_type == onnx.TensorProto.STRING:
            return f"{head} {{{', '.join(quoted(_decoded(s)) for s in tensor.string_data)}}}", ""
        if tensor.data_type not in NAMES:
            return "float[0] {}", ""
        comment = explained(tensor) if is_coded(tensor.data_type) and math.prod(tensor.dims) else ""
        return f"{head} {{{_wrapped(spelled(tensor))}}}", comment


_LISTS = (_A.INTS, _A.FLOATS, _A.STRINGS, _A.TENSORS, _A.GRAPHS, _A.TYPE_PROTOS)


def _has_data(tensor: onnx.TensorProto) -> bool:
    return any(
        len(getattr(tensor, field))
        for field in (
            "raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"
        )
    )


def _listed(entries: list[tuple[str, str]], indent: str) -> Iterator[str]:
    """Initializers and types between angle brackets, one to a line."""
    last = len(entries) - 1
    for i, (text, comment) in enumerate(entries):
        opening, closing = "<" if i == 0 else " ", ">" if i == last else ","
        yield f"{indent}{opening}{text}{closing}" + (f"  # {comment}" if comment else "")


def _wrapped(items: list[str]) -> str:
    """Separated by commas, in lines of a bearable length."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) > _WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += f"{item}, "
    return "\n      ".join([*lines, line]).removesuffix(", ")


def quoted(text: str) -> str:
    """In double quotes; a line break becomes a space, for it would tear the line apart."""
    plain = _CONTROL.sub(" ", text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _is_word(text: str) -> bool:
    return bool(_IDENTIFIER.match(text)) and text.lower() not in _RESERVED


def _name(text: str) -> str:
    """A name; in quotes if it is no identifier, or if it means something else."""
    return text if _is_word(text) else quoted(text)


def _word(text: str, otherwise: str) -> str:
    """An identifier where the syntax allows no quotes."""
    body = otherwise == "body"
    if _IDENTIFIER.match(text) and not (body and _MISTAKEN.match(text)):
        return text
    made = re.sub(r"[^A-Za-z0-9_]", "_", text) or otherwise
    return made if _IDENTIFIER.match(made) and not (body and _MISTAKEN.match(made)) else f"_{made}"


def _value(value: onnx.ValueInfoProto) -> str:
    said = _type(value.type) if value.HasField("type") else ""
    return f"{said} {_name(value.name)}" if said else _name(value.name)


def _type(kind: onnx.TypeProto) -> str:
    """A type; empty for one that the syntax has no words for."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return _sized(kind.tensor_type)
    if which == "sparse_tensor_type":
        inner = _sized(kind.sparse_tensor_type)
        return f"sparse_tensor({inner})" if inner else ""
    if which in ("sequence_type", "optional_type"):
        inner = _type(getattr(kind, which).elem_type)
        return f"{'seq' if which == 'sequence_type' else 'optional'}({inner})" if inner else ""
    if which == "map_type":
        key, inner = NAMES.get(kind.map_type.key_type), _type(kind.map_type.value_type)
        return f"map({key}, {inner})" if key and inner else ""
    return ""


def _sized(tensor: onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor) -> str:
    name = NAMES.get(tensor.elem_type)
    if name is None:
        return ""
    if not tensor.HasField("shape"):
        return f"{name}[]"
    sizes: list[str] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        sizes.append("?" if which is None else str(dim.dim_value) if which == "dim_value" else _name(dim.dim_param))
    return f"{name}[{','.join(sizes)}]" if sizes else str(name)


def _dims(dims: Iterable[int]) -> str:
    text = ",".join(map(str, dims))
    return f"[{text}]" if text else ""


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> str:
    return "[" + ", ".join(f"{quoted(o.domain)} : {o.version}" for o in imports) + "]"


def _pointed(x: float) -> str:
    """A float attribute: with a point or an exponent, or else it would be an integer."""
    text = number(np.float32(x))
    return f"{text}.0" if text.lstrip("-").isdigit() else text
