"""Setting sizes: what a model leaves open becomes a number, in all places that name it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as oir

from graphopt.errors import UsageError, nearest
from graphopt.ir.dims import Shape
from graphopt.ir.facts import Facts, Inconsistent
from graphopt.ir.ports import all_values, declared, find_axis, find_input, real_inputs, spelled
from graphopt.ir.request import SizeRequest
from graphopt.ir.value import bodies_of


def fix_sizes(model: oir.Model, request: SizeRequest) -> None:
    """Write the numbers of `request` into the inputs of `model`, and into all that shares a name with them.

    Raises `UsageError` for names and axes that do not exist, for numbers that contradict the model or one another, and
    if an operator refuses the operands that it would get.
    """
    inputs = real_inputs(model)
    before = Facts(model)
    shapes = {v: before.shape(v) for graph in _graphs(model) for v in all_values(graph)}
    names, places = _numbers(inputs, request)
    for name, axis in places:
        sizes = list(inputs[name].shape or ())
        sizes[axis] = places[name, axis]
        inputs[name].shape = oir.Shape(sizes)
    for graph in _graphs(model):
        for value in all_values(graph):
            _rename(value, names)
    facts = Facts(model)
    found = [problem for problem in facts.problems if problem not in before.problems]
    found = found or _refusals(model, facts, shapes)
    if found:
        raise UsageError(f"with these sizes an operator does not fit: {found[0]}", hint=_there_is(inputs))
    for value in model.graph.outputs:
        _refine(value, facts)


def _refusals(model: oir.Model, facts: Facts, before: Mapping[oir.Value, Shape | None]) -> list[str]:
    """Which of the nodes that see other shapes than `before` refuse them."""
    for graph in _graphs(model):
        for node in graph:
            if all(v is None or facts.shape(v) == before.get(v) for v in node.inputs):
                continue
            name = node.name or node.op_type
            misfit = _misfit(node, facts)
            if misfit is not None:
                return [f"{name}: {node.op_type} would multiply {misfit[0]} values with {misfit[1]}"]
            try:
                facts.outputs(node, quick=False)
            except Inconsistent as error:
                return [f"{name}: {error}"]
    return []


def _misfit(node: oir.Node, facts: Facts) -> tuple[int, int] | None:
    """The two sizes of a product that must be equal and are not, also where onnx does not look for a free batch."""
    shapes = [None if v is None else facts.shape(v) for v in node.inputs[:2]]
    if node.domain != "" or len(shapes) < 2 or not shapes[0] or not shapes[1]:
        return None
    a, b = shapes[0], shapes[1]
    if node.op_type == "MatMul":
        pair = a[-1], b[-2:][0]
    elif node.op_type == "Gemm" and len(a) == len(b) == 2:
        pair = a[1 - _flag(node, "transA")], b[_flag(node, "transB")]
    elif node.op_type == "Conv" and len(a) == len(b) > 1 and isinstance(b[1], int):
        pair = a[1], b[1] * _flag(node, "group", 1)
    else:
        return None
    x, y = pair
    return (x, y) if isinstance(x, int) and isinstance(y, int) and x != y else None


def _flag(node: oir.Node, name: str, default: int = 0) -> int:
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_int()


def _numbers(
    inputs: Mapping[str, oir.Value], request: SizeRequest
) -> tuple[dict[str, int], dict[tuple[str, int], int]]:
    """The numbers asked for: by name, and by input and axis where a size has no name."""
    names: dict[str, int] = {}
    places: dict[tuple[str, int], int] = {}
    known = {size for value in inputs.values() if value.shape is not None for size in declared(value)}
    for name, number in request.names.items():
        if name not in known:
            symbols = sorted(size for size in known if isinstance(size, str))
            how = "name one as INPUT:AXIS" if None in known else "none has a name"
            hint = nearest(name, symbols) if symbols else f"{how}: {_there_is(inputs)}"
            raise UsageError(f"no input has a size that is called {name!r}", hint=hint)
        names[name] = number
    for value, axis, number in _asked(dict(inputs), request):
        name = value.name or ""
        size = declared(value)[axis]
        held = size if isinstance(size, int) else names.get(size) if size is not None else places.get((name, axis))
        if held is not None and held != number:
            why = "the model has" if isinstance(size, int) else "it is also set to"
            where = f"{name}, axis {axis}"
            raise UsageError(f"a size cannot be {number}: {why} {held}", where=where, hint=f"it is {spelled(value)}")
        if isinstance(size, str):
            names[size] = number
        elif size is None:
            places[name, axis] = number
    return names, places


def _asked(inputs: dict[str, oir.Value], request: SizeRequest) -> list[tuple[oir.Value, int, int]]:
    """Input, axis and number for all that was asked of single axes."""
    found: list[tuple[oir.Value, int, int]] = []
    for name, shape in request.shapes.items():
        value = find_input(inputs, name)
        if value.shape is None:
            value.shape = oir.Shape([None] * len(shape))
        rank = len(declared(value))
        if len(shape) != rank:
            what = f"the shape has {len(shape)} axes, but the input has {rank}"
            raise UsageError(what, where=value.name, hint=f"it is {spelled(value)}")
        found += [(value, axis, number) for axis, number in enumerate(shape) if number is not None]
    for (name, axis), number in request.places.items():
        value = find_input(inputs, name)
        found.append((value, find_axis(value, axis), number))
    return found


def _rename(value: oir.Value, names: Mapping[str, int]) -> None:
    if value.shape is None or value.shape.is_static():
        return
    sizes = [names.get(size.value or "", size) if isinstance(size, oir.SymbolicDim) else size for size in value.shape]
    if sizes != list(value.shape):
        value.shape = oir.Shape(sizes)


def _refine(value: oir.Value, facts: Facts) -> None:
    """Declare the numbers that are known of an output now."""
    shape = facts.shape(value)
    if shape is None or (value.shape is not None and len(value.shape) != len(shape)):
        return
    old = list(value.shape) if value.shape is not None else [None] * len(shape)
    value.shape = oir.Shape([new if isinstance(new, int) else size for new, size in zip(shape, old, strict=True)])


def _graphs(model: oir.Model) -> list[oir.Graph]:
    """The main graph and the bodies in it; functions have no sizes of their own."""
    found: list[oir.Graph] = []
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        found.append(graph)
        pending += [body for node in graph for body in bodies_of(node)]
    return found


def _there_is(inputs: Mapping[str, oir.Value]) -> str:
    return "; ".join(f"{name} is {spelled(value)}" for name, value in inputs.items() if value.shape is not None)
