"""Reading what an operator's table entry depends on; each function declines what is not fixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from graphopt_passes.layout.orders import Shape
from graphopt_passes.simplify.reading import fixed, from_front, operand

from graphopt import Node, Value, require


def first(node: Node) -> Value:
    """The first operand."""
    value = operand(node, 0)
    require(value is not None, "the operand is left out")
    assert value is not None
    return value


def shape_of(value: Value) -> Shape:
    shape = value.shape
    require(shape is not None, "the rank is not known")
    assert shape is not None
    return shape


def rank_of(value: Value) -> int:
    return len(shape_of(value))


def axis_of(node: Node, default: int, rank: int) -> int:
    """The attribute `axis`, counted from the front."""
    axis = node.attr("axis", default)
    require(isinstance(axis, int) and -rank <= axis < rank, "the axis is not fixed")
    return int(axis) % rank


def number(node: Node, name: str, default: int) -> int:
    """An attribute that is an integer."""
    value = node.attr(name, default)
    require(isinstance(value, int), f"{name} is an attribute of the function's caller")
    return int(value)


def numbers(node: Node, name: str) -> list[int] | None:
    """An attribute that is a list of integers, None if it is left out."""
    value = node.attr(name)
    require(value is None or isinstance(value, list | tuple), f"{name} is an attribute of the function's caller")
    return None if value is None else [int(i) for i in value]


def constant(value: Value | None, what: str) -> tuple[int, ...]:
    """The elements of a small integer tensor."""
    found = None if value is None else fixed(value)
    require(found is not None, f"{what} not fixed")
    assert found is not None
    return found


def listed(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front, each once."""
    return from_front(axes, rank)


def integers(numbers: Sequence[int], like: Value | None = None) -> np.ndarray:
    """A constant of the integer type of another value, int64 without one."""
    dtype = np.int32 if like is not None and like.dtype is not None and like.dtype.name == "INT32" else np.int64
    return np.array(list(numbers), dtype)


def single_result(node: Node) -> None:
    """Decline unless only the first result is used."""
    require(not any(o.use_count for o in node.outputs[1:]), "another result than the first is used")
