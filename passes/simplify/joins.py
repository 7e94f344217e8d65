"""Concat with what undoes, repeats or narrows it: rewrites over operators with any number of operands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from graphopt_passes.simplify.reading import fixed, ints, operand

from graphopt import Context, Decline, Dim, Node, Rewrite, Value, require

Size = int | Dim


def simplify_joins(ctx: Context) -> None:
    """Flatten nested Concats, and cancel or narrow Split, Slice and Gather against Concat."""
    rules: dict[str, tuple[tuple[str, Callable[[Rewrite, Node], None]], ...]] = {
        "Concat": (("concat_flat", concat_flat),),
        "Split": (("split_of_concat", split_of_concat), ("split_to_slice", split_to_slice)),
        "Slice": (("slice_of_concat", slice_of_concat),),
        "Gather": (("gather_of_concat", gather_of_concat),),
    }
    for graph in list(ctx.model.graphs()):
        for node in graph.nodes:
            for name, change in rules.get(node.op, ()):
                if not node.is_standard or not node.alive or not applies(node):
                    continue
                try:
                    with ctx.edit.rewrite(f"simplify.{name}", at=node) as rewrite:
                        change(rewrite, node)
                except Decline as declined:
                    ctx.decline(f"simplify.{name}", node, declined.reason)


def applies(node: Node) -> bool:
    """Whether there is anything to look at: a Concat below, a Split, or a Concat that is no part of another."""
    if node.op == "Concat":
        return not _is_part(node.outputs[0])
    return node.op == "Split" or _concat_of(node) is not None


def concat_flat(rewrite: Rewrite, node: Node) -> None:
    """A Concat of Concats along one axis is one Concat; empty parts, and Splits put together again, vanish."""
    axis = _axis(node)
    parts = _leaves(node)
    parts = _rejoined([p for p in parts if _size(p, axis) != 0] or parts[:1], axis)
    require(tuple(parts) != node.inputs or len(parts) == 1, "there is nothing to flatten")
    joined = parts[0] if len(parts) == 1 else rewrite.node("Concat", parts, {"axis": axis})[0]
    rewrite.replace(node.outputs[0], joined)


def split_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A part that Split takes out of a Concat, and that is one of its operands, is that operand."""
    concat = _concat_of(node)
    require(concat is not None, "no Concat is split")
    assert concat is not None
    axis = _axis(node)
    require(_axis(concat) == axis, "it splits another axis than was joined")
    operands = dict(zip(_spans(_operands(concat), axis), _operands(concat), strict=False))
    found = [
        (part, operands[span])
        for span, part in zip(_spans(node.outputs, axis), node.outputs, strict=False)
        if span in operands and part.use_count
    ]
    require(found, "no part of the Split is provably an operand of the Concat")
    for part, value in found:
        rewrite.replace(part, value)


def split_to_slice(rewrite: Rewrite, node: Node) -> None:
    """A Split of which one part is used is a Slice."""
    used = [o for o in node.outputs if o.use_count]
    require(len(used) == 1 and len(node.outputs) > 1, "several parts are used")
    axis = _axis(node)
    spans = _spans(node.outputs, axis)
    index = node.outputs.index(used[0])
    require(index < len(spans), "the sizes of the parts are not fixed")
    start, end = spans[index]
    require(isinstance(start, int) and isinstance(end, int), "the sizes of the parts are not fixed")
    assert isinstance(start, int) and isinstance(end, int)
    rewrite.replace(used[0], _slice(rewrite, node, operand(node, 0), axis, start, end))


def slice_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A Slice that stays within one operand of a Concat is a Slice of that operand, or all of it."""
    concat = _concat_of(node)
    assert concat is not None
    axis = _axis(concat)
    starts, ends = ints(node, 1, "starts", 10), ints(node, 2, "ends", 10)
    axes = ints(node, 3, "axes", 10)
    steps = ints(node, 4, "steps", 10) if node.version >= 10 else None
    require(starts is not None and ends is not None and len(starts) == 1, "several axes are sliced")
    assert starts is not None and ends is not None
    require((axes or (0,))[0] in (axis, axis - _rank(node)), "it slices another axis than was joined")
    require(steps is None or steps == (1,), "it takes steps")
    start, end, part, size = _within(concat, axis, starts[0], ends[0])
    whole = start == 0 and end == size
    rewrite.replace(node.outputs[0], part if whole else _slice(rewrite, node, part, axis, start, end))


def gather_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A Gather of elements of one operand of a Concat is a Gather of that operand."""
    concat, indices = _concat_of(node), operand(node, 1)
    assert concat is not None and indices is not None
    axis = _axis(concat)
    require(node.attr("axis", 0) in (axis, axis - _rank(concat)), "it gathers along another axis than was joined")
    wanted = fixed(indices) if indices.is_const else None
    require(wanted and (min(wanted) >= 0 or max(wanted) < 0), "the indices are not fixed")
    assert wanted
    start, _, part, _ = _within(concat, axis, min(wanted), max(wanted) + 1 or _END)
    array = indices.array()
    assert array is not None
    moved = rewrite.constant(np.asarray(array - min(wanted) + start, array.dtype), indices.name)
    rewrite.replace(node.outputs[0], rewrite.node("Gather", [part, moved], {"axis": axis})[0])


