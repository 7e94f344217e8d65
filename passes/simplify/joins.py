"""Concat with what undoes or repeats it: rewrites over operators with any number of operands."""

from __future__ import annotations

from collections.abc import Callable

from graphopt_passes.simplify.blocks import is_shuffled, reshape_to_blocks
from graphopt_passes.simplify.casting import casts_before_concat
from graphopt_passes.simplify.focus import focus_to_depth, is_focus
from graphopt_passes.simplify.joined import axis_of, concat_of, operands, size_along, spans
from graphopt_passes.simplify.narrowing import cut, gather_of_concat, slice_of_concat
from graphopt_passes.simplify.pieces import concat_parts, concat_pieces, joins_pieces, slices_to_split
from graphopt_passes.simplify.reading import operand
from graphopt_passes.simplify.scattered import gather_range, scatter_everything
from graphopt_passes.simplify.unused import split_dead_parts

from graphopt import Context, Node, Rewrite, Value, require


def simplify_joins(ctx: Context) -> None:
    """Flatten nested Concats, cancel or narrow Split, Slice and Gather against Concat, and what is like it."""
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*JOINS):
            for change, applies in JOINS.get(node.op, {}).items():
                if node.is_standard and node.alive and applies(node):
                    with ctx.rewrite(f"simplify.{change.__name__}", at=node) as rewrite:
                        change(rewrite, node)


def _reads_concat(node: Node) -> bool:
    return concat_of(node) is not None


def _is_outermost(node: Node) -> bool:
    """Whether a Concat is no part of another."""
    return not _is_part(node.outputs[0])


def _casts(node: Node) -> bool:
    return all(v.producer is not None and v.producer.op == "Cast" for v in operands(node))


def _always(node: Node) -> bool:
    return bool(node.inputs)


def _has_siblings(node: Node) -> bool:
    """Whether what is sliced has other readers."""
    x = operand(node, 0)
    return x is not None and x.use_count > 1


def _gathers_fixed(node: Node) -> bool:
    indices = operand(node, 1)
    return indices is not None and indices.is_const and indices.rank == 1


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
    named = sum(p.is_output and (v.is_input or v.is_const or v.is_output) for p, v in found)  # by an Identity each
    gone = len(found) == sum(o.use_count > 0 for o in node.outputs)
    # Where the Concat goes too, elements are copied once and not twice.
    gains = named <= gone or (gone and concat.outputs[0].use_count == 1)
    require(gains, "it takes more Identities than there is to gain")
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


_Change = Callable[[Rewrite, Node], None]
# What may be done with an operator, and when it is worth a closer look.
JOINS: dict[str, dict[_Change, Callable[[Node], bool]]] = {
    "Concat": {
        concat_flat: _is_outermost,
        focus_to_depth: is_focus,
        concat_pieces: joins_pieces,
        concat_parts: joins_pieces,
        casts_before_concat: _casts,
    },
    "Split": {split_of_concat: _always, split_to_slice: _always, split_dead_parts: _always},
    "Slice": {slice_of_concat: _reads_concat, slices_to_split: _has_siblings},
    "Gather": {gather_of_concat: _reads_concat, gather_range: _gathers_fixed},
    "Reshape": {reshape_to_blocks: is_shuffled},
    "ScatterND": {scatter_everything: _always},
}
