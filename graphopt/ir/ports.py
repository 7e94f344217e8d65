"""The inputs of a model and their sizes, as the caller speaks of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as oir

from graphopt.errors import UsageError, nearest
from graphopt.ir.native import is_nameless

Declared = int | str | None
"""A size as the model declares it: a number, a name, or neither."""


def real_inputs(model: oir.Model) -> dict[str, oir.Value]:
    """The inputs that have to be given, by name: those with a default value are left out."""
    return {v.name or "": v for v in model.graph.inputs if not v.is_initializer()}


def declared(value: oir.Value) -> list[Declared]:
    """The sizes that a model declares. Raises `UsageError` if it does not declare how many there are."""
    if value.shape is None:
        raise UsageError("the model does not say how many axes this input has", where=value.name)
    return [_declared(size) for size in value.shape]


def _declared(size: int | oir.SymbolicDim) -> Declared:
    if isinstance(size, int):
        return size if size >= 0 else None
    return None if size.value is None or is_nameless(size.value) else size.value


def find_input(inputs: dict[str, oir.Value], name: str) -> oir.Value:
    """The input of this name; the only one for an empty name. Raises `UsageError` with what there is."""
    if not name:
        if len(inputs) != 1:
            raise UsageError(f"the model has {len(inputs)} inputs", hint=f"say which: {', '.join(inputs)}")
        return next(iter(inputs.values()))
    if name not in inputs:
        hint = nearest(name, list(inputs)) if inputs else "the model has no inputs"
        raise UsageError(f"there is no input {name!r}", hint=hint)
    return inputs[name]


def find_axis(value: oir.Value, axis: int) -> int:
    """The axis counted from the front. Raises `UsageError` if the input has none such."""
    rank = len(declared(value))
    if not -rank <= axis < rank:
        raise UsageError(f"there is no axis {axis}", where=value.name, hint=f"the input is {spelled(value)}")
    return axis % rank


def spelled(value: oir.Value) -> str:
    """An input's shape: `[batch, 3, 224, ?]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in declared(value)) + "]"


def all_values(graph: oir.Graph) -> Iterator[oir.Value]:
    """All values of a graph, the ones of bodies left out."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
