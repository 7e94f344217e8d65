"""What an operator is told about sizes, told with as little as possible that has to be computed.

A Reshape copies a size that its operand has at the same place, an Expand keeps it, a Slice up to the end need not know
where that is. What is still to be computed is spelled with the fewest nodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt_passes.simplify.reading import INT64_MAX, fixed, operand
from graphopt_passes.simplify.sources import MOST, Elements, Sources
from graphopt_passes.simplify.spelling import Speller
from graphopt_passes.simplify.written import Made, cost, reads, write

from graphopt import Context, Dim, DType, Node, Value

_SOURCES = ("Shape", "Size")
_SIZED = {"Reshape": (1,), "Expand": (1,), "Slice": (1, 2), "ConstantOfShape": (0,), "Tile": (1,), "Range": (0, 1, 2),
          "Resize": (3,)}  # fmt: skip


def spell_sizes(ctx: Context) -> None:
    """Let operators compute as little as possible of the sizes that they are told, and from what is there anyway."""
    for graph in list(ctx.model.graphs()):
        if next(graph.find(*_SOURCES), None) is None:
            continue
        sources, passed = Sources.of(graph), set[Node]()
        for node in graph.nodes:
            if node.op == "Shape" and node.is_standard:
                _read_earlier(ctx, sources, node)
            for index, value in enumerate(node.inputs):
                if value is not None and _is_computed(value) and _is_told(node, index):
                    _spell(ctx, sources, node, index, value, passed)
            passed.add(node)
            if node.alive:
                sources.add_node(node)


def _read_earlier(ctx: Context, sources: Sources, node: Node) -> None:
    """Take a shape from the first tensor that has it, so that nothing has to be computed for its shape's sake."""
    value = operand(node, 0)
    first = None if value is None or value.shape is None else sources.alike.get(value.shape)
    if value is not None and first is not None and first != value and first.alive:
        with ctx.rewrite("simplify.earlier_shape", at=node) as rewrite:
            rewrite.set_input(node, 0, first)


def _is_computed(value: Value) -> bool:
    if value.dtype != DType.INT64 or value.is_const or value.producer is None:
        return False
    elements = value.symbolic
    return elements is not None and len(elements) <= MOST and not all(isinstance(e, int) for e in elements)


def _is_told(node: Node, index: int) -> bool:
    """Whether an operand is read for what is in it, by an operator that does not compute sizes itself."""
    if node.op in ("Shape", "Size", "Identity") or node.bodies:
        return False
    return index in _SIZED.get(node.op, ()) or all(o.symbolic is None for o in node.outputs)


def _spell(ctx: Context, sources: Sources, node: Node, index: int, value: Value, passed: set[Node]) -> None:
    """Spell what `value` tells a node, and those behind it that can be told the same; `passed` are the ones before."""
    wanted = _least(node, index, value)
    group = [
        (reader, i)
        for reader, i in value.uses()
        if reader.graph == node.graph and reader not in passed
        and _is_told(reader, i) and _least(reader, i, value) == wanted
    ]  # fmt: skip
    lost = dying(value, len(group))
    if wanted == value.symbolic and not lost:
        return
    speller = Speller(sources, (o for n in lost for o in n.outputs))
    found = speller.vector(wanted) if value.rank else speller.scalar(wanted[0])
    if found is None or (
        isinstance(found, Value | Made) and cost(found) >= len(dying(value, len(group), reads(found)))
    ):
        return
    with ctx.rewrite("simplify.spelled_size", at=node) as rewrite:
        made = write(rewrite, found)
        for reader, i in group:
            rewrite.set_input(reader, i, made)
    now = node.inputs[index]
    if now is not None and now != value:
        for new in _chain(now, reads(found)):
            sources.add_node(new)


def _chain(value: Value, known: set[Value]) -> list[Node]:
    """The nodes that make a value from those that are known, in order."""
    found: list[Node] = []
    pending = [value]
    while pending:
        producer = pending.pop().producer
        if producer is not None and producer not in found and producer.outputs[0] not in known:
            found.append(producer)
            pending.extend(v for v in producer.inputs if v is not None and v not in known)
    return found[::-1]


def _least(node: Node, index: int, value: Value) -> Elements:
    """What says the same to a node with as little as possible that has to be computed."""
    elements = value.symbolic
    assert elements is not None
    found: Elements | None = None
    if node.op == "Reshape" and not node.attr("allowzero", 0):
        found = _copied(elements, node)
    elif node.op == "Expand":
        found = _kept(elements, node)
    elif node.op == "Slice" and index == 2:
        found = _to_the_end(elements, node)
    return elements if found is None else found


def _copied(elements: Elements, node: Node) -> Elements | None:
    """Of a Reshape: 0 for the sizes that the operand has at the same place."""
    shape = _shape_of(node)
    if shape is None:
        return None
    return tuple(
        0 if isinstance(e, Dim) and e.is_size and i < len(shape) and shape[i] == e else e
        for i, e in enumerate(elements)
    )


def _kept(elements: Elements, node: Node) -> Elements | None:
    """Of an Expand: 1 for the sizes that the operand has at the same place, counted from the end."""
    shape = _shape_of(node)
    if shape is None:
        return None
    start = len(elements) - len(shape)
    return tuple(
        1 if isinstance(e, Dim) and e.is_size and i >= start and shape[i - start] == e else e
        for i, e in enumerate(elements)
    )


def _to_the_end(elements: Elements, node: Node) -> Elements | None:
    """Of a Slice forwards: the largest number for an end that is the end of the axis."""
    shape = _shape_of(node)
    axes, steps = operand(node, 3), operand(node, 4)
    places = tuple(range(len(elements))) if axes is None else fixed(axes)
    paces = (1,) * len(elements) if steps is None else fixed(steps)
    if shape is None or places is None or paces is None or not len(places) == len(paces) == len(elements):
        return None
    return tuple(
        INT64_MAX if isinstance(e, Dim) and e.is_size and pace > 0 and -len(shape) <= axis < len(shape)
        and shape[axis] == e else e
        for e, axis, pace in zip(elements, places, paces, strict=True)
    )  # fmt: skip


def _shape_of(node: Node) -> tuple[int | Dim | None, ...] | None:
    x = operand(node, 0)
    return None if x is None else x.shape


def dying(value: Value, dropped: int, kept: Iterable[Value] = ()) -> list[Node]:
    """The nodes that nobody needs once `value` has lost `dropped` readers, and while `kept` have one more."""
    left = {v: v.use_count + 1 for v in kept}
    left[value] = left.get(value, value.use_count) - dropped
    found: list[Node] = []
    pending = [value]
    while pending:
        producer = pending.pop().producer
        if producer is None or producer in found or producer.bodies:
            continue
        if any(left.get(o, o.use_count) > 0 for o in producer.outputs):
            continue
        found.append(producer)
        for v in producer.inputs:
            if v is not None:
                left[v] = left.get(v, v.use_count) - 1
                pending.append(v)
    return found
