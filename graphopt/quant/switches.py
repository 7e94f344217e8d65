"""A model in which every quantized tensor has a switch: off, it is what it was in float; on, it is rounded.

One session answers all questions of the kind "what if only this were quantized": a probe is one run, and nothing is
calibrated, placed or compiled for it. Each tensor is an If whose one branch rounds and whose other branch hands it on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import onnx_ir as oir

from graphopt.interop.clone import clone
from graphopt.ir.model import Model
from graphopt.quant.within import walk, walk_graphs
from graphopt.runtime.package import Package, package

__all__ = ["Switch", "Switchboard", "switchboard"]

_PREFIX = "graphopt.switch"
Quantize = Callable[[Model, Callable[[], None]], object]
"""Quantizes a model, and calls what it is given when it is about to place the first Q."""


@dataclass(frozen=True)
class Switch:
    """Quantized tensors with one scale. `name`: of the model's input that turns them on; `values`: their names.

    There are several where data is only moved: what is rounded once is not changed by being rounded again.
    `readers`: the positions, as `walk` counts, of the nodes that read one rounded, each with the index of the input.
    `const`: it is a weight or a bias.
    """

    name: str
    values: tuple[str, ...]
    readers: tuple[tuple[int, int], ...]
    const: bool


@dataclass
class Switchboard:
    """`packed` gives the float model's outputs, and has an input of type bool for each switch.

    `model`: the float model, `outputs`: what of it can be compared, by name; `names`: those in `packed`.
    """

    packed: Package
    model: Model
    switches: list[Switch] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def switchboard(model: Model, quantize: Quantize) -> Switchboard:
    """Let `quantize` work on a copy of `model`, and make switches of what it placed. `model` stays as it is."""
    trial = Model(clone(model.ir))
    seen: list[_Before] = []
    quantize(trial, lambda: seen.append(_Before(trial.ir)))
    if not seen:
        return Switchboard(package(model.ir), model)
    return _Builder(seen[-1], trial.ir).build()


class _Before:
    """The float model at the moment before the first Q, and what each of its nodes read."""

    def __init__(self, ir: oir.Model) -> None:
        copies: dict[oir.Value, oir.Value] = {}
        self.ir = clone(ir, copies)
        self.copies = copies
        self.nodes = [(node, tuple(node.inputs)) for node in walk(ir.graph)]
        self.outputs = [(graph, tuple(graph.outputs)) for graph in walk_graphs(ir.graph)]


class _Builder:
    def __init__(self, before: _Before, after: oir.Model) -> None:
        self.before, self.after = before, after
        self.graph = before.ir.graph
        self.nodes = list(walk(self.graph))
        self.graphs = walk_graphs(self.graph)
        self.float_model = Model(clone(before.ir))
        self.made: dict[oir.Value, oir.Value] = {}

    def build(self) -> Switchboard:
        edges: dict[oir.Value, tuple[oir.Value, list[tuple[int, int]]]] = {}
        for position, (node, inputs) in enumerate(self.before.nodes):
            if node.graph is None:
                continue
            for index, (old, new) in enumerate(zip(inputs, node.inputs, strict=False)):
                if old is not None and new is not None and new is not old and _is_rounded(new):
                    edges.setdefault(new, (old, []))[1].append((position, index))
        for graph, given in self.before.outputs:
            for old, new in zip(given, graph.outputs, strict=True):
                if new is not old and _is_rounded(new):
                    edges.setdefault(new, (old, []))
        by_scale: dict[Hashable, Switch] = {}
        for new, (old, readers) in edges.items():
            scale = new if old.is_initializer() else _scale(new)
            by_scale[scale] = self._switch(new, old, readers, by_scale.get(scale))
        switches = list(by_scale.values())
        outputs, names = self._outputs()
        packed = package(self.before.ir, outputs=names)
        return Switchboard(packed, self.float_model, switches, outputs, names)

    def _switch(
        self, new: oir.Value, old: oir.Value, readers: list[tuple[int, int]], known: Switch | None
    ) -> Switch:
        """Let the readers of a tensor come through an If; `known` is the switch of its scale, if there is one."""
        source = self.before.copies[old]
        name = f"{_PREFIX}.{len(self.made)}"
        if known is None:
            turn = oir.Value(name=name, type=oir.TensorType(oir.DataType.BOOL), shape=oir.Shape([]))
            self.graph.inputs.append(turn)
            known = Switch(name, (), (), source.is_initializer())
        else:
            turn = next(v for v in self.graph.inputs if v.name == known.name)
        chosen = oir.node(
            "If",
            [turn],
            {"then_branch": self._rounded(new, source, name), "else_branch": _handed_on(source, name)},
            name=name,
        )
        self.made[new] = out = chosen.outputs[0]
        out.name = f"{name}.out"
        for mine, (graph, outputs) in zip(self.graphs, self.before.outputs, strict=True):
            for i, output in enumerate(outputs):
                if output is old and graph.outputs[i] is new:
                    mine.outputs[i] = _typed(out, mine.outputs[i])
        self._place(chosen, source)
        for position, index in readers:
            self.nodes[position].replace_input_with(index, out)
        values = tuple(dict.fromkeys((*known.values, str(source.name))))
        return Switch(known.name, values, (*known.readers, *readers), known.const)

    @staticmethod
    def _place(chosen: oir.Node, source: oir.Value) -> None:
        """Put the If where the source is: bodies capture what it gives."""
        producer = source.producer()
        graph = source.graph if producer is None else producer.graph
        assert isinstance(graph, oir.Graph), "what is rounded is part of the model"
        if producer is not None:
            graph.insert_after(producer, chosen)
        elif len(graph):
            graph.insert_before(graph[0], chosen)
        else:
            graph.append(chosen)

    def _rounded(self, new: oir.Value, source: oir.Value, name: str) -> oir.Graph:
        """The branch that rounds: the Q of an activation and the DQ behind it, as they stand in the quantized model."""
        nodes: list[oir.Node] = []
        chain = _chain(new)
        current = source
        for node in chain:
            inputs: list[oir.Value | None] = []
            for i, value in enumerate(node.inputs):
                inputs.append(current if i == 0 and node.op_type == "QuantizeLinear" else self._constant(value))
            if nodes:
                inputs[0] = nodes[-1].outputs[0]
            copied = oir.node(
                node.op_type, inputs, {a.name: a.value for a in node.attributes.values()}, domain=node.domain
            )
            copied.outputs[0].name = f"{name}.step{len(nodes)}"
            nodes.append(copied)
            if node.domain:
                self.graph.opset_imports.setdefault(node.domain, 1)
        result = _typed(nodes[-1].outputs[0], source)
        return oir.Graph([], [result], nodes=nodes, name=f"{name}.then")

    def _constant(self, value: oir.Value | None) -> oir.Value | None:
        """A scale, zero point or stored weight, as an initializer of the switchboard."""
        if value is None or value.const_value is None:
            return None
        made = self.made.get(value)
        if made is None:
            title = f"{_PREFIX}.constant.{len(self.made)}"
            made = oir.Value(name=title, type=value.type, shape=value.shape, const_value=value.const_value)
            self.graph.initializers[title] = made
            self.made[value] = made
        return made

    def _outputs(self) -> tuple[list[str], list[str]]:
        """Float outputs by their names in the model and in the switchboard; without any, that of the last operator."""
        found = [
            (str(old.name), str(new.name))
            for old, new in zip(self.float_model.ir.graph.outputs, self.graph.outputs, strict=True)
            if old.dtype in (oir.DataType.FLOAT, oir.DataType.DOUBLE)
        ]
        if not found:
            last = next((n for n in reversed(self.nodes) if n.outputs[0].dtype == oir.DataType.FLOAT), None)
            found = [] if last is None else [(str(last.outputs[0].name),) * 2]
        return [old for old, _ in found], [new for _, new in found]


def _is_rounded(value: oir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _scale(value: oir.Value) -> Hashable:
    """What tells whether two tensors have the same scale: an initializer, of which equal ones are shared.

    That of the Q, where there is one: a DQ behind it may have the same scale several times over.
    """
    return _chain(value)[0].inputs[1]


def _chain(value: oir.Value) -> list[oir.Node]:
    """DequantizeLinear, and the QuantizeLinear in front of it unless a constant is there."""
    last = value.producer()
    assert last is not None
    first = last.inputs[0].producer() if last.inputs[0] is not None else None
    return [last] if first is None else [first, last]


def _handed_on(source: oir.Value, name: str) -> oir.Graph:
    node = oir.node("Identity", [source])
    node.outputs[0].name = f"{name}.same"
    return oir.Graph([], [_typed(node.outputs[0], source)], nodes=[node], name=f"{name}.else")


def _typed(value: oir.Value, like: oir.Value) -> oir.Value:
    value.type = oir.TensorType(oir.DataType.FLOAT) if like.type is None else like.type
    return value
