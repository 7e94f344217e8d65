"""Operators with a number for each axis, or for each axis listed: the numbers change places, or the list does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from graphopt_passes.layout.carry import Carry, Changed, always, broadcast, moved, whole
from graphopt_passes.layout.orders import Layout
from graphopt_passes.layout.reading import constant, first, integers, listed, numbers, rank_of, shape_of
from graphopt_passes.simplify.reading import operand

from graphopt import Accuracy, Node, Value, require


def pad(node: Node) -> Carry:
    """Pad: begins and ends of all axes, or of those that an input lists."""
    rank = rank_of(first(node))
    spread = {0: whole(rank)}
    listing = operand(node, 3)
    if listing is not None:
        axes = listed(constant(listing, "the axes are"), rank)
        return Carry(rank, spread, spread, lambda order: Changed(constants={3: integers(moved(order, axes), listing)}))
    if node.version < 11:
        pads = numbers(node, "pads" if node.version >= 2 else "paddings") or []
    else:
        pads = list(constant(operand(node, 1), "the pads are"))
    require(len(pads) == 2 * rank, "there is not one begin and one end for each axis")

    def change(order: Layout) -> Changed:
        now = [pads[axis] for axis in order] + [pads[axis + rank] for axis in order]
        if node.version < 11:
            return Changed(attrs={"pads" if node.version >= 2 else "paddings": now})
        return Changed(constants={1: integers(now)})

    return Carry(rank, spread, spread, change)


def slice_(node: Node) -> Carry:
    """Slice: starts, ends and steps belong to the axes listed, or to the first ones."""
    rank = rank_of(first(node))
    spread = {0: whole(rank)}
    if node.version < 10:
        given = numbers(node, "axes")
        count = len(numbers(node, "starts") or [])
        axes = listed(range(count) if given is None else given, rank)
        return Carry(rank, spread, spread, lambda order: Changed(attrs={"axes": moved(order, axes)}))
    starts, listing = operand(node, 1), operand(node, 3)
    axes = listed(_first_axes(starts) if listing is None else constant(listing, "the axes are"), rank)
    return Carry(rank, spread, spread, lambda order: Changed(constants={3: integers(moved(order, axes), starts)}))


def _first_axes(starts: Value | None) -> Sequence[int]:
    shape = None if starts is None else starts.shape
    require(shape is not None and len(shape) == 1 and isinstance(shape[0], int), "it is not fixed which axes are cut")
    assert shape is not None and isinstance(shape[0], int)
    return range(shape[0])


def tile(node: Node) -> Carry:
    """Tile: a number of repetitions for each axis."""
    rank = rank_of(first(node))
    require(node.version >= 6, "before opset 6 the axis is an input")
    repeats = constant(operand(node, 1), "the repeats are")
    require(len(repeats) == rank, "there is not one repeat for each axis")
    spread = {0: whole(rank)}
    return Carry(rank, spread, spread, lambda order: Changed(constants={1: integers([repeats[a] for a in order])}))


def expand(node: Node) -> Carry:
    """Expand: a size for each axis of the result, as far as the shape has them; the operand is broadcast."""
    x = first(node)
    rank = rank_of(node.outputs[0])
    shape = constant(operand(node, 1), "the shape is")
    wanted = [1] * (rank - len(shape)) + list(shape)
    reads = {0: broadcast(rank_of(x), rank)}

    def change(order: Layout) -> Changed:
        return Changed(constants={1: integers([wanted[axis] for axis in order])})

    return Carry(rank, reads, {0: whole(rank)}, change)


def resize(node: Node) -> Carry:
    """Resize and Upsample: a scale or a size for each axis, or for those that an attribute lists."""
    x = first(node)
    rank = rank_of(x)
    spread = {0: whole(rank)}
    roi, scales, size = _places(node)
    require(roi is None or shape_of(roi) == (0,), "a region of interest is cut out")
    mode = node.attr("mode", "nearest")
    accuracy = Accuracy.EXACT if mode == "nearest" else Accuracy.CLOSE
    shape, result = shape_of(x), shape_of(node.outputs[0])
    axes = numbers(node, "axes") if node.version >= 18 else None
    stretched = _stretched(scales, range(rank) if axes is None else listed(axes, rank))
    scaled = [a for a in range(rank) if shape[a] is None or shape[a] != result[a] or a in stretched]

    def at_the_end(order: Layout) -> bool:
        # Runtimes interpolate only where the axes that change size are the last ones, in order.
        return list(order[rank - len(scaled) :]) == scaled

    allows = always if mode == "nearest" else at_the_end
    if axes is not None:
        from_front = listed(axes, rank)
        return Carry(rank, spread, spread, lambda order: Changed(attrs={"axes": moved(order, from_front)}),
                     allows=allows, accuracy=accuracy)  # fmt: skip
    index, factors = _factors(node, scales, size)
    require(factors.shape == (rank,), "there is not one number for each axis")

    def change(order: Layout) -> Changed:
        now = np.ascontiguousarray(factors[list(order)])
        if node.version < 9:
            return Changed(attrs={"scales": [float(s) for s in now]})
        return Changed(constants={index: now})

    return Carry(rank, spread, spread, change, allows=allows, accuracy=accuracy)


def _stretched(scales: Value | None, axes: Sequence[int]) -> set[int]:
    """Axes with a scale other than 1, even if it is so near to 1 that the size stays the same."""
    array = None if scales is None else scales.array()
    return set() if array is None else {axis for axis, scale in zip(axes, array, strict=False) if scale != 1}


def _places(node: Node) -> tuple[Value | None, Value | None, Value | None]:
    """The region of interest, the scales and the sizes, as far as they are given."""
    if node.op == "Resize" and node.version >= 11:
        return operand(node, 1), operand(node, 2), operand(node, 3)
    return None, operand(node, 1), None


def _factors(node: Node, scales: Value | None, size: Value | None) -> tuple[int, np.ndarray]:
    """The scales or sizes, and at which input they are."""
    if node.version < 9:
        given = node.attr("scales")
        require(isinstance(given, list | tuple), "the scales are not fixed")
        return 0, np.array(given, np.float32)
    if scales is not None and scales.shape != (0,):
        array = scales.array()
        require(array is not None, "the scales are not fixed")
        assert array is not None
        return (2 if node.op == "Resize" and node.version >= 11 else 1), array
    return 3, integers(constant(size, "the sizes are"))

