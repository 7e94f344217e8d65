"""Slice and Gather of a Concat: what stays within one operand reads that operand only."""

from __future__ import annotations

import numpy as np
from graphopt_passes.simplify.joined import axis_of, concat_of, operands, rank_of, size_along
from graphopt_passes.simplify.reading import INT64_MAX, fixed, ints, operand

from graphopt import Decline, Node, Rewrite, Value, require


def slice_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A Slice of a Concat is a Slice of one operand if it stays within that, or a Concat of the operands it takes."""
    concat = concat_of(node)
    assert concat is not None
    axis = axis_of(concat)
    starts, ends = ints(node, 1, "starts", 10), ints(node, 2, "ends", 10)
    axes = ints(node, 3, "axes", 10)
    steps = ints(node, 4, "steps", 10) if node.version >= 10 else None
    require(starts is not None and ends is not None and len(starts) == 1, "several axes are sliced")
    assert starts is not None and ends is not None
    require((axes or (0,))[0] in (axis, axis - rank_of(node)), "it slices another axis than was joined")
    require(steps is None or steps == (1,), "it takes steps")
    several = _operands_between(concat, axis, starts[0], ends[0])
    if several:
        rewrite.replace(node.outputs[0], rewrite.node("Concat", several, {"axis": axis})[0])
        return
    start, end, part, size = _within(concat, axis, starts[0], ends[0])
    whole = start == 0 and end == size
    rewrite.replace(node.outputs[0], part if whole else cut(rewrite, node, part, axis, start, end))


def gather_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A Gather of elements of one operand of a Concat is a Gather of that operand."""
    concat, indices = concat_of(node), operand(node, 1)
    assert concat is not None and indices is not None
    axis = axis_of(concat)
    require(node.attr("axis", 0) in (axis, axis - rank_of(concat)), "it gathers along another axis than was joined")
    wanted = fixed(indices) if indices.is_const else None
    require(wanted and (min(wanted) >= 0 or max(wanted) < 0), "the indices are not fixed")
    assert wanted
    start, _, part, _ = _within(concat, axis, min(wanted), max(wanted) + 1 or INT64_MAX)
    array = indices.content()
    moved = rewrite.constant(np.asarray(array - min(wanted) + start, array.dtype), indices.name)
    rewrite.replace(node.outputs[0], rewrite.node("Gather", [part, moved], {"axis": axis})[0])


def _operands_between(concat: Node, axis: int, start: int, end: int) -> list[Value]:
    """The operands, two or more but not all, that `start:end` of the joined axis takes as they are; else none."""
    sizes = [size_along(v, axis) for v in operands(concat)]
    known = [s for s in sizes if isinstance(s, int)]
    if len(known) < len(sizes):
        return []
    begins = [sum(known[:i]) for i in range(len(known) + 1)]
    start, end, _ = slice(start, end).indices(begins[-1])
    if start not in begins or end not in begins:
        return []
    taken = [v for v, b in zip(operands(concat), begins, strict=False) if start <= b < end]
    return taken if 1 < len(taken) < len(sizes) else []


def _within(concat: Node, axis: int, start: int, end: int) -> tuple[int, int, Value, int]:
    """The operand that holds `start:end` of the joined axis, and where in it; its size there as well."""
    sizes = [size_along(v, axis) for v in operands(concat)]
    total = sum(s for s in sizes if isinstance(s, int)) if all(isinstance(s, int) for s in sizes) else None
    if total is not None:
        start, end, _ = slice(start, end).indices(total)
    require(0 <= start < end, "the range is empty, or counts from an end that is not fixed")
    begin = 0
    for part, size in zip(operands(concat), sizes, strict=True):
        require(isinstance(size, int), "the sizes of the operands before it are not fixed")
        assert isinstance(size, int)
        if start < begin + size:
            require(end <= begin + size, "the range is in several operands")
            return start - begin, end - begin, part, size
        begin += size
    raise Decline("the range is empty")


def cut(rewrite: Rewrite, node: Node, x: Value | None, axis: int, start: int, end: int) -> Value:
    """`start:end` of an axis of `x`, as Slice is written at the opset of `node`."""
    if node.version < 10:
        return rewrite.node("Slice", [x], {"starts": [start], "ends": [end], "axes": [axis]})[0]
    bounds = [rewrite.constant(np.array([i], np.int64), f"{node.outputs[0].name}_range") for i in (start, end, axis)]
    return rewrite.node("Slice", [x, *bounds])[0]
