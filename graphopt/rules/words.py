"""A mismatch in plain words: what stands where, and what the pattern wants there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.ir.value import Node
from graphopt.rules.expr import Literal, OpExpr, Out, Var

_FEW = 4  # elements of a constant that are written out
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}

Place = tuple[oir.Node, int]


@dataclass(frozen=True)
class Mismatch:
    """What did not fit. `place`: the node and the operand that `value` is, None at a root.

    `wanted`: the kind of mismatch and its detail, as `closures` notes them; one for each alternative there. `other`:
    the other operand of a commutative operator, if that is not what is wanted either.
    """

    value: oir.Value | None
    place: Place | None
    wanted: tuple[tuple[str, Any], ...]
    other: Place | None = None


class Words:
    """Says what does not fit. Without `names`, nodes go by their operators, so that what is alike reads alike."""

    def __init__(self, model: Model, *, names: bool = True) -> None:
        self._model = model
        self._facts = model.facts
        self._names = names
        self._about_nodes: dict[str, Callable[[oir.Value | None, Any], str]] = {
            "arity": self._arity,
            "attribute": self._attribute,
            "function": self._function,
            "output": self._output,
            "parameter": self._parameter,
            "steps": self._steps,
            "unmentioned": self._unmentioned,
        }

    def sentence(self, mismatch: Mismatch) -> str:
        """Such as `operand 1 of /block3/Mul is 0.044715, expected 0.5`."""
        value = mismatch.value
        kind, detail = mismatch.wanted[0]
        if kind in self._about_nodes:
            return self._about_nodes[kind](value, detail)
        if mismatch.place is not None and mismatch.other is not None:
            return self._neither(mismatch.place[0], sorted([mismatch.place[1], mismatch.other[1]]), mismatch.wanted)
        subject = self._subject(mismatch)
        if kind == "index":
            assert value is not None
            node = value.producer()
            assert node is not None
            return f"{subject} is output {value.index()} of {self.node(node)}, expected output {detail}"
        if kind == "scope":
            return f"{subject} {self.found(value)} outside of the graph that it is in"
        if kind == "taken":
            return f"{subject} {self.found(value)}, which another part of the pattern has matched already"
        return f"{subject} {self.found(value)}, expected {self._alternatives(mismatch.wanted, value)}"

    def node(self, node: oir.Node) -> str:
        """A node's name; an unnamed one's operator and first output."""
        return Node(self._model, node).name if self._names else node.op_type

    def found(self, value: oir.Value | None) -> str:
        """`is 0.5`, `comes from Tanh (/y/Tanh)`, `is the graph input 'x'`, `is left out`."""
        if value is None:
            return "is left out"
        if self._facts.const(value) is not None:
            return f"is {self._constant(value)}"
        node = value.producer()
        if node is not None:
            name = f" ({node.name})" if node.name else f" of {value.name!r}"
            return f"comes from {operator(node.domain, node.op_type)}{name if self._names else ''}"
        name = f" {value.name!r}" if self._names else ""
        if value.is_initializer():
            return f"is the initializer{name}, which a caller may override"
        return f"is the input{name} of the {'model' if value.graph is self._model.ir.graph else 'inner graph'}"

    # -- operands --------------------------------------------------------------------------------------

    def _subject(self, mismatch: Mismatch) -> str:
        if mismatch.place is None:
            return "the result" if mismatch.value is None or not self._names else f"{mismatch.value.name!r}"
        node, index = mismatch.place
        return f"operand {index} of {self.node(node)}"

    def _neither(self, node: oir.Node, places: Sequence[int], wanted: Sequence[tuple[str, Any]]) -> str:
        (i, first), (j, second) = ((i, node.inputs[i]) for i in places)
        text = f"operand {i} of {self.node(node)} {self.found(first)} and operand {j} {self.found(second)}"
        return f"{text}, expected one of them to be {self._alternatives(wanted, first)}"

    def _alternatives(self, wanted: Sequence[tuple[str, Any]], value: oir.Value | None) -> str:
        return any_of(dict.fromkeys(self._wanted(k, d, value) for k, d in wanted if k in _OF_OPERANDS))

    def _constant(self, value: oir.Value) -> str:
        """The numbers of a small constant, or the one number that fills it, with its type where there are more."""
        tensor = self._facts.const(value)
        assert tensor is not None
        shape = tuple(tensor.shape.numpy())
        if 0 < math.prod(shape) <= _FEW and len(shape) <= 1 and tensor.dtype != oir.DataType.STRING:
            array = np.asarray(self._facts.array(value)).reshape(-1)
            return number(array[0]) if array.size == 1 else f"[{', '.join(map(number, array))}]"
        splat = self._facts.splat(value)
        if splat is not None:
            return f"{number(splat)} ({typed(tensor)})"
        return f"the constant {value.name!r} ({typed(tensor)})" if self._names else f"a constant {typed(tensor)}"

    def _wanted(self, kind: str, detail: Any, value: oir.Value | None) -> str:
        if kind == "literal":
            return _literal(detail, None if value is None else self._facts.dtype(value))
        if kind == "rebound":
            label, bound = detail
            return f"{label}, which {self.found(bound)}"
        if kind == "shared":
            return f"{self.node(detail)}, as elsewhere in the pattern"
        if kind == "present":
            return "none"
        if isinstance(detail, OpExpr):
            return any_of(operator(detail.domain, name) for name in detail.ops)
        return "a constant" if isinstance(detail, Var) and detail.const else "a tensor"

    # -- nodes as a whole ------------------------------------------------------------------------------

    def _arity(self, value: oir.Value | None, detail: tuple[oir.Node, int]) -> str:
        node, count = detail
        given = max((i + 1 for i, v in enumerate(node.inputs) if v is not None), default=0)
        least = "at least " if value is None else ""  # only `many` has no value to show
        return f"{self.node(node)} has {_count(given, 'operand')}, expected {least}{count}"

    def _function(self, _: oir.Value | None, node: oir.Node) -> str:
        if node.op_identifier() in self._model.ir.functions:
            return f"{self.node(node)} calls a function of the model named {node.op_type}, and is not the operator"
        prefix = f"{node.name or node.op_type}: "
        for problem in self._facts.problems:
            if problem.startswith(prefix):
                return f"{self.node(node)} is not valid: {problem.removeprefix(prefix)}"
        return f"{self.node(node)} is no valid {node.op_type} at opset {self._facts.opset(node.domain, node)}"

    def _attribute(self, _: oir.Value | None, detail: tuple[oir.Node, str, Any, Any]) -> str:
        node, name, got, expected = detail
        stands = "is not set" if got is None else f"is {attribute(got)}"
        return f"{self.node(node)}: {name} {stands}, expected {'none' if expected is None else attribute(expected)}"

    def _unmentioned(self, _: oir.Value | None, detail: tuple[oir.Node, str, Any, Any]) -> str:
        node, name, got, default = detail
        if got is None:
            return f"attribute {name} of {self.node(node)} is a parameter of the function that it is in"
        rest = "has no default" if default is None else f"not the default {attribute(default)}"
        of = f"of {self.node(node)} is not mentioned by the pattern"
        return f"attribute {name} = {attribute(got)} {of}, and {rest}"

    def _parameter(self, _: oir.Value | None, detail: tuple[oir.Node, str]) -> str:
        node, name = detail
        return f"attribute {name} of {self.node(node)} is a parameter of the function that it is in"

    def _steps(self, _: oir.Value | None, node: oir.Node) -> str:
        return f"the search was given up at {self.node(node)}, for there are too many ways to match"

    def _output(self, value: oir.Value | None, x: Out) -> str:
        names = any_of(operator(x.node.domain, name) for name in x.node.ops)
        if value is None:
            return f"{names} has no output {x.index}"
        subject = repr(value.name) if self._names else "a value"
        return f"{subject} {self.found(value)}, and nothing that reads it leads to the pattern's further {names}"


_OF_OPERANDS = frozenset({"absent", "computed", "literal", "operator", "present", "rebound", "shared"})


def any_of(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def operator(domain: str, name: str) -> str:
    """An operator's name, with its domain unless it is ONNX's own."""
    return f"{domain}.{name}" if domain else name


def typed(tensor: oir.TensorProtocol) -> str:
    """`float32[768, 64]`."""
    kind = tensor.dtype.name
    return f"{_DTYPES.get(kind, kind.lower())}[{', '.join(map(str, tensor.shape.numpy()))}]"


def number(x: Any) -> str:
    """The shortest text that tells it from every other number of its type."""
    return str(x.item()) if np.asarray(x).dtype.kind in "biu" else str(x)


def attribute(value: Any) -> str:
    """An attribute's value; of a tensor its type."""
    if isinstance(value, oir.TensorProtocol):
        return typed(value)
    if isinstance(value, oir.Graph):
        return "a graph"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"[{', '.join(map(attribute, value))}]"
    return str(np.float32(value)) if isinstance(value, float) else repr(value)


def _literal(x: Literal, dtype: oir.DataType | None) -> str:
    """A number of a rule as it would be in a constant of `dtype`, so that it looks like what it is compared with."""
    content = x.content
    if x.rtol is not None:
        return f"{content:g} within {100 * x.rtol:g} %"
    if isinstance(content, bool) or not isinstance(content, int | float):
        return str(np.asarray(content).tolist())
    floating = dtype is not None and dtype.is_floating_point()
    if not floating and isinstance(content, int):
        return str(content)
    with np.errstate(all="ignore"):
        kind = dtype.numpy() if dtype is not None and floating else np.dtype(np.float32)
        return number(np.asarray(content).astype(kind)[()])


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
