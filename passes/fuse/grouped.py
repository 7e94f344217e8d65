"""GroupNormalization, which exporters write as InstanceNormalization of channels that were reshaped into groups.

It has a scale and a bias for each channel from opset 21 on; the one of opset 18, which had them for each group, was
withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from graphopt_passes.simplify.reading import same_sizes

from graphopt import Accuracy, Context, DType, Node, Rewrite, Value, require

REWRITES = {
    "group_norm": "InstanceNormalization of channels in groups, with what is applied to each, is GroupNormalization."
}
_KINDS = (DType.FLOAT, DType.FLOAT16, DType.DOUBLE)


@dataclass
class Group:
    """A normalization in groups: of which values, into which value, and what is multiplied and added there."""

    x: Value
    norm: Node
    result: Value
    scale: np.ndarray
    bias: np.ndarray


def fuse_groups(ctx: Context) -> None:
    """Make GroupNormalization of InstanceNormalization between reshapes.

    It is defined by the mean of squares minus the squared mean, which cancels where the mean is large. So what was
    computed well may be computed badly: finite values may differ, and only `-O3` does it.
    """
    if ctx.accuracy < Accuracy.FAST or ctx.ignores("fuse.group_norm"):
        return
    for graph in list(ctx.model.graphs()):
        for norm in list(graph.find("InstanceNormalization")):
            if norm.alive and norm.is_standard and (back := _only_reader(norm.outputs[0], "Reshape")) is not None:
                with ctx.rewrite("fuse.group_norm", at=back) as rewrite:
                    _fuse(rewrite, norm, back)


def _fuse(rewrite: Rewrite, norm: Node, back: Node) -> None:
    first = None if norm.inputs[0] is None else norm.inputs[0].producer
    require(first is not None and first.is_standard and first.op == "Reshape", "the channels are not reshaped")
    assert first is not None
    x, inner, result = first.inputs[0], first.outputs[0].shape, back.outputs[0]
    require(back.inputs[0] == norm.outputs[0] and x is not None and inner is not None, "a shape is not known")
    assert x is not None and inner is not None
    scale, bias = _constant(norm.inputs[1]), _constant(norm.inputs[2])
    require(scale is not None and bias is not None, "scale and bias are not constant")
    require(same_sizes(x.shape, result.shape), "the result has another shape than what is normalized")
    require(x.dtype in _KINDS, "runtimes have no kernel of the operator for the dtype")
    assert x.shape is not None and scale is not None
    require(len(x.shape) >= 3, "there is no feature map")
    channels, groups = x.shape[1], scale.size
    require(isinstance(channels, int) and channels > 0 and channels % groups == 0, "the channels do not make groups")
    assert isinstance(channels, int) and bias is not None
    require(inner[:2] == (x.shape[0], groups), "batch and groups are not the first axes")
    size = channels // groups
    found = Group(x, norm, result, np.repeat(scale, size), np.repeat(bias, size))
    _take_in(found)
    attrs = {"num_groups": groups, "epsilon": float(norm.attr("epsilon", 1e-5))}
    operands = [x, rewrite.constant(found.scale, "scale"), rewrite.constant(found.bias, "bias")]
    rewrite.replace(found.result, rewrite.node("GroupNormalization", operands, attrs)[0])


def _take_in(found: Group) -> None:
    """Take in a factor and a summand per channel that follow."""
    for op in ("Mul", "Add"):
        reader = _only_reader(found.result, op)
        if reader is None:
            continue
        (other,) = [i for i in reader.inputs if i != found.result][:1] or [None]
        constant = _per_channel(other, found)
        if constant is None or not same_sizes(reader.outputs[0].shape, found.result.shape):
            return
        found.result = reader.outputs[0]
        if op == "Mul":
            found.scale, found.bias = found.scale * constant, found.bias * constant
        else:
            found.bias = found.bias + constant


def _per_channel(value: Value | None, found: Group) -> np.ndarray | None:
    """A finite constant beside the result as one number for each channel; None if it is none."""
    array = None if value is None else _constant(value)
    rank = len(found.x.shape or ())
    if array is None or array.ndim > rank:
        return None
    aligned = array.reshape((1,) * (rank - array.ndim) + array.shape)
    fits = aligned.size in (1, aligned.shape[1]) and aligned.size in (1, found.scale.size)
    if not fits or not np.isfinite(aligned.astype(np.float64)).all():
        return None
    return np.broadcast_to(aligned.reshape(-1), found.scale.shape)


def _constant(value: Value | None) -> np.ndarray | None:
    require(value is not None, "an operand is left out")
    assert value is not None
    return value.array() if value.is_const else None


def _only_reader(value: Value, op: str) -> Node | None:
    """The one node that reads a value, if it is this operator."""
    uses = value.uses()
    if len(uses) != 1 or value.is_output:
        return None
    reader, maker = uses[0][0], value.producer
    here = maker is not None and reader.graph == maker.graph
    return reader if here and reader.is_standard and reader.op == op else None
