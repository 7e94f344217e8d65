"""What a weighted operator (Conv, Gemm, MatMul) consists of, or why it cannot run on integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.ranges import weight_peaks

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.targets.table import QuantTable, Weighted

__all__ = [
    "OVERRIDABLE",
    "Bias",
    "Heavy",
    "analyse",
    "channel_axis",
    "moves_data",
    "redundant_activation",
    "sole_reader",
]

_FLOAT = "FLOAT"
_NORMALIZATIONS = ("LayerNormalization", "InstanceNormalization")  # the weight is a factor for each channel
OVERRIDABLE = "its weight is also an input of the model, so a caller may set it; --freeze makes it a constant"
_CONST_LEFT = "its constant is the left operand, and integer kernels want it on the right"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Bias:
    """A constant bias: `values` (shape [channels], float32), read by input `index` of `reader`."""

    value: Value
    reader: Node
    index: int
    values: Array


@dataclass(frozen=True)
class Heavy:
    """A weighted operator that can run on integers.

    `x` is its data. `weight` is None where the second operand is an activation as well (`other`). `peaks` are
    the weight's largest magnitudes along `axis` (of all of it if None). `output` is its result, the bias
    included.
    """

    node: Node
    rule: Weighted
    x: Value
    weight: Value | None
    other: Value | None
    axis: int | None
    peaks: Array
    bias: Bias | None
    output: Value


def analyse(node: Node, rule: Weighted, table: QuantTable, *, per_channel: bool) -> Heavy | str:
    """The parts of a weighted operator of the main graph, or the reason why it stays float."""
    x, w = (*node.inputs, None, None)[:2]
    if x is None or w is None:
        return "an input is missing"
    if any(v.producer is not None and v.producer.op == "DequantizeLinear" for v in (x, w)):
        return "it is quantized already"
    if x.is_const:
        return "both inputs are constants" if w.is_const else _CONST_LEFT
    if not w.is_const:
        settable = w.is_input and w.is_initializer
        return _pair(node, rule, x, w) if rule.pairs and not settable else _why_not_const(w, node)
    for name, value in (("input", x), ("weight", w)):
        if value.dtype is None or value.dtype.name != _FLOAT:
            found = "unknown" if value.dtype is None else value.dtype.name.lower()
            return f"its {name} is {found}, and static int8 starts from float32"
    each = per_channel and rule.per_channel and _groups(node) == 1 and not _stacked(node, w)
    axis = channel_axis(node, rule, w.rank or 0) if each else None
    reason = _shape_reason(node, rule, w)
    if reason:
        return reason
    peaks = weight_peaks(w.content(), axis)
    if not np.isfinite(peaks).all():
        return "its weight holds NaN or Inf"
    bias = _bias(node, rule, table, _channels(node, rule, w) * _groups(node))
    if isinstance(bias, str):
        return bias
    output = bias.reader.outputs[0] if bias is not None else node.outputs[0]
    return Heavy(node, rule, x, w, None, axis, peaks, bias, output)


def sole_reader(value: Value) -> Node | None:
    """The node that reads `value`, if it is the only reader and stands in the same graph."""
    uses = value.uses()
    if len(uses) != 1 or value.is_output:
        return None
    reader = uses[0][0]
    return reader if reader.graph == value.graph else None


def moves_data(node: Node, table: QuantTable) -> bool:
    """Whether a node only moves data, according to a target's table."""
    attrs = table.data_movement.get(node.op) if node.is_standard else None
    return attrs is not None and all(node.attr(name) == value for name, value in attrs.items())


def redundant_activation(node: Node) -> tuple[bool, float | None]:
    """Whether a Q with zero point 0 can do what this Relu or Clip does, and up to which value (None: no
    limit).
    """
    if not node.is_standard:
        return False, None
    if node.op == "Relu":
        return True, None
    if node.op != "Clip":
        return False, None
    if node.version < 11:
        low, high = node.attr("min"), node.attr("max")
        if node.attrs.get("max") is None:
            high = None
    else:
        bounds = (*node.inputs, None, None)[1:3]
        if any(v is not None and v.splat is None for v in bounds):
            return False, None
        low, high = (None if v is None else float(v.splat) for v in bounds)
    return low == 0.0 and (high is None or high > 0.0), high


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _why_not_const(w: Value, node: Node) -> str:
    if w.is_input and w.is_initializer:
        return OVERRIDABLE
    if node.op == "MatMul":
        return "both operands are activations; they stay float"
    return "its weight is computed at run time"


