"""Pieces of one tensor: Slices, Gathers and parts of a Split of one axis, and what becomes of them together.

A piece says which elements of an axis of a tensor it holds. Pieces that are joined are one piece, be it a range or a
list of elements; Slices that share an axis out among them are a Split.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from graphopt_passes.simplify.joined import axis_of, operands, rank_of, size_along, spans
from graphopt_passes.simplify.narrowing import cut
from graphopt_passes.simplify.reading import fixed, ints, operand
from graphopt_passes.simplify.unused import split

from graphopt import Decline, Node, Rewrite, Value, require

_MOST = 4096  # elements of an axis that are listed
_RUN = 4  # elements in a row, on average, from which on copying ranges is cheaper than copying elements


@dataclass(frozen=True)
class Piece:
    """The elements `places` of an axis of `whole`, in this order."""

    whole: Value
    axis: int
    places: tuple[int, ...]


def piece_of(value: Value, axis: int, depth: int = 4) -> Piece:
    """What a value holds of another one along the axis: all of itself, if it is not a piece of anything."""
    node = value.producer
    size = size_along(value, axis)
    require(isinstance(size, int) and size <= _MOST, "the size of a part is not fixed, or large")
    assert isinstance(size, int)
    here = Piece(value, axis, tuple(range(size)))
    if node is None or not node.is_standard or depth == 0 or node.op not in ("Slice", "Gather", "Split"):
        return here
    x = operand(node, 0)
    total = None if x is None else size_along(x, axis)
    if x is None or not isinstance(total, int) or total > _MOST or x.rank != value.rank:
        return here
    try:
        taken = _taken(node, value, axis, total)
    except Decline:
        return here
    outer = piece_of(x, axis, depth - 1)
    return Piece(outer.whole, axis, tuple(outer.places[i] for i in taken))


def _taken(node: Node, value: Value, axis: int, total: int) -> range | list[int]:
    """Which elements of the first operand a Slice, Gather or Split takes."""
    if node.op == "Split":
        require(axis_of(node) == axis, "another axis")
        begin, end = spans(node.outputs, axis)[value.index or 0]
        require(isinstance(begin, int) and isinstance(end, int), "the sizes are not fixed")
        assert isinstance(begin, int) and isinstance(end, int)
        return range(begin, end)
    if node.op == "Slice":
        return range(total)[slice_along(node, axis)]
    indices = operand(node, 1)
    require(indices is not None and indices.is_const and indices.rank == 1, "the indices are not fixed")
    assert indices is not None
    found = fixed(indices)
    require(found and node.attr("axis", 0) in (axis, axis - rank_of(node)), "another axis")
    assert found
    require(all(-total <= i < total for i in found), "an index is out of range")
    return [i % total for i in found]


def slice_along(node: Node, axis: int) -> slice:
    """What a Slice of this one axis takes. Declines the rewrite for others."""
    starts, ends = ints(node, 1, "starts", 10), ints(node, 2, "ends", 10)
    axes = ints(node, 3, "axes", 10)
    steps = ints(node, 4, "steps", 10) if node.version >= 10 else None
    require(starts is not None and ends is not None and len(starts) == len(ends) == 1, "several axes are sliced")
    assert starts is not None and ends is not None
    require((axes or (0,))[0] in (axis, axis - rank_of(node)), "it slices another axis")
    step = (steps or (1,))[0]
    require(step != 0, "the step is 0")
    return slice(starts[0], ends[0], step)


def joins_pieces(node: Node) -> bool:
    """Whether a Concat joins several values, each cut out of another."""
    makers = [v.producer for v in operands(node)]
    return len(makers) > 1 and any(m is not None and _is_cut(m) for m in makers)


def concat_pieces(rewrite: Rewrite, node: Node) -> None:
    """A Concat of pieces of one tensor is a piece of it: all of it, a Slice or a Gather."""
    axis, parts = axis_of(node), operands(node)
    require(len(parts) > 1, "there is one operand")
    makers = dict.fromkeys(p.producer for p in parts)
    require(None not in makers and all(_is_cut(m) for m in makers if m), "an operand is no piece of anything")
    pieces = [piece_of(p, axis) for p in parts]
    whole = pieces[0].whole
    require(all(p.whole == whole for p in pieces), "the operands are pieces of different tensors")
    places = [i for p in pieces for i in p.places]
    size = size_along(whole, axis)
    assert isinstance(size, int)
    if places == list(range(size)):
        rewrite.replace(node.outputs[0], whole)
        return
    require(places, "nothing is joined")
    cuts = [m for m in makers if m is not None]
    gone = all(all(reader == node for reader, _ in o.uses()) and not o.is_output for m in cuts for o in m.outputs)
    require(gone, "the pieces have other readers")
    if places == list(range(places[0], places[-1] + 1)):
        rewrite.replace(node.outputs[0], cut(rewrite, cuts[0], whole, axis, places[0], places[-1] + 1))
        return
    require(len(places) <= _RUN * len(parts), "whole ranges are joined, which is cheaper than single elements")
    indices = rewrite.constant(np.array(places, np.int64), f"{node.outputs[0].name}_places")
    rewrite.replace(node.outputs[0], rewrite.node("Gather", [whole, indices], {"axis": axis})[0])


def concat_parts(rewrite: Rewrite, node: Node) -> None:
    """Neighbouring parts of a Split that are only joined again are one part."""
    axis, parts = axis_of(node), operands(node)
    first = next((i for i, (a, b) in enumerate(itertools.pairwise(parts)) if _follows(a, b)), None)
    require(first is not None, "no neighbouring parts of a Split are joined")
    assert first is not None
    last = first + 1
    while last + 1 < len(parts) and _follows(parts[last], parts[last + 1]):
        last += 1
    whole = parts[first].producer
    assert whole is not None
    require(axis_of(whole) == axis, "it splits another axis than is joined")
    require(len(parts) > last - first + 1 or len(whole.outputs) > len(parts), "everything is joined again")
    begin, count = parts[first].index or 0, last - first + 1
    places = spans(whole.outputs, axis)
    sizes = [b - a for a, b in places if isinstance(a, int) and isinstance(b, int)]
    require(len(sizes) == len(whole.outputs), "the sizes of the parts are not fixed")
    merged = [*sizes[:begin], sum(sizes[begin : begin + count]), *sizes[begin + count :]]
    made = split(rewrite, whole, operand(whole, 0), axis, merged)
    kept = [o for i, o in enumerate(whole.outputs) if not begin < i < begin + count]
    for old, new in zip(kept, made, strict=True):
        if old != parts[first] and old.use_count:
            rewrite.replace(old, new)
    rest = [*parts[:first], made[begin], *parts[last + 1 :]]
    joined = rest[0] if len(rest) == 1 else rewrite.node("Concat", rest, {"axis": axis})[0]
    rewrite.replace(node.outputs[0], joined)


def _follows(a: Value, b: Value) -> bool:
    """Whether `b` is the part of a Split behind `a`, and both have one reader."""
    node = a.producer
    if node is None or node.op != "Split" or not node.is_standard or b.producer != node:
        return False
    return b.index == (a.index or 0) + 1 and a.use_count == b.use_count == 1


def _is_cut(node: Node) -> bool:
    return node.is_standard and node.op in ("Slice", "Gather", "Split")


def slices_to_split(rewrite: Rewrite, node: Node) -> None:
    """Slices that share out an axis of a tensor among them are one Split."""
    x = operand(node, 0)
    require(x is not None, "nothing is sliced")
    assert x is not None
    axes = ints(node, 3, "axes", 10)
    require(x.rank and (axes is None or len(axes) == 1), "several axes are sliced")
    assert x.rank
    axis = (axes or (0,))[0] % x.rank
    size = size_along(x, axis)
    require(isinstance(size, int), "the size of the axis is not fixed")
    assert isinstance(size, int)
    found: dict[tuple[int, int], Node] = {}
    for reader, index in x.uses():
        if index or reader.op != "Slice" or not reader.is_standard or reader.graph != node.graph:
            continue
        try:
            taken = range(size)[slice_along(reader, axis)]
        except Decline:
            continue
        if taken and taken.step == 1:
            found.setdefault((taken.start, taken.stop), reader)
    spans_ = sorted(found)
    require(len(spans_) > 1, "it is the only Slice of the axis")
    require(found[spans_[0]] == node, "the first of them is looked at")
    require([a for a, _ in spans_] == [0, *(b for _, b in spans_[:-1])] and spans_[-1][1] == size,
            "the Slices do not share out the axis")
    made = split(rewrite, node, x, axis, [b - a for a, b in spans_])
    for span, part in zip(spans_, made, strict=True):
        rewrite.replace(found[span].outputs[0], part)
