"""Values inside the bodies of If, Loop and Scan, handed out so that they can be watched; on a copy of the model.

An If gets one more output: the value from its branch, and an empty tensor from the other. A Loop or a Scan gets one
more scan output, which stacks the value of all iterations. A value that lies deeper is handed on from body to body.
Stacking needs the same size in all iterations, which cannot always be known before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as oir

from graphopt.interop.clone import clone
from graphopt.ir.dims import Dim
from graphopt.ir.value import bodies_of

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["Exposed", "expose"]

_FLOATS = {oir.DataType.FLOAT, oir.DataType.FLOAT16, oir.DataType.BFLOAT16, oir.DataType.DOUBLE}
_IN_FUNCTION = "it stands in a function: -p inline puts its body in place"
_ATTRIBUTES = ("scan_output_axes", "scan_output_directions")


@dataclass(frozen=True)
class Exposed:
    """A copy of the model whose main graph has, under new names, values from inside its bodies.

    `outer`: the new name of each, and how many axes of iterations stand in front of its own. `loose`: those with which
    the model cannot be run if their size changes from one iteration to the next. `declined`: why a value is not there.
    """

    model: oir.Model
    outer: dict[str, tuple[str, int]]
    declined: dict[str, str]
    loose: set[str] = field(default_factory=set)


class _Unfit(Exception):
    """Why a value cannot be handed out."""


def expose(model: Model, names: Iterable[str]) -> Exposed:
    """Hand out the values of these names, which are not in the main graph. The model itself stays as it is."""
    copies: dict[oir.Value, oir.Value] = {}
    copy = clone(model.ir, copies)
    owners = {body: node for node in _nodes(copy.graph) for body in bodies_of(node)}
    wanted = set(names)
    found: dict[str, list[oir.Value]] = {name: [] for name in names}
    for node in _nodes(model.ir.graph):
        for body in bodies_of(node):
            for value in (*body.inputs, *(output for inner in body for output in inner.outputs)):
                if value.name in wanted:
                    found[str(value.name)].append(value)
    functions = {output.name for f in model.ir.functions.values() for node in f for output in node.outputs}
    result = Exposed(copy, {}, {})
    work = _Work(copy, owners)
    for name, values in found.items():
        try:
            if not values:
                raise _Unfit(_IN_FUNCTION if name in functions else "it is not there")
            if len(values) > 1:
                raise _Unfit(f"{len(values)} values in different bodies have this name")
            dtype = model.facts.dtype(values[0])
            if dtype not in _FLOATS:
                raise _Unfit("it is no tensor of floating-point numbers")
            result.outer[name] = _, levels = work.hand_out(copies[values[0]], dtype)
            if levels and not _is_fixed(model.facts.shape(values[0])):
                result.loose.add(name)
        except _Unfit as reason:
            result.declined[name] = str(reason)
    return result


class _Work:
    def __init__(self, model: oir.Model, owners: dict[oir.Graph, oir.Node]) -> None:
        self._owners = owners
        self._taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
        for node in _nodes(model.graph):
            self._taken |= {value.name for value in node.outputs}
            for body in bodies_of(node):
                self._taken |= {value.name for value in body.inputs} | set(body.initializers)

    def hand_out(self, value: oir.Value, dtype: oir.DataType) -> tuple[str, int]:
        """The name of a value of the main graph that has this value of a body, and its axes of iterations."""
        way = []
        graph = value.graph
        while graph is not None and graph in self._owners:
            owner = self._owners[graph]
            way.append((graph, owner))
            graph = owner.graph if isinstance(owner.graph, oir.Graph) else None
        _check(way)
        levels, base = 0, str(value.name)
        for graph, owner in way:
            inner = self._identity(graph, value, base, dtype)
            index = len(owner.outputs)
            if owner.op_type == "If":
                for body in bodies_of(owner):
                    body.outputs.append(inner if body is graph else self._nothing(body, base, dtype))
            else:
                graph.outputs.append(inner)
                levels += 1
                for name in _ATTRIBUTES:
                    if name in owner.attributes:
                        owner.attributes.add(oir.AttrInt64s(name, [*owner.attributes[name].as_ints(), 0]))
            owner.resize_outputs(index + 1)
            value = owner.outputs[index]
            value.name = self._fresh(base)
            value.type = oir.TensorType(dtype)
        return str(value.name), levels

    def _identity(self, graph: oir.Graph, value: oir.Value, base: str, dtype: oir.DataType) -> oir.Value:
        node = oir.Node("", "Identity", [value], name=self._fresh(base))
        graph.append(node)
        return self._named(node.outputs[0], base, dtype)

    def _nothing(self, graph: oir.Graph, base: str, dtype: oir.DataType) -> oir.Value:
        empty = oir.Tensor(np.zeros(0, dtype.numpy()), dtype=dtype, name=self._fresh(base))
        node = oir.Node("", "Constant", [], [oir.AttrTensor("value", empty)], name=self._fresh(base))
        graph.append(node)
        return self._named(node.outputs[0], base, dtype)

    def _named(self, value: oir.Value, base: str, dtype: oir.DataType) -> oir.Value:
        value.name = self._fresh(base)
        value.type = oir.TensorType(dtype)
        return value

    def _fresh(self, base: str) -> str:
        number = 1
        while f"{base}_seen_{number}" in self._taken:
            number += 1
        self._taken.add(f"{base}_seen_{number}")
        return f"{base}_seen_{number}"


def _check(way: Sequence[tuple[oir.Graph, oir.Node]]) -> None:
    """Raises `_Unfit` where nothing can be handed out."""
    branch = False
    for graph, owner in way:
        op = owner.op_type if owner.domain in ("", "ai.onnx") else f"{owner.domain}.{owner.op_type}"
        if op not in ("If", "Loop", "Scan"):
            raise _Unfit(f"it stands in a body of {op}")
        if len(owner.outputs) != len(graph.outputs) - (op == "Loop"):
            raise _Unfit(f"the {op} around it does not give all that its body gives")
        if op == "If":
            branch = True
            continue
        if branch:
            raise _Unfit(f"it stands in a branch within a {op}")
        if op == "Scan" and "num_scan_inputs" in owner.attributes and owner.version in (7, 8):
            raise _Unfit("Scan of opset 8 stacks otherwise")


def _is_fixed(shape: Sequence[int | Dim | None] | None) -> bool:
    """Whether all sizes are numbers or follow from those of the model's inputs."""
    if shape is None:
        return False
    return all(isinstance(dim, int) or (isinstance(dim, Dim) and _is_named(dim)) for dim in shape)


def _is_named(dim: Dim) -> bool:
    symbols = {symbol for _, term in dim.terms for symbol in term}
    for symbol in symbols:
        quotient = symbol.quotient
        if symbol.is_anonymous or (quotient is not None and not _is_named(quotient[0])):
            return False
    return True


def _nodes(graph: oir.Graph) -> Iterator[oir.Node]:
    """All nodes, in bodies too."""
    pending = [graph]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(bodies_of(node))
