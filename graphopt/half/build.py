"""The model with some of its nodes in half precision, and one that rounds like it but computes in float32."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.half.plan import Place
from graphopt.interop.clone import clone

_FLOAT = oir.DataType.FLOAT


def in_half(model: oir.Model, places: Sequence[Place], half: oir.DataType) -> oir.Model:
    """A copy of `model` in which the nodes of `places` compute in `half`; inputs and outputs stay as they are.

    A value is cast where it passes from one precision to the other, once for all its readers; constants are stored in
    the precision that is read. The weights that nobody changes are shared.
    """
    return _Builder(model, half).build(places)


class _Builder:
    def __init__(self, model: oir.Model, half: oir.DataType) -> None:
        self.values: dict[oir.Value, oir.Value] = {}
        self.copy = clone(model, self.values)
        self.half = half
        self.nodes = dict(zip(model.graph, self.copy.graph, strict=True))
        self.halves: dict[oir.Value, oir.Value] = {}
        self.names = _names(self.copy)

    def build(self, places: Sequence[Place]) -> oir.Model:
        graph = self.copy.graph
        chosen = {self.nodes[p.node]: p for p in places}
        made_half = {node.outputs[i] for node, p in chosen.items() for i in p.outputs}
        for node in list(graph):
            place = chosen.get(node)
            for i in place.inputs if place else ():
                value = node.inputs[i]
                assert value is not None
                if value not in made_half:
                    node.replace_input_with(i, self._as_half(value, node))
        for node, place in chosen.items():
            for i in place.outputs:
                self._half_output(node, node.outputs[i], chosen)
        for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_input()
                     and not v.is_graph_output() and v in self.halves]:
            del graph.initializers[name]
        return self.copy

    def _as_half(self, value: oir.Value, reader: oir.Node) -> oir.Value:
        """A float32 value in half precision: the constant rounded, or a Cast behind whatever makes the value."""
        known = self.halves.get(value)
        if known is not None:
            return known
        tensor = value.const_value if value.is_initializer() and not value.is_graph_input() else None
        if tensor is not None:
            made = self._constant(value, tensor)
        else:
            producer = value.producer()
            cast = self._cast(value, self.half, f"{value.name}_half")
            graph = self.copy.graph
            if producer is not None and producer.graph is graph:
                graph.insert_after(producer, [cast])
            else:
                graph.insert_before(graph[0], [cast])
            made = cast.outputs[0]
        self.halves[value] = made
        return made

    def _constant(self, value: oir.Value, tensor: oir.TensorProtocol) -> oir.Value:
        with np.errstate(over="ignore"):
            array = np.asarray(tensor.numpy()).astype(self.half.numpy())
        made = oir.Value(name=self._fresh(f"{value.name}_half"), type=oir.TensorType(self.half), shape=value.shape)
        made.const_value = oir.Tensor(array, dtype=self.half, name=made.name)
        self.copy.graph.register_initializer(made)
        return made

    def _half_output(self, node: oir.Node, value: oir.Value, chosen: Collection[oir.Node]) -> None:
        """Let a result be half, and cast it back for those who read float32."""
        graph = self.copy.graph
        places: Any = chosen
        others = [u for u in value.uses() if u.node not in chosen or u.idx not in places[u.node].inputs]
        if others or value.is_graph_output():
            name = value.name
            cast = self._cast(value, _FLOAT, str(name))
            wide = cast.outputs[0]
            value.name = self._fresh(f"{name}_half")
            wide.name, wide.type, wide.shape = name, value.type, value.shape
            for use in others:
                use.node.replace_input_with(use.idx, wide)
            for i, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[i] = wide
            graph.insert_after(node, [cast])
        value.type = oir.TensorType(self.half)

    def _cast(self, value: oir.Value, to: oir.DataType, like: str) -> oir.Node:
        name = self._fresh(like)
        cast = oir.node("Cast", [value], {"to": to.value}, name=name)
        cast.outputs[0].name = name
        cast.outputs[0].type, cast.outputs[0].shape = oir.TensorType(to), value.shape
        return cast

    def _fresh(self, like: str) -> str:
        name, count = like, 1
        while name in self.names:
            name, count = f"{like}_{count}", count + 1
        self.names.add(name)
        return name


def rounding(model: oir.Model, places: Sequence[Place], half: oir.DataType) -> oir.Model:
    """A copy of `model` that rounds what the nodes of `places` read and give to `half`, and computes in float32.

    Runtimes without kernels for half precision leave out casts on the way; this shows the rounding all the same.
    """
    copy = clone(model)
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    made_half = {nodes[p.node].outputs[i] for p in places for i in p.outputs}
    read: dict[oir.Value, list[tuple[oir.Node, int]]] = {}
    for place in places:
        for i in place.inputs:
            value = nodes[place.node].inputs[i]
            if value is not None and value not in made_half:
                read.setdefault(value, []).append((nodes[place.node], i))
    for value, uses in read.items():
        _round(copy.graph, value, uses, half)
    for value in made_half:
        _round(copy.graph, value, [(use.node, use.idx) for use in value.uses()], half)
    return copy


def _round(graph: oir.Graph, value: oir.Value, uses: Sequence[tuple[oir.Node, int]], half: oir.DataType) -> None:
    """Let `uses`, and whoever reads an output of the graph that a node of `places` makes, see a rounded value."""
    narrow = oir.node("Cast", [value], {"to": half.value})
    wide = oir.node("Cast", [narrow.outputs[0]], {"to": _FLOAT.value})
    for made, suffix in ((narrow, "narrow"), (wide, "rounded")):
        made.outputs[0].name = made.name = f"{value.name}/{suffix}"
    rounded = wide.outputs[0]
    rounded.type, rounded.shape = value.type, value.shape
    for node, i in uses:
        node.replace_input_with(i, rounded)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [narrow, wide])
        return
    graph.insert_after(producer, [narrow, wide])
    if value.is_graph_output():
        name = value.name
        value.name, rounded.name = f"{name}/exact", name
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = rounded


def _names(model: oir.Model) -> set[str]:
    graph = model.graph
    found = {v.name or "" for v in (*graph.inputs, *graph.initializers.values())}
    return found | {v.name or "" for node in graph.all_nodes() for v in node.outputs}
