"""Reading a Concat: its operands, its axis, and where each operand lies along it."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt_passes.simplify.reading import operand

from graphopt import Dim, Node, Value, require

Size = int | Dim


def concat_of(node: Node) -> Node | None:
    """The Concat of the same graph that makes the node's first operand."""
    x = operand(node, 0)
    producer = None if x is None else x.producer
    if producer is None or producer.op != "Concat" or not producer.is_standard or producer.graph != node.graph:
        return None
    return producer


def operands(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def rank_of(node: Node) -> int:
    rank = node.outputs[0].rank
    require(rank is not None, "the rank is not known")
    assert rank is not None
    return rank


def axis_of(node: Node) -> int:
    axis, rank = node.attr("axis", 0), rank_of(node)
    require(isinstance(axis, int) and -rank <= axis < rank, "the axis is not fixed")
    return int(axis) % rank


def size_along(value: Value, axis: int) -> Size | None:
    shape = value.shape
    return None if shape is None or axis >= len(shape) else shape[axis]


def spans(values: Sequence[Value], axis: int) -> list[tuple[Size, Size]]:
    """Where each of the values begins and ends along the axis, as far as sizes are known."""
    found: list[tuple[Size, Size]] = []
    begin: Size = 0
    for value in values:
        size = size_along(value, axis)
        if size is None:
            break
        found.append((begin, begin + size))
        begin = begin + size
    return found
