"""Operators that work along one or more axes, which they name: the names change with the order."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt_passes.layout.carry import Carry, Changed, Groups, Spread, moved, whole
from graphopt_passes.layout.orders import Layout
from graphopt_passes.layout.reading import axis_of, constant, first, integers, listed, number, rank_of, single_result
from graphopt_passes.simplify.reading import ints, operand

from graphopt import Accuracy, Node, require

_CHOOSES = frozenset(["ReduceMax", "ReduceMin"])  # no arithmetic that depends on an order


def reduction(node: Node) -> Carry:
    """Reductions, over axes in an attribute or an input, which stay as axes of size 1 or go."""
    x = first(node)
    rank = rank_of(x)
    since = 13 if node.op == "ReduceSum" else 18
    given = ints(node, 1, "axes", since)
    if not given:
        require(not number(node, "noop_with_empty_axes", 0), "no axis is reduced")
    axes = listed(given or range(rank), rank)
    integer = x.dtype is not None and x.dtype.name.startswith(("INT", "UINT", "BOOL"))
    accuracy = Accuracy.EXACT if integer or node.op in _CHOOSES else Accuracy.CLOSE
    result = whole(rank) if number(node, "keepdims", 1) else without(rank, axes)

    def change(order: Layout) -> Changed:
        if not given:
            return Changed()
        now = sorted(moved(order, axes))
        if node.version < since:
            return Changed(attrs={"axes": now})
        return Changed(constants={1: integers(now)})

    return Carry(rank, {0: whole(rank)}, {0: result}, change, accuracy=accuracy)


def without(rank: int, gone: Sequence[int]) -> Spread:
    """A tensor that has all axes of the operator but these."""
    groups: list[tuple[int, ...]] = []
    count = 0
    for axis in range(rank):
        groups.append(() if axis in gone else (count,))
        count += axis not in gone
    return Spread(tuple(groups))


def pick(node: Node) -> Carry:
    """ArgMax and ArgMin: the place along an axis, which stays as one of size 1 or goes."""
    rank = rank_of(first(node))
    axis = axis_of(node, 0, rank)
    result = whole(rank) if number(node, "keepdims", 1) else without(rank, [axis])
    return Carry(rank, {0: whole(rank)}, {0: result}, _axis(axis))


def softmax(node: Node) -> Carry:
    """Softmax and its kin; before opset 13 they take all axes from one on as a single one."""
    rank = rank_of(first(node))
    flat = node.version < 13
    axis = axis_of(node, 1 if flat else -1, rank)
    pinned = frozenset(range(axis, rank)) if flat else frozenset[int]()
    accuracy = Accuracy.EXACT if node.op == "Hardmax" else Accuracy.CLOSE
    return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, _axis(axis), pinned=pinned, accuracy=accuracy)


def norm(node: Node) -> Carry:
    """LpNormalization: the norm along an axis."""
    rank = rank_of(first(node))
    return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, _axis(axis_of(node, -1, rank)), accuracy=Accuracy.CLOSE)


def largest(node: Node) -> Carry:
    """TopK: the largest along an axis, and where they are."""
    rank = rank_of(first(node))
    require(node.version >= 10, "before opset 10 the number is an attribute")
    return Carry(rank, {0: whole(rank)}, {0: whole(rank), 1: whole(rank)}, _axis(axis_of(node, -1, rank)))


def running_sum(node: Node) -> Carry:
    """CumSum: the axis is an input."""
    rank = rank_of(first(node))
    (axis,) = listed(constant(operand(node, 1), "the axis is"), rank)
    like = operand(node, 1)

    def change(order: Layout) -> Changed:
        return Changed(constants={1: integers(moved(order, [axis]), like).reshape(())})

    return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, change, accuracy=Accuracy.CLOSE)


def concat(node: Node) -> Carry:
    """Concat: all operands have all axes."""
    rank = rank_of(node.outputs[0])
    require(node.version >= 4, "before opset 4 the axis may be left out")
    reads = {i: whole(rank) for i, v in enumerate(node.inputs) if v is not None}
    return Carry(rank, reads, {0: whole(rank)}, _axis(axis_of(node, 0, rank)))


def split(node: Node) -> Carry:
    """Split: all parts have all axes; how large they are does not depend on the order."""
    rank = rank_of(first(node))
    require(node.version >= 2, "before opset 2 the sizes are an input and an attribute")
    return Carry(
        rank, {0: whole(rank)}, {i: whole(rank) for i in range(len(node.outputs))}, _axis(axis_of(node, 0, rank))
    )


def gather(node: Node) -> Carry:
    """Gather: the axes of the indices stand where the axis was that they index; they stay together."""
    x, indices = first(node), operand(node, 1)
    require(indices is not None, "the indices are left out")
    assert indices is not None
    rank, count = rank_of(x), rank_of(indices)
    axis = axis_of(node, 0, rank)
    if count == 1:
        return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, _axis(axis))
    groups: Groups = tuple(
        tuple(range(axis, axis + count)) if a == axis else (a if a < axis else a + count - 1,) for a in range(rank)
    )
    return Carry(rank, {0: whole(rank)}, {0: Spread(groups)}, _axis(axis))


def gather_elements(node: Node) -> Carry:
    """GatherElements: data and indices have the same axes."""
    rank = rank_of(first(node))
    return Carry(rank, {0: whole(rank), 1: whole(rank)}, {0: whole(rank)}, _axis(axis_of(node, 0, rank)))


def normalized_channels(node: Node) -> Carry:
    """Operators with batch and channels in front: only what comes behind them may change places."""
    x = first(node)
    rank = rank_of(x)
    single_result(node)
    if node.op == "BatchNormalization":
        require(node.version >= 9 and not number(node, "training_mode", 0), "it may be training")
    exact = node.op in ("BatchNormalization", "GlobalMaxPool")
    pinned = frozenset([1]) if node.op == "BatchNormalization" else frozenset([0, 1])
    require(rank >= 2, "there are no channels")
    accuracy = Accuracy.EXACT if exact else Accuracy.CLOSE
    return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, pinned=pinned, accuracy=accuracy)


def normalized_end(node: Node) -> Carry:
    """LayerNormalization and RMSNormalization: the axes from one on stay, those in front of it are free."""
    rank = rank_of(first(node))
    single_result(node)
    axis = axis_of(node, -1, rank)
    for value in node.inputs[1:]:
        require(value is None or rank_of(value) <= rank - axis, "the scale differs along the axes in front")
    return Carry(
        rank, {0: whole(rank)}, {0: whole(rank)}, pinned=frozenset(range(axis, rank)), accuracy=Accuracy.CLOSE
    )


def _axis(axis: int) -> _Renamed:
    return _Renamed(axis)


class _Renamed:
    """The change of an operator that has its one axis in the attribute `axis`."""

    def __init__(self, axis: int) -> None:
        self._axis = axis

    def __call__(self, order: Layout) -> Changed:
        return Changed(attrs={"axis": moved(order, [self._axis])[0]})
