"""The operators that carry a permutation from their operands to their results, and how."""

from __future__ import annotations

from collections.abc import Callable

from graphopt_passes.layout import along, pointwise, shapes, vectors
from graphopt_passes.layout.carry import Carry

from graphopt import Node, Value, require

TABLE: dict[str, Callable[[Node], Carry]] = {
    **dict.fromkeys(pointwise.UNARY, pointwise.unary),
    **dict.fromkeys(pointwise.BROADCASTING, pointwise.broadcasting),
    "Dropout": pointwise.dropout,
    "QuantizeLinear": pointwise.quantize,
    "DequantizeLinear": pointwise.quantize,
    "DynamicQuantizeLinear": pointwise.quantize_dynamically,
    **dict.fromkeys(
        [f"Reduce{kind}" for kind in (
            "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")],
        along.reduction,
    ),
    **dict.fromkeys(["ArgMax", "ArgMin"], along.pick),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], along.softmax),
    "LpNormalization": along.norm,
    "TopK": along.largest,
    "CumSum": along.running_sum,
    "Concat": along.concat,
    "Split": along.split,
    "Gather": along.gather,
    "GatherElements": along.gather_elements,
    **dict.fromkeys(
        ["BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "GlobalAveragePool",
         "GlobalMaxPool", "GlobalLpPool"],
        along.normalized_channels,
    ),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], along.normalized_end),
    "Pad": vectors.pad,
    "Slice": vectors.slice_,
    "Tile": vectors.tile,
    "Expand": vectors.expand,
    **dict.fromkeys(["Resize", "Upsample"], vectors.resize),
    "Squeeze": shapes.squeeze,
    "Unsqueeze": shapes.unsqueeze,
    **dict.fromkeys(["Reshape", "Flatten"], shapes.reshape),
    "Shape": shapes.shape,
    "MatMul": shapes.matmul,
}  # fmt: skip


def carry(node: Node) -> Carry | None:
    """How a node carries permutations, None for an operator that does not. Raises `Decline` where it cannot."""
    entry = TABLE.get(node.op)
    if entry is None or not node.is_standard:
        return None
    found = entry(node)
    for index in found.reads:
        value = node.inputs[index]
        require(value is not None and value.rank is not None, "the rank of an operand is not known")
    require(found.axes > 1, "there is only one axis")
    return found


def reordered(node: Node) -> tuple[Value, tuple[int, ...]] | None:
    """For a node that only puts axes into another order, its operand and the order; else None.

    That is a Transpose, or a Reshape that moves nothing but axes of size 1.
    """
    if node.op not in ("Transpose", "Reshape") or not node.is_standard:
        return None
    x = node.inputs[0]
    if x is None:
        return None
    if node.op == "Transpose":
        perm = node.attr("perm")
        rank = x.rank
        if perm is None and rank is not None:
            perm = range(rank)[::-1]
        if not isinstance(perm, list | tuple | range) or sorted(perm) != list(range(len(perm))):
            return None
        return x, tuple(perm)
    return _moves_ones(x, node.outputs[0])


def _moves_ones(x: Value, y: Value) -> tuple[Value, tuple[int, ...]] | None:
    before, after = x.shape, y.shape
    if before is None or after is None or len(before) != len(after) or None in before or 1 not in before:
        return None
    ones = iter([axis for axis, size in enumerate(before) if size == 1])
    others = iter([axis for axis, size in enumerate(before) if size != 1])
    found = [next(ones if size == 1 else others, -1) for size in after]
    if -1 in found or any(before[axis] != size for axis, size in zip(found, after, strict=True)):
        return None
    return x, tuple(found)
