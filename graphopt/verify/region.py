"""The two sides of a rewrite as models of their own, with the same inputs and the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as oir

from graphopt.interop.clone import Cloner
from graphopt.ir.dims import Dim, Shape
from graphopt.verify.record import Seen, Step, reads

__all__ = ["Region", "region_of"]


@dataclass(frozen=True)
class Region:
    """`before` and `after` the rewrite. `sources`: by input, the name of its value in the recorder's model."""

    before: oir.Model
    after: oir.Model
    sources: Mapping[str, str]


def region_of(step: Step, model: oir.Model) -> Region | str:
    """Both sides of a step in the recorder's `model`; else a text that says why they cannot stand alone."""
    if step.skipped is not None:
        return step.skipped
    if not step.pairs:
        return "it replaces nothing that is still read"
    inputs = [value for value in step.operands if not _is_fixed(value)]
    for value in (*inputs, *(old for old, _ in step.pairs)):
        if step.seen[value].dtype is None:
            return f"{step.seen[value].name!r} is no tensor, or its type is not known"
    names = _names(step, inputs)
    sizes: dict[Dim, str] = {}
    before = _side(step, model, inputs, step.before, [old for old, _ in step.pairs], names, sizes)
    after = _side(step, model, inputs, step.after, [new for _, new in step.pairs], names, sizes)
    return Region(before, after, {names[value]: str(value.name) for value in inputs})


def _names(step: Step, inputs: Sequence[oir.Value]) -> dict[oir.Value, str]:
    """Outputs are called what was replaced, all else what it is called in the model, as far as that is unique."""
    names = {old: step.seen[old].name for old, _ in step.pairs}
    names |= {new: names[old] for old, new in step.pairs if new not in step.operands}
    made = [output for node in (*step.before, *step.after) for output in node.outputs]
    taken = set(names.values())
    for value in (*inputs, *step.operands, *made):
        if value not in names:
            names[value] = name = _free(step.seen[value].name, taken)
            taken.add(name)
    return names


def _free(name: str, taken: set[str]) -> str:
    count, free = 0, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _side(
    step: Step,
    model: oir.Model,
    inputs: Sequence[oir.Value],
    nodes: Sequence[oir.Node],
    outputs: Sequence[oir.Value],
    names: Mapping[oir.Value, str],
    sizes: dict[Dim, str],
) -> oir.Model:
    """A model of `nodes` with the values in `outputs`, under the names of what they stand for."""
    read = {value for node in nodes for value in reads(node)} | set(outputs)
    fixed = [value for value in step.operands if _is_fixed(value) and value in read]
    values: dict[oir.Value, oir.Value] = {}
    cloner = Cloner(values)
    copies = [cloner.node(p) for value in fixed if (p := value.producer()) is not None]
    initializers = [cloner.value(value) for value in fixed if value.producer() is None]
    given = [cloner.value(value) for value in inputs]
    for value in given:
        value.const_value = None  # a default that a caller may override
    copies += [cloner.node(node) for node in nodes]
    for value, copied in values.items():
        if value in names:
            copied.name = names[value]
            _describe(copied, step.seen[value], sizes)
    found: list[oir.Value] = []
    for value, (old, _) in zip(outputs, step.pairs, strict=True):
        made = values[value]
        if value in step.operands or made in found:
            node = oir.node("Identity", [made])
            copies.append(node)
            made = node.outputs[0]
            made.name = names[old]
        _describe(made, step.seen[old], sizes)
        found.append(made)
    graph = oir.Graph(given, found, nodes=copies, initializers=initializers, name="region")
    calls = any(node.op_identifier() in model.functions for node in copies)
    functions = [Cloner().function(function) for function in model.functions.values()] if calls else []
    domains = {node.domain for node in copies}
    kept = {d: v for d, v in model.opset_imports.items() if calls or d == "" or d in domains}
    graph.opset_imports.update(kept)
    return oir.Model(graph, ir_version=model.ir_version, functions=functions)


def _describe(value: oir.Value, seen: Seen, sizes: dict[Dim, str]) -> None:
    """Give a value the type it was known to have; equal sizes that are no numbers get one name."""
    value.type = None if seen.dtype is None else oir.TensorType(seen.dtype)
    value.shape = None if seen.shape is None else oir.Shape(_dims(seen.shape, sizes))


def _dims(shape: Shape, sizes: dict[Dim, str]) -> list[int | str | None]:
    found: list[int | str | None] = []
    for dim in shape:
        if isinstance(dim, Dim) and dim not in sizes:
            plain = dim.is_symbol and str(dim).isidentifier()
            sizes[dim] = _free(str(dim) if plain else "d0", set(sizes.values()))
        found.append(sizes[dim] if isinstance(dim, Dim) else dim)
    return found


def _is_fixed(value: oir.Value) -> bool:
    """Whether the value is constant: an initializer that no caller can override, or a Constant."""
    producer = value.producer()
    if producer is not None:
        return producer.op_type == "Constant" and producer.domain in ("", "ai.onnx")
    return value.const_value is not None and not value.is_graph_input()
