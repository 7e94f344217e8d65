"""ONNX text to protos: the syntax of `onnx.parser`, and a little more.

Read here and not by onnx's own parser, because that differs between the versions that we run with, drops what it
does not know (lists of tensors), ends the process for what is nested deep enough, and takes half-precision
numbers as bit patterns alone. More than its syntax: `float16 {0.5}` (numbers with a point or an exponent; plain
integers are bit patterns there), `int4[3] {1, 2, 3}` (one per element; packed bytes as well), lists of tensors,
types and graphs as attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from graphopt.ir.literals import DTYPES, as_float, tensor_of
from graphopt.ir.tokens import Token, Tokens

_MOST_NESTED = 60  # graphs in attributes in graphs; beyond, what reads the proto ends the process
_KINDS = {name.lower(): value for name, value in onnx.AttributeProto.AttributeType.items()}
_KINDS["type_proto"], _KINDS["type_protos"] = onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.TYPE_PROTOS
_A = onnx.AttributeProto
_LISTS = {
    _A.INT: (_A.INTS, "ints"), _A.FLOAT: (_A.FLOATS, "floats"), _A.STRING: (_A.STRINGS, "strings"),
    _A.TENSOR: (_A.TENSORS, "tensors"), _A.GRAPH: (_A.GRAPHS, "graphs"),
    _A.TYPE_PROTO: (_A.TYPE_PROTOS, "type_protos"),
}  # fmt: skip
_ELEMENT = {listed: single for single, (listed, _) in _LISTS.items()}
_OTHER_TYPES = ("seq", "map", "optional", "sparse_tensor")


def parse_model(tokens: Tokens, *, gaps: bool = False) -> onnx.ModelProto:
    """The model that is written there. Raises `ModelError` with the line of what cannot be read.

    `gaps`: take constants of which the numbers are left out, without their content.
    """
    return _Parser(tokens, gaps).model()


def parse_tensor(tokens: Tokens) -> onnx.TensorProto:
    """One tensor with its name, as among a graph's initializers: `float[2] w = {1, 2}`."""
    return _Parser(tokens, gaps=False).named_tensor()


