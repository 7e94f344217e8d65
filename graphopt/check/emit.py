"""From a tree to nodes: operators are written one by one, each from shapes of operands that fit it.

The plan of an operator (`graphopt.check.operators`) asks for its operands in an order of its choice, and
says what shape or content it wants. A leaf then gets what it is asked for; an operator passes on what it can,
and the plan takes what it gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from graphopt.check.attributes import attribute_proto
from graphopt.check.call import Call
from graphopt.check.choose import Leaf, Number, Operand, Port, Rejected, Step, Tree
from graphopt.check.contents import Array, Kind, Numbers, near
from graphopt.check.dtypes import FLOATS, Types, numpy_dtype
from graphopt.check.operators import plan_for
from graphopt.check.placement import Places
from graphopt.check.sizes import Shape, Sizes, broadcast, literal_form, relabel, scalar_form, variation
from graphopt.check.values import ANYTHING, Value, Want
from graphopt.rules.rule import Rule

_STRAYING, _STRAY = 0.3, 0.4  # share of samples, and of their leaves, that do not follow a hint for a shape
_MISSING, _NEAR = 0.12, 0.35  # share of samples, and of their numbers, that are close to what the rule says
_STRANGE = 0.15  # share of samples with attributes that the pattern does not mention
_FURTHER = 0.06  # of nodes that could have a further output have it
_MOST_ELEMENTS = 1 << 14
_SMALL = 64

_FURTHER_OUTPUTS = frozenset({"Dropout", "MaxPool", "LayerNormalization"})


@dataclass
class Streams:
    """Independent sources of chance, so that leaving a feature out changes little else."""

    shapes: Random
    attributes: Random
    oddities: Random


class Emitter:
    """Writes the nodes of one tree into their `places`; `vary`: with oddities."""

    def __init__(
        self, rule: Rule[Any], tree: Tree, types: Types, streams: Streams, numbers: Numbers, places: Places,
        *, vary: bool,
    ) -> None:  # fmt: skip
        self.rule, self.opset, self.types = rule, tree.opset, types
        self.rng, self.attr_rng, self.odd_rng = streams.shapes, streams.attributes, streams.oddities
        self.numbers, self.vary = numbers, vary
        self.sizes = Sizes(streams.shapes, rule.shapes, vary)
        self.nodes: list[onnx.NodeProto] = []
        self.extra: list[Value] = []  # further outputs, which the pattern does not know
        self.captured: dict[str, Any] = {}
        self.axes: list[tuple[int, ...]] = []  # that were drawn, for operators that follow to draw them again
        self.perms: list[tuple[int, ...]] = []
        self._places = places
        self._values: dict[Operand, Value] = {}
        self._kinds = _kinds(tree, types)
        chances = [self.odd_rng.random() for _ in range(3)]
        self._strays, self._misses = vary and chances[0] < _STRAYING, vary and chances[1] < _MISSING
        self.strange = vary and chances[2] < _STRANGE

    def known(self, operand: Operand | None) -> Value | None:
        """The value of an operand, if it has been made."""
        return None if operand is None else self._values.get(operand)

    def shapes(self) -> list[Shape]:
        """Shapes of all values made so far."""
        return [v.shape for v in self._values.values()]

    def interior(self, tree: Tree) -> list[Value]:
        """Values within the pattern."""
        outputs = set(tree.outputs)
        return [v for p, v in self._values.items() if isinstance(p, Port) and p not in outputs]

    def value(self, operand: Operand, want: Want = ANYTHING) -> Value:
        """The value of an operand, made as wanted if it is not there yet."""
        if operand not in self._values:
            if isinstance(operand, Port):
                self._write(operand.step, want)
            else:
                made = self._leaf(operand, want) if isinstance(operand, Leaf) else self._number(operand, want)
                self._values[operand] = self._places.source(operand, *made, want.content is not None)
        return self._values[operand]

    # -- leaves --------------------------------------------------------------------------------------

    def _leaf(self, leaf: Leaf, want: Want) -> tuple[Array, Shape, Kind]:
        dtype = self.types[leaf]
        if want.content is not None:
            self.sizes.bind(leaf.label, want.content.shape)
            return np.asarray(want.content).astype(numpy_dtype(dtype)), want.content.shape, "natural"
        shape = self._shape(leaf, want)
        if np.prod(shape, dtype=np.int64) > _MOST_ELEMENTS:
            raise Rejected("an operand would be large")
        kind: Kind = "positive" if self.sizes.is_positive(leaf.label) else self._kinds.get(leaf) or want.kind or "any"
        if leaf.const and want.fill is not None:
            return np.full(shape, want.fill, numpy_dtype(dtype)), shape, kind
        return self.numbers.array(shape, dtype, kind, leaf.const), shape, kind

    def _shape(self, leaf: Leaf, want: Want) -> Shape:
        follow = not (self._strays and self.odd_rng.random() < _STRAY)
        hint = self.sizes.hinted(leaf.label) if follow else None
        if want.strict and want.shape is not None:
            if hint is not None and want.fits is not None and want.fits(hint):
                return hint
            self.sizes.bind(leaf.label, want.shape)
            return want.shape
        if want.against is not None:
            if hint is not None:
                return self._beside(leaf, hint, want.against)
            if not leaf.const and self.rng.random() < 0.35:
                return want.against
            return variation(want.against, self.rng, self.sizes)
        if hint is not None:
            return hint
        return want.shape if want.shape is not None else self.sizes.shape()

    def _beside(self, leaf: Leaf, hint: Shape, against: Shape) -> Shape:
        """The hinted shape of an operand that is broadcast, or one of its form where the other is no match for it."""
        if not hint:
            return scalar_form(against, self.rng)
        fitting = self.sizes.beside(leaf.label, against)
        if broadcast(hint, against) is None and fitting is not None:
            return fitting
        return hint

    def _number(self, number: Number, want: Want) -> tuple[Array, Shape, Kind]:
        dtype = numpy_dtype(self.types[number])
        with np.errstate(all="ignore"):
            content = np.asarray(np.asarray(number.content).astype(dtype))
        if content.ndim:
            return content, content.shape, "any"
        if number.rtol is not None and self.types[number] in FLOATS:
            scale = 1 + number.rtol * self.odd_rng.uniform(-0.9, 0.9)
            content = np.asarray(float(content) * scale).astype(dtype)
        if self._misses and self.odd_rng.random() < _NEAR:
            content = near(content, self.odd_rng)
        if want.strict and want.shape is not None:
            shape = want.shape
        else:
            shape = literal_form(want.against or (), self.rng, self.sizes)
        return np.full(shape, content, dtype), shape, "any"

    # -- operators -----------------------------------------------------------------------------------

    def _write(self, step: Step, want: Want) -> None:
        call = Call(self, step, want.shape if want.shape is not None else want.against)
        try:
            shape = plan_for(step.domain, step.op)(call)
        except (IndexError, ValueError, TypeError) as error:  # of attributes that the rule writes or declares
            raise Rejected(f"{step.op} cannot be like this: {error}") from error
        call.complete()
        inputs = [v.name if v is not None else "" for v in call.values]
        if step.swapped:
            inputs.reverse()
        while inputs and not inputs[-1]:
            inputs.pop()
        if call.outputs == 1 and step.op in _FURTHER_OUTPUTS and self.odd_rng.random() < _FURTHER and self.vary:
            call.outputs = 2
        stem = self._places.name(f"{step.op.lower()}{len(self.nodes)}")
        names = [stem, *(self._places.name(f"{stem}_{i}") for i in range(1, call.outputs))]
        node = helper.make_node(step.op, inputs, names, domain=step.domain)
        node.attribute.extend(attribute_proto(call.schema, n, v) for n, v in sorted(call.attributes.items()))
        self.nodes.append(node)
        self._bind(call, node, shape)

    def _bind(self, call: Call, node: onnx.NodeProto, shape: Shape | None) -> None:
        """Make the outputs of a node values of the model; `shape`: that of its one output, where the plan knows it."""
        operands = [v.shape for v in call.values if v is not None]
        if shape is not None and call.outputs == 1:
            found = [(self.types[Port(call.step, 0)], shape)]
        else:
            found = self._infer(call, node)
        for index, (name, (dtype, dims)) in enumerate(zip(node.output, found, strict=True)):
            port = Port(call.step, index)
            if port in self.types:
                self._values[port] = Value(name, self.types[port], relabel(dims, operands))
            else:
                self.extra.append(Value(name, dtype, relabel(dims, operands)))

    def _infer(self, call: Call, node: onnx.NodeProto) -> list[tuple[int, Shape]]:
        """Dtypes and shapes of a node's outputs; those of its first operand if ONNX does not define the operator."""
        values = [v for v in call.values if v is not None]
        if call.schema is None:
            first = values[0] if values else Value("", onnx.TensorProto.FLOAT, ())
            return [(first.dtype, first.shape)] * len(node.output)
        types = {v.name: helper.make_tensor_type_proto(v.dtype, [int(s) for s in v.shape]) for v in values}
        data = {
            v.name: numpy_helper.from_array(v.array) for v in values if v.array is not None and v.array.size < _SMALL
        }
        domains = {"": self.opset, call.step.domain: call.version}
        opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        try:
            found = shape_inference.infer_node_outputs(call.schema, node, types, data, opset_imports=opsets)
        except Exception as error:  # onnx raises its own error, and for what it cannot read also others
            raise Rejected(f"{node.op_type}: {(str(error).splitlines() or [''])[0][:160]}") from None
        return [_type_of(found.get(name), node) for name in node.output]


