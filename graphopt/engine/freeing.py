"""Freeing the batch: a model that was made for a fixed number of samples takes any number of them.

The inputs get a named size, and the operators are gone through in order. Where a constant has the old number built in
(the target of a Reshape, an initial state, a token that is put in front), it is mended; where a size cannot be
followed, that is an error which names the node. Whether samples are independent of one another is for a run to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as oir

from graphopt.engine.mending import Mender, NotMendedError
from graphopt.errors import UsageError
from graphopt.ir.dims import Dim, Shape
from graphopt.ir.edit import Decline, Editor
from graphopt.ir.facts import Facts, Inconsistent
from graphopt.ir.model import Model
from graphopt.ir.ports import declared, find_axis, find_input, real_inputs, spelled
from graphopt.ir.request import SizeRequest
from graphopt.ir.value import Graph, Node, Value, bodies_of


@dataclass(frozen=True)
class Batch:
    """What was freed: `size` samples were fixed along the axis of each of `inputs`.

    `outputs`: for each the axis along which the samples lie now, None where the result does not depend on them.
    """

    name: str
    size: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int | None]


def free_batch(ir: oir.Model, request: SizeRequest) -> Batch | None:
    """Free what `request` asks for, and mend what has the old size built in; None if it is free already.

    Raises `UsageError` for inputs without such an axis, and for a node behind which the batch cannot be followed.
    """
    axes = _axes(real_inputs(ir), request)
    if not axes:
        return None
    inputs = real_inputs(ir)
    name = request.batch or next(iter(request.freed.values()))
    sizes = {declared(inputs[i])[axis] for i, axis in axes.items()}
    if len(sizes) > 1:
        what = "the axes that are to be free have different sizes"
        raise UsageError(what, hint=f"they are {', '.join(map(str, sorted(map(str, sizes))))}")
    size = sizes.pop()
    assert isinstance(size, int)
    before = Facts(ir)
    old = {v: before.shape(v) for graph in Model(ir).raw_graphs() for node in graph for v in node.outputs}
    _declare(ir, axes, name)
    model = Model(ir)
    first = next(iter(axes))
    source = Value(model, inputs[first])
    work = _Work(Mender(model, Editor(model), Dim.symbol(name), size, (source, axes[first]), old))
    work.go(model.main)
    outputs = {v.name or "": work.settle(v, name) for v in ir.graph.outputs}
    return Batch(name, size, axes, outputs)


def _axes(inputs: dict[str, oir.Value], request: SizeRequest) -> dict[str, int]:
    """The axis to be freed, by input."""
    if request.batch is None:
        found: dict[str, int] = {}
        for (name, place), _ in request.freed.items():
            value = find_input(inputs, name)
            axis = find_axis(value, place)
            size = declared(value)[axis]
            if not isinstance(size, int):
                hint = f"it is {spelled(value)}"
                raise UsageError("this size is not fixed", where=f"{value.name}, axis {axis}", hint=hint)
            if value.name in found:
                raise UsageError("only one axis of an input can be the batch", where=value.name)
            found[value.name or ""] = axis
        if len(set(request.freed.values())) > 1:
            raise UsageError("one batch at a time", hint=f"names: {', '.join(sorted(set(request.freed.values())))}")
        return found
    first = {name: declared(value)[0] for name, value in inputs.items() if declared(value)}
    if first and all(isinstance(size, str) for size in first.values()) and set(first.values()) == {request.batch}:
        return {}
    there = "; ".join(f"{name} is {spelled(value)}" for name, value in inputs.items())
    if not first or not all(isinstance(size, int) for size in first.values()):
        raise UsageError("the first axes of the inputs are not all fixed", hint=f"name one: INPUT:AXIS=?. {there}")
    if len(set(first.values())) > 1:
        raise UsageError("the first axes of the inputs differ", hint=f"name some: INPUT:AXIS={request.batch}. {there}")
    return dict.fromkeys(first, 0)


def _declare(ir: oir.Model, axes: Mapping[str, int], name: str) -> None:
    """Write the name into the inputs, and take back what was declared of everything behind them."""
    for value in ir.graph.inputs:
        if any(isinstance(d, oir.SymbolicDim) and d.value == name for d in value.shape or ()):
            raise UsageError(f"there is a size called {name!r} already", where=value.name, hint="choose another name")
    pending = [ir.graph]
    while pending:
        graph = pending.pop()
        for node in graph:
            pending.extend(bodies_of(node))
            for value in node.outputs:
                if value.shape is not None:
                    value.shape = oir.Shape([None] * len(value.shape)) if value.is_graph_output() else None
    for value in ir.graph.inputs:
        axis = axes.get(value.name or "")
        if axis is not None and value.shape is not None:
            sizes = list(value.shape)
            sizes[axis] = oir.SymbolicDim(name)
            value.shape = oir.Shape(sizes)


class _Work:
    """Goes through the nodes, mends each and finds out anew what it makes."""

    def __init__(self, mender: Mender) -> None:
        self._mender = mender

    def go(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            for body in node.bodies:
                self.go(body)
            self._mend(node)

    def _mend(self, node: Node) -> None:
        mender = self._mender
        try:
            mender.mend(node)
            if not node.alive:
                return
            if mender.model.facts.schema(node._raw) is not None:
                mender.model.facts.infer(node._raw)
            for value in node.outputs:
                mender.check(value)
        except (NotMendedError, Decline) as error:
            raise self._error(node, str(error)) from None
        except Inconsistent as error:
            raise self._error(node, f"its operands do not fit: {error}") from None

    def _error(self, node: Node, reason: str) -> UsageError:
        what = f"the batch cannot be freed behind this {node.op}: {reason}"
        return UsageError(what, where=node.name, hint="export the model with a dynamic batch")

    def settle(self, raw: oir.Value, name: str) -> int | None:
        """Declare the sizes of an output, the batch being called `name`; returns the axis along which samples lie."""
        shape: Shape | None = self._mender.model.facts.shape(raw)
        if shape is None or None in shape:
            raise UsageError(f"the shape of output {raw.name!r} is not known once the batch is free")
        batch = self._mender.batch
        found = self._mender.axes(shape)
        if len(found) > 1:
            raise UsageError(f"output {raw.name!r} would have samples along several axes")
        if not found and any(isinstance(d, Dim) and d.is_anonymous for d in shape):
            raise UsageError(f"the shape of output {raw.name!r} is not known once the batch is free")
        sizes = [d if isinstance(d, int) else name if d == batch else None for d in shape]
        raw.shape = oir.Shape(sizes)
        return found[0] if found else None