_END = 2**63 - 1


def _within(concat: Node, axis: int, start: int, end: int) -> tuple[int, int, Value, int]:
    """The operand that holds `start:end` of the joined axis, and where in it; its size there as well."""
    sizes = [_size(v, axis) for v in _operands(concat)]
    total = sum(s for s in sizes if isinstance(s, int)) if all(isinstance(s, int) for s in sizes) else None
    if total is not None:
        start, end, _ = slice(start, end).indices(total)
    require(0 <= start < end, "the range is empty, or counts from an end that is not fixed")
    begin = 0
    for part, size in zip(_operands(concat), sizes, strict=True):
        require(isinstance(size, int), "the sizes of the operands before it are not fixed")
        assert isinstance(size, int)
        if start < begin + size:
            require(end <= begin + size, "the range is in several operands")
            return start - begin, end - begin, part, size
        begin += size
    raise Decline("the range is empty")


def _slice(rewrite: Rewrite, node: Node, x: Value | None, axis: int, start: int, end: int) -> Value:
    if node.version < 10:
        return rewrite.node("Slice", [x], {"starts": [start], "ends": [end], "axes": [axis]})[0]
    bounds = [rewrite.constant(np.array([i], np.int64), f"{node.outputs[0].name}_range") for i in (start, end, axis)]
    return rewrite.node("Slice", [x, *bounds])[0]


def _concat_of(node: Node) -> Node | None:
    """The Concat of the same graph that makes the node's first operand."""
    x = operand(node, 0)
    producer = None if x is None else x.producer
    if producer is None or producer.op != "Concat" or not producer.is_standard or producer.graph != node.graph:
        return None
    return producer


def _operands(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def _rank(node: Node) -> int:
    rank = node.outputs[0].rank
    require(rank is not None, "the rank is not known")
    assert rank is not None
    return rank


def _axis(node: Node) -> int:
    axis, rank = node.attr("axis", 0), _rank(node)
    require(isinstance(axis, int) and -rank <= axis < rank, "the axis is not fixed")
    return int(axis) % rank


def _size(value: Value, axis: int) -> Size | None:
    shape = value.shape
    return None if shape is None or axis >= len(shape) else shape[axis]


def _spans(values: tuple[Value, ...] | list[Value], axis: int) -> list[tuple[Size, Size]]:
    """Where each of the values begins and ends along the axis, as far as sizes are known."""
    found: list[tuple[Size, Size]] = []
    begin: Size = 0
    for value in values:
        size = _size(value, axis)
        if size is None:
            break
        found.append((begin, begin + size))
        begin = begin + size
    return found


def _is_part(value: Value) -> bool:
    """Whether a Concat makes `value`, and only a Concat along the same axis reads it."""
    producer = value.producer
    if producer is None or value.use_count != 1 or value.is_output:
        return False
    reader, _ = value.uses()[0]
    if reader.op != "Concat" or not reader.is_standard:
        return False
    if producer.op != "Concat" or not producer.is_standard or producer.graph != reader.graph or value.rank is None:
        return False
    axes = [producer.attr("axis"), reader.attr("axis")]
    return all(isinstance(a, int) for a in axes) and len({a % max(value.rank, 1) for a in axes}) == 1


def _leaves(node: Node) -> list[Value]:
    """The parts of a Concat, and of the Concats among them, in order."""
    found: list[Value] = []
    pending = _operands(node)[::-1]
    while pending:
        value = pending.pop()
        producer = value.producer
        if producer is not None and _is_part(value):
            pending.extend(_operands(producer)[::-1])
        else:
            found.append(value)
    return found


def _rejoined(parts: list[Value], axis: int) -> list[Value]:
    """The parts, with those that are all the parts of one Split along the axis replaced by what was split."""
    found: list[Value] = []
    i = 0
    while i < len(parts):
        split = parts[i].producer
        count = len(split.outputs) if split is not None and split.op == "Split" and split.is_standard else 0
        whole = operand(split, 0) if split is not None and count else None
        if split is not None and whole is not None and tuple(parts[i : i + count]) == split.outputs:
            rank = whole.rank
            if rank is not None and split.attr("axis", 0) in (axis, axis - rank):
                found.append(whole)
                i += count
                continue
        found.append(parts[i])
        i += 1
    return found