def _pair(node: Node, rule: Weighted, x: Value, other: Value) -> Heavy | str:
    if any(v.dtype is None or v.dtype.name != _FLOAT for v in (x, other)):
        return "its operands are not float32"
    k, n = _last(x), _last(other)
    if k is not None and k < rule.pair_min_k:
        return f"both operands are activations, and sums of {k} products are too short for integers to pay"
    if rule.pair_max and max(k or 0, n or 0) > rule.pair_max:
        return f"both operands are activations, and with {max(k or 0, n or 0)} positions integers do not pay"
    return Heavy(node, rule, x, None, other, None, np.zeros(0, np.float32), None, node.outputs[0])


def _last(value: Value) -> int | None:
    """The size of the last axis, if it is known."""
    size = value.shape[-1] if value.shape else None
    return size if isinstance(size, int) else None


def channel_axis(node: Node, rule: Weighted, rank: int) -> int | None:
    """The output-channel axis of a weight of `rank`, not negative; None for a vector, which has none."""
    if rank < 2:
        return None
    axis = rule.axis
    for name, (value, instead) in rule.axis_if.items():
        if node.attr(name, 0) == value:
            axis = instead
    return axis % rank


def _channels(node: Node, rule: Weighted, w: Value) -> int:
    axis = 0 if node.op in _NORMALIZATIONS else channel_axis(node, rule, w.rank or 0)
    return 1 if axis is None else _sizes(w)[axis]


def _groups(node: Node) -> int:
    """How often the output-channel axis of the weight repeats: a ConvTranspose has it once for all of its groups."""
    return node.attr("group", 1) if node.op == "ConvTranspose" else 1


def _stacked(node: Node, w: Value) -> bool:
    """Whether the weight is a stack of matrices: ONNX Runtime's kernels refuse a zero point by column for these."""
    return node.op == "MatMul" and (w.rank or 0) > 2


def _sizes(w: Value) -> tuple[int, ...]:
    return tuple(d for d in w.shape or () if isinstance(d, int))


def _shape_reason(node: Node, rule: Weighted, w: Value) -> str | None:
    sizes = _sizes(w)
    if not sizes or 0 in sizes:
        return "its weight is empty"
    if max(rule.min_k, rule.min_n) > 1:
        n = _channels(node, rule, w)
        k = int(np.prod(sizes)) // n
        if k < rule.min_k or n < rule.min_n:
            return f"its weight is {k} × {n}, and below {rule.min_k} × {rule.min_n} integers do not pay"
    if rule.spatial and len(sizes) != rule.spatial + 2:
        return f"it has {len(sizes) - 2} spatial axes, and only {rule.spatial} are fast on integers"
    return None


def _bias(node: Node, rule: Weighted, table: QuantTable, channels: int) -> Bias | str | None:
    if table.bias == "float":
        return None
    if node.op == "Gemm":
        return _gemm_bias(node, channels)
    if rule.bias_add:
        return _added_bias(node, channels)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    return _bias_of(node.inputs[2], node, 2, channels) or "its bias is computed at run time, or not finite"


def _gemm_bias(node: Node, channels: int) -> Bias | str | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    if node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
        return "alpha or beta is not 1; fold them into the weight and the bias first"
    return _bias_of(value, node, 2, channels) or "its third input is no constant bias with one value per channel"


def _added_bias(node: Node, channels: int) -> Bias | None:
    """The Add of a constant behind a MatMul, as the exporters write a Linear layer."""
    add = sole_reader(node.outputs[0])
    if add is None or add.op != "Add" or not add.is_standard:
        return None
    index = 1 if add.inputs[0] == node.outputs[0] else 0
    value = add.inputs[index]
    return None if value is None else _bias_of(value, add, index, channels)


def _bias_of(value: Value, reader: Node, index: int, channels: int) -> Bias | None:
    """`value` as a bias with one finite float32 per channel: stored as [C], [1, C], ..., or as one number for
    all.
    """
    shape = value.shape
    if not value.is_const or value.dtype is None or value.dtype.name != _FLOAT or shape is None:
        return None
    if any(d != 1 for d in shape[:-1]) or (shape and shape[-1] not in (1, channels)):
        return None
    array = value.array()
    if array is None or not np.isfinite(array).all():
        return None
    return Bias(value, reader, index, np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float32))