def _type_of(kind: onnx.TypeProto | None, node: onnx.NodeProto) -> tuple[int, Shape]:
    if kind is None or not kind.tensor_type.HasField("shape"):
        raise Rejected(f"the shape of {node.op_type} is not known")
    dims = kind.tensor_type.shape.dim
    if any(not d.HasField("dim_value") for d in dims):
        raise Rejected(f"the shape of {node.op_type} is not known")
    return kind.tensor_type.elem_type, tuple(d.dim_value for d in dims)


def _kinds(tree: Tree, types: Types) -> Mapping[Leaf, Kind]:
    """What leaves must hold for no operator to be without a defined result, or to crash the runtime."""
    found: dict[Leaf, Kind] = {}
    for step in tree.steps:
        for index, operand in enumerate(step.operands):
            if not isinstance(operand, Leaf):
                continue
            integers = types[operand] not in FLOATS
            if index == 1 and step.op in ("Div", "Mod") and integers:
                found[operand] = "nonzero"
            elif index == 1 and step.op in ("Pow", "BitShift") and integers:
                found[operand] = "natural"
        if step.op in ("Cast", "CastLike") and types[Port(step, 0)] not in FLOATS:
            signed = numpy_dtype(types[Port(step, 0)]).kind != "u"
            source = step.operands[0]
            for leaf in [source] if isinstance(source, Leaf) else tree.leaves:
                if types[leaf] in FLOATS:
                    found.setdefault(leaf, "ordinary" if signed else "positive")
    return found
