"""Operators that only give a tensor another shape: axes move as a whole where they are not merged or split."""

from __future__ import annotations

from graphopt_passes.layout.along import without
from graphopt_passes.layout.carry import Carry, Changed, Spread, broadcast, moved, whole
from graphopt_passes.layout.orders import Layout, Shape, inverse, sizes
from graphopt_passes.layout.reading import first, integers, listed, number, rank_of, shape_of
from graphopt_passes.simplify.reading import ints, operand, reshape_target

from graphopt import Accuracy, Decline, Dim, Node, Rewrite, Value, require

_Size = int | Dim


def squeeze(node: Node) -> Carry:
    """Squeeze: the operator has the axes of the operand."""
    x = first(node)
    shape = shape_of(x)
    rank = len(shape)
    given = ints(node, 1, "axes", 13)
    if given is None:
        require(all(isinstance(size, int) for size in shape), "it is not fixed which axes go")
    axes = listed([a for a, size in enumerate(shape) if size == 1] if given is None else given, rank)
    return Carry(rank, {0: whole(rank)}, {0: without(rank, axes)}, _Axes(node, axes))


def unsqueeze(node: Node) -> Carry:
    """Unsqueeze: the operator has the axes of the result."""
    rank = rank_of(node.outputs[0])
    given = ints(node, 1, "axes", 13)
    require(given is not None, "the axes are left out")
    axes = listed(given or (), rank)
    return Carry(rank, {0: without(rank, axes)}, {0: whole(rank)}, _Axes(node, axes))


class _Axes:
    """The change of an operator that lists its axes in the attribute or the input `axes`."""

    def __init__(self, node: Node, axes: list[int]) -> None:
        self._axes = axes
        self._attribute = node.version < 13

    def __call__(self, order: Layout) -> Changed:
        now = sorted(moved(order, self._axes))
        return Changed(attrs={"axes": now}) if self._attribute else Changed(constants={1: integers(now)})


def reshape(node: Node) -> Carry:
    """Reshape and Flatten: groups of axes that hold the same elements before and after move together."""
    x = first(node)
    before, after = shape_of(x), shape_of(node.outputs[0])
    groups = blocks(before, after)
    read = Spread(tuple(old for old, _ in groups))
    written = Spread(tuple(new for _, new in groups))

    def target(order: Layout) -> list[int]:
        return reshape_target(sizes(before, read.layout(order)), sizes(after, written.layout(order)))

    def allows(order: Layout) -> bool:
        try:
            target(order)
        except Decline:
            return False
        return True

    def change(order: Layout) -> Changed:
        # The constant is written with 0 for sizes that stay, and so without `allowzero`.
        return Changed("Reshape", constants={1: integers(target(order))}, drop_attrs=("axis", "allowzero"))

    require(node.op == "Flatten" or node.version >= 5, "before opset 5 the shape is an attribute")
    require(0 not in before and 0 not in after, "the tensor is empty")
    return Carry(len(groups), {0: read}, {0: written}, change, allows=allows)


def blocks(before: Shape, after: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The axes of both shapes in groups of the same product, in order; axes of size 1 that come or go stand alone."""
    require(None not in before and None not in after, "the sizes are not known")
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and before[i] == after[j]:
            found.append(((i,), (j,)))
            i, j = i + 1, j + 1
        elif i < len(before) and before[i] == 1:
            found.append(((i,), ()))
            i += 1
        elif j < len(after) and after[j] == 1:
            found.append(((), (j,)))
            j += 1
        else:
            m, n = _block(before[i:], after[j:])
            found.append((tuple(range(i, i + m)), tuple(range(j, j + n))))
            i, j = i + m, j + n
    return found


def _block(before: Shape, after: Shape) -> tuple[int, int]:
    """How many axes make up the first block of each."""
    mine, others = _products(before), _products(after)
    for m, size in enumerate(mine, 1):
        if size in others:
            return m, others.index(size) + 1
    require(False, "the sizes before and after do not go together")
    raise AssertionError


def _products(shape: Shape) -> list[_Size]:
    found: list[_Size] = []
    for size in shape:
        assert size is not None
        found.append(size if not found else found[-1] * size)
    return found


def shape(node: Node) -> Carry:
    """Shape: the sizes of an operand in another order are put back in order by a Gather."""
    rank = rank_of(first(node))
    start, end = number(node, "start", 0), number(node, "end", rank)
    wanted = range(rank)[start:end]

    def finish(rewrite: Rewrite, all_sizes: Value, order: Layout) -> Value:
        places = [inverse(order)[axis] for axis in wanted]
        return rewrite.node("Gather", [all_sizes, rewrite.constant(integers(places), "places")], {"axis": 0})[0]

    def change(order: Layout) -> Changed:
        del order
        return Changed(drop_attrs=("start", "end"))

    return Carry(rank, {0: whole(rank)}, {}, change, finish=finish, nodes=1)


def matmul(node: Node) -> Carry:
    """MatMul: rows, columns and what is summed over stay at the end; the batch may be in any order.

    If the second operand is a matrix, the rows of the first are part of the batch.
    """
    a, b = first(node), operand(node, 1)
    require(b is not None, "an operand is left out")
    assert b is not None
    left, right = rank_of(a), rank_of(b)
    require(left >= 2 and right >= 2, "an operand is a vector")
    if right == 2:
        # The operator's axes: those of the result. The last one of the first operand is summed over, and stays last.
        return Carry(
            left, {0: whole(left)}, {0: whole(left)}, pinned=frozenset([left - 1]), accuracy=Accuracy.CLOSE
        )
    rank = max(left, right)
    pinned = frozenset([rank - 2, rank - 1])
    reads = {0: broadcast(left, rank), 1: broadcast(right, rank)}
    return Carry(rank, reads, {0: whole(rank)}, pinned=pinned, accuracy=Accuracy.CLOSE)