class _Parser:
    def __init__(self, tokens: Tokens, gaps: bool) -> None:
        self.t = tokens
        self._gaps = gaps
        self._depth = 0

    def model(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        self._header(model, {
            "ir_version": int, "opset_import": dict, "producer_name": str, "producer_version": str, "domain": str,
            "model_version": int, "doc_string": str, "metadata_props": list,
        })  # fmt: skip
        self.graph(model.graph)
        while self.t.peek().kind != "end":
            self.function(model.functions.add())
        return model

    def named_tensor(self) -> onnx.TensorProto:
        kind = self.type()
        token = self.t.peek()
        name = self.t.name()
        self.t.expect("=")
        tensor = self._tensor(kind, name, token)
        if self.t.peek().kind != "end":
            raise self.t.error("expected nothing more")
        return tensor

    def _header(self, out: Any, fields: dict[str, type]) -> None:
        if not self.t.accept("<"):
            return
        while True:
            token = self.t.peek()
            field = self.t.identifier("a field of the header")
            if field not in fields:
                raise self.t.error(f"there is no field {field!r}", token, hint=f"known: {', '.join(sorted(fields))}")
            self.t.expect(":")
            if fields[field] is int:
                setattr(out, field, self.t.integer())
            elif fields[field] is str:
                setattr(out, field, self.t.string())
            elif fields[field] is dict:
                self._pairs(lambda: out.opset_import.add(domain=self.t.string(), version=self._after_colon()))
            else:
                self._pairs(lambda: out.metadata_props.add(key=self.t.string(), value=self._text_after_colon()))
            if not self.t.accept(","):
                break
        self.t.expect(">")

    def _after_colon(self) -> int:
        self.t.expect(":")
        return self.t.integer()

    def _text_after_colon(self) -> str:
        self.t.expect(":")
        return self.t.string()

    def _pairs(self, one: Callable[[], object]) -> None:
        self.t.expect("[")
        self._separated("]", one)

    def _separated(self, close: str, one: Callable[[], object]) -> None:
        """Items separated by commas, up to and with the closing mark."""
        if self.t.accept(close):
            return
        one()
        while self.t.accept(","):
            one()
        self.t.expect(close)

    # -- graphs ---------------------------------------------------------------------------------

    def graph(self, out: onnx.GraphProto) -> None:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise self.t.error(f"graphs are nested more than {_MOST_NESTED} deep")
        out.name = self.t.name("the name of a graph")
        if self.t.accept("("):
            self._separated(")", lambda: self._input(out))
        self.t.expect("=>")
        self.t.expect("(")
        self._separated(")", lambda: self._value(out.output.add()))
        if self.t.accept("<"):
            self._separated(">", lambda: self._value_or_initializer(out))
        self._body(out)
        self._depth -= 1

    def _body(self, out: onnx.GraphProto | onnx.FunctionProto) -> None:
        self.t.expect("{")
        while not self.t.accept("}"):
            self.node(out.node.add())

    def _value(self, out: onnx.ValueInfoProto) -> None:
        if self._at_type():
            out.type.CopyFrom(self.type())
        out.name = self.t.name()

    def _input(self, graph: onnx.GraphProto) -> None:
        value = graph.input.add()
        token = self.t.peek()
        self._value(value)
        if self.t.accept("="):
            graph.initializer.append(self._tensor(value.type, value.name, token))

    def _value_or_initializer(self, graph: onnx.GraphProto) -> None:
        value = onnx.ValueInfoProto()
        token = self.t.peek()
        self._value(value)
        if self.t.accept("="):
            graph.initializer.append(self._tensor(value.type, value.name, token))
        else:
            graph.value_info.append(value)

    def function(self, out: onnx.FunctionProto) -> None:
        self._header(out, {"opset_import": dict, "domain": str, "overload": str, "doc_string": str})
        out.name = self.t.name("the name of a function")
        if self.t.accept("<"):
            self._separated(">", lambda: self._parameter(out))
        for names in (out.input, out.output):
            self.t.expect("(")
            self._separated(")", lambda names=names: self._port(out, names))  # type: ignore[misc]
            if names is out.input:
                self.t.expect("=>")
        if self.t.accept("<"):
            self._separated(">", lambda: self._value(out.value_info.add()))
        self._body(out)

    def _parameter(self, out: onnx.FunctionProto) -> None:
        name = self.t.name("an attribute")
        if self.t.at(":", "="):
            self._attribute_value(out.attribute_proto.add(name=name))
        else:
            out.attribute.append(name)

    def _port(self, out: onnx.FunctionProto, names: Any) -> None:
        value = onnx.ValueInfoProto()
        self._value(value)
        names.append(value.name)
        if value.HasField("type"):
            out.value_info.append(value)

    def node(self, out: onnx.NodeProto) -> None:
        if self.t.accept("["):
            if not self.t.at("]"):
                out.name = self.t.name("the name of a node")
            self.t.expect("]")
        out.output.extend(self._names("="))
        words = [self.t.identifier("an operator")]
        while self.t.accept("."):
            words.append(self.t.identifier("an operator"))
        out.op_type = words.pop()
        if words:
            out.domain = ".".join(words)
        if self.t.accept(":"):
            out.overload = self.t.identifier("an overload")
        self._attributes(out)
        self.t.expect("(")
        out.input.extend(self._names(")"))
        if not out.attribute:
            self._attributes(out)

    def _names(self, close: str) -> list[str]:
        """Names up to a mark; one that is left out before a comma is empty."""
        found: list[str] = []
        while not self.t.accept(close):
            found.append("" if self.t.at(",") else self.t.name("the name of a value"))
            if not self.t.accept(","):
                self.t.expect(close)
                break
        return found

    # -- attributes -----------------------------------------------------------------------------

    def _attributes(self, out: onnx.NodeProto) -> None:
        if self.t.accept("<"):
            self._separated(
                ">", lambda: self._attribute_value(out.attribute.add(name=self.t.identifier("an attribute")))
            )

    def _attribute_value(self, out: onnx.AttributeProto) -> None:
        wanted = None
        if self.t.accept(":"):
            token = self.t.peek()
            word = self.t.identifier("the type of an attribute")
            wanted = _KINDS.get(word)
            if not wanted:
                raise self.t.error(f"there is no attribute type {word!r}", token, hint=f"known: {', '.join(_KINDS)}")
        self.t.expect("=")
        token = self.t.peek()
        if self.t.accept("@"):
            out.ref_attr_name = self.t.name("an attribute of the function")
            if wanted:
                out.type = wanted
            return
        if not self.t.accept("["):
            self._single(out, wanted)
            if wanted and out.type != wanted:
                raise self.t.error(f"{out.name} is no {_A.AttributeType.Name(wanted).lower()}", token)
            return
        items: list[onnx.AttributeProto] = []
        element = _ELEMENT.get(wanted) if wanted else None
        if wanted and element is None:
            raise self.t.error(f"{out.name} is one value, not a list", token)
        self._separated("]", lambda: items.append(self._item(element or (items[0].type if items else None))))
        kind = element or (items[0].type if items else None)
        if kind is None:
            raise self.t.error("an empty list does not tell its type", token, hint=f"write {out.name}: ints = []")
        out.type, field = _LISTS[kind]
        single = {_A.INT: "i", _A.FLOAT: "f", _A.STRING: "s", _A.TENSOR: "t", _A.GRAPH: "g", _A.TYPE_PROTO: "tp"}[kind]
        getattr(out, field).extend(getattr(item, single) for item in items)

    def _item(self, kind: Any) -> onnx.AttributeProto:
        item = onnx.AttributeProto()
        token = self.t.peek()
        self._single(item, kind)
        if kind and item.type != kind:
            hint = "write 1.0 for a number that is no integer"
            raise self.t.error("a list holds values of one type", token, hint=hint)
        return item

    def _single(self, out: onnx.AttributeProto, wanted: Any) -> None:
        token = self.t.peek()
        if token.kind == "string":
            out.type, out.s = _A.STRING, self.t.take().text.encode()
        elif token.kind == "number" and not (token.text.isalpha() and self.t.peek(1).text in ("(", "=>")):
            if wanted == _A.FLOAT or not token.text.lstrip("-").isdigit():
                out.type, out.f = _A.FLOAT, self._float(self.t.take())
            else:
                out.type, out.i = _A.INT, self.t.integer()
        elif self._at_type():
            kind = self.type()
            if self.t.at("{", "=") or self.t.peek().kind == "name":
                name = "" if self.t.at("{", "=") else self.t.name()
                self.t.accept("=")
                out.type = _A.TENSOR
                out.t.CopyFrom(self._tensor(kind, name, token))
            else:
                out.type = _A.TYPE_PROTO
                out.tp.CopyFrom(kind)
        elif token.kind in ("name", "number"):
            out.type = _A.GRAPH
            self.graph(out.g)
        else:
            raise self.t.error(f"expected a value, found {token.text!r}")

    def _float(self, token: Token) -> float:
        return as_float(self.t, token, np.float32)

    # -- types and tensors ----------------------------------------------------------------------

    def _at_type(self) -> bool:
        token = self.t.peek()
        return token.kind == "name" and (token.text in DTYPES or token.text in _OTHER_TYPES)

    def type(self) -> onnx.TypeProto:
        """`float` is a scalar, `float[]` of unknown rank, `float[2, N, ?]` of rank three."""
        kind = onnx.TypeProto()
        token = self.t.peek()
        word = self.t.identifier("a type")
        if word in DTYPES:
            self._sizes(kind.tensor_type, word)
            return kind
        if word not in _OTHER_TYPES:
            raise self.t.error(f"there is no type {word!r}", token)
        self.t.expect("(")
        if word == "seq":
            kind.sequence_type.elem_type.CopyFrom(self.type())
        elif word == "optional":
            kind.optional_type.elem_type.CopyFrom(self.type())
        elif word == "sparse_tensor":
            self._sizes(kind.sparse_tensor_type, self._dtype())
        else:
            kind.map_type.key_type = DTYPES[self._dtype()]
            self.t.expect(",")
            kind.map_type.value_type.CopyFrom(self.type())
        self.t.expect(")")
        return kind

    def _dtype(self) -> str:
        token = self.t.peek()
        word = self.t.identifier("an element type")
        if word not in DTYPES:
            raise self.t.error(f"there is no element type {word!r}", token)
        return word

    def _sizes(self, out: Any, word: str) -> None:
        out.elem_type = DTYPES[word]
        if not self.t.accept("["):
            out.shape.SetInParent()
        elif not self.t.accept("]"):
            self._separated("]", lambda: self._size(out.shape.dim.add()))

    def _size(self, out: onnx.TensorShapeProto.Dimension) -> None:
        if self.t.accept("?"):
            return
        token = self.t.peek()
        if token.kind == "number" and not token.text.isalpha():
            out.dim_value = self.t.integer()
        else:
            out.dim_param = self.t.name("a size")

    def _tensor(self, kind: onnx.TypeProto, name: str, at: Token) -> onnx.TensorProto:
        tensor = kind.tensor_type
        if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
            raise self.t.error(f"the constant {name!r} has no shape", at, hint="write float[2]; float is a scalar")
        if not all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim):
            raise self.t.error(f"the shape of the constant {name!r} is not made of numbers", at)
        dims = [d.dim_value for d in tensor.shape.dim]
        if self.t.accept("["):
            out = onnx.TensorProto(name=name or None, data_type=tensor.elem_type, dims=dims)
            out.data_location = onnx.TensorProto.EXTERNAL
            self._separated("]", lambda: out.external_data.add(key=self.t.string(), value=self._text_after_colon()))
            return out
        self.t.expect("{")
        if self._gaps and self.t.accept("..."):
            self.t.expect("}")
            return onnx.TensorProto(name=name or None, data_type=tensor.elem_type, dims=dims)
        items: list[Token] = []
        self._separated("}", lambda: items.append(self._number(name)))
        return tensor_of(self.t, name, tensor.elem_type, dims, items, at)

    def _number(self, name: str) -> Token:
        if self.t.at("...", "…"):
            raise self.t.error(
                f"the numbers of {name!r} are left out of this text",
                hint="a text is a whole model only if it was written with all of them",
            )
        if self.t.peek().kind not in ("number", "string"):
            raise self.t.error(f"expected a number, found {self.t.peek().text!r}")
        return self.t.take()
