"""Operators that stay float, and that ONNX Runtime would quantize by itself: what keeps it from that.

Its transformer WeightBiasQuantization, on by default, looks for a float Conv, ConvTranspose or Gemm (which it also
makes of MatMul and Add) between a DequantizeLinear with one scale and a QuantizeLinear, with Relu and Clip in between
at most, and rounds the weight to 8 bits with one scale for all of it (weight_bias_quantization.cc; the same in 1.31
and 1.32). What was kept float because it breaks in 8 bits is broken that way. Where such an operator reads integers,
it gets a DequantizeLinear of its own, which has the same scale once for each channel: the numbers are the same, ONNX
Runtime lets the operator be, and along the axis of an image's channels the DequantizeLinear is as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from graphopt.quant.operands import moves_data, sole_reader

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.place import Pair, Plan

__all__ = ["keep_float"]

_BETWEEN = ("Relu", "Clip")


def keep_float(plan: Plan, integer: Callable[[Value], bool], *, per_channel: bool) -> None:
    """Set `Pair.apart` for the float operators of a plan that the target's runtime would quantize.

    `integer`: whether everybody reads a value as integers, or may, because it only moves what is; it can add to the
    plan's pairs. Without `per_channel`, DequantizeLinear has one scale, and there is only a note for each operator.
    """
    for declined in plan.declined:
        node = declined.node
        x = node.inputs[0] if node.inputs else None
        exposed = node.op in plan.table.requantized and _has_constant_weight(node)
        if not exposed or x is None or x.graph != node.graph or not _is_rounded_behind(plan, node):
            continue
        if not integer(x):
            continue
        axis = _axis(node, x) if per_channel else None
        if axis is None:
            plan.notes.append(f"{node.name or node.op} is to stay float, but ONNX Runtime rounds its weight")
            continue
        pair = next(p for p in plan.pairs if p.value == x and p.readers is None)
        pair.apart[node, 0] = axis
        pair.reason += f"; {node.name or node.op} gets a scale per channel, with which the runtime leaves it float"


def _has_constant_weight(node: Node) -> bool:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    return weight is not None and (weight.is_const or weight.is_initializer)


def _is_rounded_behind(plan: Plan, node: Node) -> bool:
    """Whether a Q stands behind the operator, be it behind what the runtime can move it across."""
    pairs: dict[Value, Pair] = {p.value: p for p in plan.pairs if p.value.name not in plan.plain}
    value = node.outputs[0]
    while value not in pairs:
        reader = sole_reader(value)
        if reader is None or not (reader.op in _BETWEEN or _is_bias(reader) or moves_data(reader, plan.table)):
            return False
        value = reader.outputs[0]
    return True


def _is_bias(node: Node) -> bool:
    return node.op == "Add" and any(v is not None and v.is_const for v in node.inputs)


def _axis(node: Node, x: Value) -> tuple[int, int] | None:
    """An axis of the operator's input and its size, which has to be known and more than one; the fastest there is."""
    if node.op.startswith("Conv") and (channels := _channels(node)) > 1:
        return 1, channels
    shape = x.shape or ()
    for axis in _preferred(node, len(shape)):
        size = shape[axis]
        if isinstance(size, int) and size > 1:
            return axis, size
    return None


def _preferred(node: Node, rank: int) -> Iterator[int]:
    """Axes with many elements behind them first; the batch, which is most likely to change, last."""
    if not node.op.startswith("Conv") and rank > 1:
        yield from (rank - 2, rank - 1) if rank > 2 else (1,)
    yield from range(1, rank)
    yield from range(min(rank, 1))


def _channels(node: Node) -> int:
    """The channels that a convolution reads, by its weight; 0 if that is not known."""
    weight = node.inputs[1]
    sizes = () if weight is None or weight.shape is None else weight.shape[:2]
    if len(sizes) < 2 or not all(isinstance(size, int) for size in sizes):
        return 0
    first, second = (int(size) for size in sizes if isinstance(size, int))
    return first if node.op == "ConvTranspose" else second * int(node.attr("group", 1))
