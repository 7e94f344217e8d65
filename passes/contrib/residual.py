"""Sums in front of normalizations, kept out of ONNX Runtime's SkipLayerNormalization.

When ONNX Runtime loads a model, it makes SkipLayerNormalization of Add and LayerNormalization. On a processor that
kernel takes two to four times as long as the two operators, which are vectorized. It looks for Add only: Sum of two
tensors is the same to the last bit, and stays.
"""

from __future__ import annotations

from graphopt_passes.simplify.idioms import is_normalized

from graphopt import Context, DType, Value, require

REWRITES = {"residual_sum": "A sum in front of a normalization is Sum, which is not merged into a slower operator."}

_LEAST_OPSET = 8  # in which Sum broadcasts
_ATTENTION_OPSET = 13
_PROJECTIONS = 3
_RANKS = (2, 3)  # of what is merged


def part_residuals(ctx: Context) -> None:
    """Write the sums that only normalizations read as Sum."""
    for graph in list(ctx.model.graphs()):
        for add in list(graph.find("Add")):
            if add.is_standard and add.version >= _LEAST_OPSET and is_normalized(add):
                with ctx.rewrite("contrib.residual_sum", at=add) as rewrite:
                    a, b = add.inputs
                    require(a is not None and b is not None, "an operand is missing")
                    assert a is not None and b is not None
                    require(not (a.is_const or b.is_const), "an operand is constant")
                    require(a.dtype == DType.FLOAT, "the sum is not in float32")
                    require(add.outputs[0].rank in _RANKS, "the sum has neither two nor three axes")
                    require(not (_is_attended(a) or _is_attended(b)), "ONNX Runtime finds attention by this sum")
                    (total,) = rewrite.node("Sum", [a, b])
                    rewrite.replace(add.outputs[0], total)


def _is_attended(value: Value) -> bool:
    """Whether it goes into three projections as well, before opset 13: such attention is merged from sum to sum."""
    products = [node for node, index in value.uses() if node.op == "MatMul" and index == 0 and node.is_standard]
    return len(products) == _PROJECTIONS and products[0].version < _ATTENTION_OPSET
