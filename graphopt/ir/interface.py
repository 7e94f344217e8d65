"""Another interface for a model: a part of it, other names, another order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as oir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass

from graphopt.errors import UsageError, nearest
from graphopt.ir.dims import Dim
from graphopt.ir.facts import Facts
from graphopt.ir.value import bodies_of

__all__ = ["InterfaceRequest", "change_interface", "parse_names", "parse_pairs"]


@dataclass(frozen=True)
class InterfaceRequest:
    """What the caller wants.

    `inputs`, `outputs`: the values, by name and in order, that the model is to take and to give; None keeps those
    that it has, as far as they are needed. `renames`: new names of inputs and outputs by their old ones.
    `freeze`: inputs with a default value are inputs no more.
    """

    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    freeze: bool = False

    def __bool__(self) -> bool:
        return self.inputs is not None or self.outputs is not None or bool(self.renames) or self.freeze


def parse_names(texts: Iterable[str]) -> tuple[str, ...] | None:
    """`--inputs a,b`; None if nothing was given."""
    found = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    return found or None


def parse_pairs(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """`OLD=NEW` for each text. Raises `UsageError` that names the flag for anything else."""
    found: dict[str, str] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not equals or not left or not right:
            raise UsageError("these are no two names", where=f"{flag} {text}", hint="write the two with = between them")
        if left in found:
            raise UsageError(f"{left!r} is there twice", where=f"{flag} {text}")
        found[left] = right
    return found


def change_interface(model: oir.Model, request: InterfaceRequest) -> None:
    """Give the main graph of `model` the inputs, outputs and names of `request`.

    Values within the graph become inputs and outputs with the types that are inferred for them; what nobody needs then
    goes. Raises `UsageError` for names that do not exist, come twice or are taken, for inputs that are left out and
    needed all the same, and for a value whose type is not known.
    """
    if not request:
        return
    graph = model.graph
    if request.freeze:
        graph.inputs[:] = [v for v in graph.inputs if not v.is_initializer()]
    values = _values(graph)
    inputs = None if request.inputs is None else _chosen(values, request.inputs, "input")
    outputs = None if request.outputs is None else _chosen(values, request.outputs, "output")
    if inputs is not None or outputs is not None:
        _extract(model, inputs, outputs)
    _rename(graph, request.renames)


def _values(graph: oir.Graph) -> dict[str, oir.Value]:
    """All values of the main graph by name; those of bodies cannot be reached from outside."""
    found = {v.name: v for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    found.update((v.name, v) for node in graph for v in node.outputs if v.name)
    return found


def _chosen(values: Mapping[str, oir.Value], names: Sequence[str], kind: str) -> list[oir.Value]:
    if not names:
        raise UsageError(f"no {kind} is named", hint=f"name at least one, or leave --{kind}s out")
    for i, name in enumerate(names):
        if name not in values:
            raise UsageError(f"the model has no value {name!r}", where=f"--{kind}s", hint=nearest(name, values))
        if name in names[:i]:
            raise UsageError(f"{name!r} is named twice", where=f"--{kind}s")
    return [values[name] for name in names]


def _extract(model: oir.Model, inputs: list[oir.Value] | None, outputs: list[oir.Value] | None) -> None:
    graph = model.graph
    facts = Facts(model)
    old = list(graph.inputs)
    for value in (*(inputs or ()), *(outputs or ())):
        _declare(value, facts)
    if outputs is not None:
        graph.outputs[:] = outputs
    replaced = {} if inputs is None else {v: _as_input(graph, v) for v in inputs}
    needed = _prune(graph)
    kept = [v for v in old if v in needed] if inputs is None else list(replaced.values())
    missing = [v.name or "" for v in old if v in needed and v not in kept and not v.is_initializer()]
    if missing:
        raise UsageError(
            f"the outputs also depend on the input{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}",
            where="--inputs", hint="name all that is needed, or values behind it",
        )  # fmt: skip
    graph.inputs[:] = kept
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]


def _declare(value: oir.Value, facts: Facts) -> None:
    """Write down the type of a value that becomes part of the interface."""
    if value.is_graph_input() or value.is_graph_output():
        return
    fact = facts.fact(value)
    if fact.dtype is None:
        raise UsageError("the type of this value is not known, so it cannot be an input or output", where=value.name)
    value.type = oir.TensorType(fact.dtype)
    value.shape = None if fact.shape is None else oir.Shape([_size(n) for n in fact.shape])


def _size(size: int | Dim | None) -> int | str | None:
    """A size as a model declares it: sizes that are computed from others have no name."""
    if not isinstance(size, Dim):
        return size
    return str(size) if size.is_symbol and not size.is_anonymous and str(size).isidentifier() else None


def _as_input(graph: oir.Graph, value: oir.Value) -> oir.Value:
    """The graph input in place of a value, with its name."""
    if value.is_graph_input():
        return value
    made = oir.Value(name=value.name, type=value.type, shape=value.shape)
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, made)
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = made
    if value.is_initializer():
        del graph.initializers[value.name or ""]
    value.name = None
    return made


def _prune(graph: oir.Graph) -> set[oir.Value]:
    """Remove the nodes and initializers that no output needs; returns the values that are needed."""
    needed: set[oir.Value] = set(graph.outputs)
    dead: list[oir.Node] = []
    for node in reversed(list(graph)):
        if needed.isdisjoint(node.outputs):
            dead.append(node)
        else:
            needed.update(_reads(node))
    for node in dead:
        for inner in (node, *(n for body in _bodies(node) for n in body)):
            for i in range(len(inner.inputs)):
                inner.replace_input_with(i, None)
    graph.remove(dead)
    for name in [name for name, v in graph.initializers.items() if v not in needed and not v.is_graph_input()]:
        del graph.initializers[name]
    return needed


def _reads(node: oir.Node) -> Iterable[oir.Value]:
    """What a node reads, and what its bodies read or give."""
    yield from (v for v in node.inputs if v is not None)
    for body in _bodies(node):
        yield from body.outputs
        for inner in body:
            yield from (v for v in inner.inputs if v is not None)


def _bodies(node: oir.Node) -> Iterable[oir.Graph]:
    pending = bodies_of(node)
    while pending:
        body = pending.pop()
        yield body
        pending.extend(b for inner in body for b in bodies_of(inner))


def _rename(graph: oir.Graph, renames: Mapping[str, str]) -> None:
    places = {v.name: v for v in (*graph.inputs, *graph.outputs)}
    taken = _names(graph)
    for old, new in renames.items():
        if old not in places:
            known = [name for name in places if name]
            raise UsageError(f"no input or output is called {old!r}", where="--rename", hint=nearest(old, known))
        if new in taken and new not in renames:
            raise UsageError(f"the name {new!r} is taken", where="--rename", hint="choose another")
    if len(set(renames.values())) < len(renames):
        raise UsageError("two values would have the same name", where="--rename")
    defaults = {old: graph.initializers.pop(old) for old in renames if old in graph.initializers}
    for old, new in renames.items():
        places[old].name = new
    for value in defaults.values():
        graph.initializers[value.name or ""] = value


def _names(graph: oir.Graph) -> Collection[str]:
    """All names of values, in bodies too, where they would hide those outside."""
    found: set[str] = set()
    pending = [graph]
    while pending:
        inner = pending.pop()
        found.update(v.name for v in (*inner.inputs, *inner.initializers.values()) if v.name)
        for node in inner:
            found.update(v.name for v in node.outputs if v.name)
            pending.extend(bodies_of(node))
    return found
