"""Concat with what undoes or repeats it: rewrites over operators with any number of operands."""

from __future__ import annotations

from collections.abc import Callable

from graphopt_passes.simplify.joined import axis_of, concat_of, operands, size_along, spans
from graphopt_passes.simplify.narrowing import cut, gather_of_concat, slice_of_concat
from graphopt_passes.simplify.reading import operand

from graphopt import Context, Node, Rewrite, Value, require


def simplify_joins(ctx: Context) -> None:
    """Flatten nested Concats, and cancel or narrow Split, Slice and Gather against Concat."""
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*JOINS):
            for change in JOINS.get(node.op, ()):
                if node.is_standard and node.alive and _applies(node):
                    with ctx.rewrite(f"simplify.{change.__name__}", at=node) as rewrite:
                        change(rewrite, node)


def _applies(node: Node) -> bool:
    """Whether there is anything to look at: a Concat below, a Split, or a Concat that is no part of another."""
    if node.op == "Concat":
        return not _is_part(node.outputs[0])
    return node.op == "Split" or concat_of(node) is not None


def concat_flat(rewrite: Rewrite, node: Node) -> None:
    """A Concat of Concats along one axis is one Concat; empty parts, and Splits put together again, vanish."""
    axis = axis_of(node)
    parts = _leaves(node)
    parts = _rejoined([p for p in parts if size_along(p, axis) != 0] or parts[:1], axis)
    require(tuple(parts) != node.inputs or len(parts) == 1, "there is nothing to flatten")
    joined = parts[0] if len(parts) == 1 else rewrite.node("Concat", parts, {"axis": axis})[0]
    rewrite.replace(node.outputs[0], joined)


def split_of_concat(rewrite: Rewrite, node: Node) -> None:
    """A part that Split takes out of a Concat, and that is one of its operands, is that operand."""
    concat = concat_of(node)
    require(concat is not None, "no Concat is split")
    assert concat is not None
    axis = axis_of(node)
    require(axis_of(concat) == axis, "it splits another axis than was joined")
    joined = dict(zip(spans(operands(concat), axis), operands(concat), strict=False))
    found = [
        (part, joined[span])
        for span, part in zip(spans(node.outputs, axis), node.outputs, strict=False)
        if span in joined and part.use_count
    ]
    require(found, "no part of the Split is provably an operand of the Concat")
    for part, value in found:
        rewrite.replace(part, value)


def split_to_slice(rewrite: Rewrite, node: Node) -> None:
    """A Split of which one part is used is a Slice."""
    used = [o for o in node.outputs if o.use_count]
    require(len(used) == 1 and len(node.outputs) > 1, "several parts are used")
    axis = axis_of(node)
    parts = spans(node.outputs, axis)
    index = node.outputs.index(used[0])
    require(index < len(parts), "the sizes of the parts are not fixed")
    start, end = parts[index]
    require(isinstance(start, int) and isinstance(end, int), "the sizes of the parts are not fixed")
    assert isinstance(start, int) and isinstance(end, int)
    rewrite.replace(used[0], cut(rewrite, node, operand(node, 0), axis, start, end))


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
    pending = operands(node)[::-1]
    while pending:
        value = pending.pop()
        producer = value.producer
        if producer is not None and _is_part(value):
            pending.extend(operands(producer)[::-1])
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


JOINS: dict[str, tuple[Callable[[Rewrite, Node], None], ...]] = {
    "Concat": (concat_flat,),
    "Split": (split_of_concat, split_to_slice),
    "Slice": (slice_of_concat,),
    "Gather": (gather_of_concat,),
}
