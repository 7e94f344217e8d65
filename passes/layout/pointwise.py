"""Operators that treat every element alike, with broadcasting: any order of axes will do."""

from __future__ import annotations

from graphopt_passes.layout.carry import Carry, Changed, Spread, broadcast, moved, whole
from graphopt_passes.layout.orders import Layout
from graphopt_passes.layout.reading import axis_of, first, number, rank_of, shape_of, single_result
from graphopt_passes.simplify.reading import operand

from graphopt import Node, Value, require

# Of these only the first operand has axes.
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BROADCASTING = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip


def unary(node: Node) -> Carry:
    """Each element of the result depends on one element of the first operand."""
    rank = rank_of(first(node))
    return Carry(rank, {0: whole(rank)}, {0: whole(rank)})


def dropout(node: Node) -> Carry:
    """Dropout that drops nothing; which elements it drops when training depends on where they are."""
    single_result(node)
    training = operand(node, 2)
    require(node.version >= 7, "before opset 7 Dropout may be training")
    splat = None if training is None else training.splat
    require(training is None or (splat is not None and not bool(splat)), "it may be training")
    return unary(node)


def broadcasting(node: Node) -> Carry:
    """Each element of the result depends on one element of each operand."""
    require(node.version >= 8, "before opset 8 operands are aligned by an attribute")
    rank = rank_of(node.outputs[0])
    reads: dict[int, Spread] = {}
    for index, value in enumerate(node.inputs):
        if value is not None:
            reads[index] = broadcast(rank_of(value), rank)
    return Carry(rank, reads, {0: whole(rank)})


def quantize(node: Node) -> Carry:
    """QuantizeLinear and DequantizeLinear: a scale for the whole tensor, or one for each place along an axis."""
    x, scale = first(node), operand(node, 1)
    require(scale is not None, "the scale is left out")
    assert scale is not None
    rank = rank_of(x)
    if _is_single(scale):
        return Carry(rank, {0: whole(rank)}, {0: whole(rank)})
    require(node.version >= 13 and rank_of(scale) == 1, "there is a scale for each block")
    require(number(node, "block_size", 0) == 0, "there is a scale for each block")
    axis = axis_of(node, 1, rank)

    def change(order: Layout) -> Changed:
        return Changed(attrs={"axis": moved(order, [axis])[0]})

    return Carry(rank, {0: whole(rank)}, {0: whole(rank)}, change)


def quantize_dynamically(node: Node) -> Carry:
    """DynamicQuantizeLinear: scale and zero point depend on all elements, in whatever order."""
    rank = rank_of(first(node))
    return Carry(rank, {0: whole(rank)}, {0: whole(rank)})


def _is_single(value: Value) -> bool:
    shape = shape_of(value)
    return shape in ((), (1,))
