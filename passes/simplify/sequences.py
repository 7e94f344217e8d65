"""Sequences and optionals whose elements are known: what is read from them is read directly.

A sequence is followed back to the operators that made it: SequenceConstruct, SequenceEmpty, SequenceInsert,
SequenceErase and SplitToSequence with fixed sizes. Its elements are then values, or parts of one value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from graphopt_passes.simplify.joined import operands, size_along
from graphopt_passes.simplify.narrowing import cut
from graphopt_passes.simplify.reading import fixed, operand

from graphopt import Context, Decline, Node, Rewrite, Value, require

_MOST = 256  # elements that are followed: sequences grow by copying


class _Part:
    """An element of SplitToSequence: `start:end` of an axis of `whole`, which loses the axis if `drops`."""

    def __init__(self, node: Node, whole: Value, axis: int, start: int, end: int, drops: bool) -> None:
        self.node, self.whole, self.axis, self.start, self.end, self.drops = node, whole, axis, start, end, drops

    def make(self, rewrite: Rewrite) -> Value:
        if self.drops:
            index = rewrite.constant(np.array(self.start, np.int64), f"{self.whole.name}_index")
            return rewrite.node("Gather", [self.whole, index], {"axis": self.axis})[0]
        return cut(rewrite, self.node, self.whole, self.axis, self.start, self.end)


_Element = Value | _Part


def open_sequences(ctx: Context) -> None:
    """Read elements of known sequences and optionals where they come from."""
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*_OPENED):
            if node.is_standard and node.alive:
                name, change = _OPENED[node.op]
                # What becomes of a sequence has a shape that nobody infers for it.
                with ctx.rewrite(f"simplify.{name}", at=node, same_type=False) as rewrite:
                    change(rewrite, node)


def _element_at(rewrite: Rewrite, node: Node) -> None:
    elements = _elements(operand(node, 0))
    at = operand(node, 1)
    index = None if at is None else fixed(at)
    require(index is not None and len(index) == 1, "the place is not fixed")
    assert index is not None
    require(-len(elements) <= index[0] < len(elements), "there is no such element")
    found = elements[index[0]]
    rewrite.replace(node.outputs[0], found.make(rewrite) if isinstance(found, _Part) else found)


def _length(rewrite: Rewrite, node: Node) -> None:
    count = len(_elements(operand(node, 0)))
    rewrite.replace(node.outputs[0], rewrite.constant(np.array(count, np.int64), node.outputs[0].name))


def _joined(rewrite: Rewrite, node: Node) -> None:
    """ConcatFromSequence: a Concat, of Unsqueezes if it makes a new axis."""
    elements = _elements(operand(node, 0))
    require(elements, "the sequence is empty")
    axis, new = node.attr("axis"), node.attr("new_axis", 0)
    require(isinstance(axis, int) and isinstance(new, int), "the axis is an attribute of the function's caller")
    wholes = [e.whole if isinstance(e, _Part) and not e.drops and not new else None for e in elements]
    if wholes[0] is not None and all(w == wholes[0] for w in wholes):
        first = elements[0]
        assert isinstance(first, _Part) and first.whole.rank is not None
        if axis in (first.axis, first.axis - first.whole.rank) and _covers(elements, first):
            rewrite.replace(node.outputs[0], first.whole)
            return
    made = 1 + sum(isinstance(e, _Part) + bool(new) for e in elements)
    require(made <= 1 + _gone(operand(node, 0)), "it would take more operators")
    parts = [e.make(rewrite) if isinstance(e, _Part) else e for e in elements]
    if new:
        require(node.version >= 13, "Unsqueeze takes its axes as an attribute at this opset")
        place = rewrite.constant(np.array([axis], np.int64), f"{node.outputs[0].name}_axis")
        parts = [rewrite.node("Unsqueeze", [p, place])[0] for p in parts]
    rewrite.replace(node.outputs[0], rewrite.node("Concat", parts, {"axis": axis})[0])


def _gone(value: Value | None) -> int:
    """How many operators nobody needs once the sequence is not read here."""
    count = 0
    while value is not None and value.use_count == 1 and value.producer is not None:
        count += 1
        if value.producer.op not in ("SequenceInsert", "SequenceErase"):
            break
        value = operand(value.producer, 0)
    return count


def _covers(elements: list[_Element], first: _Part) -> bool:
    """Whether the parts are those of one axis of one value, in order and without gaps."""
    end = 0
    for e in elements:
        if not isinstance(e, _Part) or e.axis != first.axis or e.start != end:
            return False
        end = e.end
    return end == size_along(first.whole, first.axis)


def _unwrapped(rewrite: Rewrite, node: Node) -> None:
    """OptionalGetElement of a value that is there."""
    value = _content(operand(node, 0))
    require(value is not None, "the optional is empty")
    assert value is not None
    rewrite.replace(node.outputs[0], value)


def _has(rewrite: Rewrite, node: Node) -> None:
    given = operand(node, 0)
    there = given is not None and _content(given) is not None
    rewrite.replace(node.outputs[0], rewrite.constant(np.array(there), node.outputs[0].name))


def _content(value: Value | None) -> Value | None:
    """What an optional holds, None if it is empty. Declines the rewrite if that is not known."""
    if value is None:
        return None
    producer = value.producer
    if producer is not None and producer.is_standard and producer.op == "Optional":
        return operand(producer, 0)
    if value.dtype is not None and value.shape is not None:
        return value  # a tensor, which is always there
    raise Decline("it is not known whether the optional holds anything")


def _elements(value: Value | None) -> list[_Element]:
    """The elements of a sequence, in order. Declines the rewrite if they are not known."""
    producer = None if value is None else value.producer
    require(producer is not None and producer.is_standard, "what made the sequence is not known")
    assert producer is not None
    if producer.op == "SequenceConstruct":
        return list(operands(producer))
    if producer.op == "SequenceEmpty":
        return []
    if producer.op == "SplitToSequence":
        return list(_split(producer))
    require(producer.op in ("SequenceInsert", "SequenceErase"), f"{producer.op} made the sequence")
    elements = _elements(operand(producer, 0))
    require(len(elements) < _MOST, "the sequence is long")
    inserts = producer.op == "SequenceInsert"
    at = operand(producer, 2 if inserts else 1)
    found = (len(elements) if inserts else len(elements) - 1,) if at is None else fixed(at)
    require(found is not None and len(found) == 1, "the place is not fixed")
    assert found is not None
    place = found[0] + (len(elements) if found[0] < 0 else 0)
    require(0 <= place < len(elements) + inserts, "there is no such place")
    if not inserts:
        return elements[:place] + elements[place + 1 :]
    inserted = operand(producer, 1)
    assert inserted is not None
    return [*elements[:place], inserted, *elements[place:]]


def _split(node: Node) -> list[_Part]:
    """The parts of a SplitToSequence of an axis of fixed size."""
    whole, given = operand(node, 0), operand(node, 1)
    axis = node.attr("axis", 0)
    require(whole is not None and whole.rank is not None and isinstance(axis, int), "the axis is not fixed")
    assert whole is not None and whole.rank is not None
    require(-whole.rank <= axis < whole.rank, "the axis is out of range")
    axis %= whole.rank
    size = size_along(whole, axis)
    require(isinstance(size, int) and 0 < size <= _MOST, "the size of the axis is not fixed, or large")
    assert isinstance(size, int)
    if given is None:
        sizes: tuple[int, ...] = (1,) * size
    else:
        found = fixed(given)
        require(found, "the sizes of the parts are not fixed")
        assert found
        sizes = found
        if given.rank == 0:
            step = found[0]
            require(step > 0, "the size of the parts is not positive")
            sizes = tuple(min(step, size - i) for i in range(0, size, step))
    require(sum(sizes) == size and min(sizes) >= 0, "the sizes of the parts do not add up")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    drops = given is None and not node.attr("keepdims", 1)
    return [_Part(node, whole, axis, s, s + n, drops) for s, n in zip(starts, sizes, strict=True)]


_OPENED: dict[str, tuple[str, Callable[[Rewrite, Node], None]]] = {
    "SequenceAt": ("sequence_known", _element_at),
    "SequenceLength": ("sequence_known", _length),
    "ConcatFromSequence": ("sequence_known", _joined),
    "OptionalGetElement": ("optional_known", _unwrapped),
    "OptionalHasElement": ("optional_known", _has),
}
