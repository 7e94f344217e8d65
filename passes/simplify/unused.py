"""Outputs that nobody reads: they are not asked for, and dead parts of a Split are one part."""

from __future__ import annotations

import itertools

import numpy as np
from graphopt_passes.simplify.joined import axis_of, spans
from graphopt_passes.simplify.reading import operand

from graphopt import Accuracy, Context, Node, Rewrite, Value, require

# How many outputs of an operator there have to be; the others may be left out, from the last one on.
_NEEDED = {
    "Attention": 1, "Dropout": 1, "GRU": 1, "LayerNormalization": 1, "LSTM": 1, "MaxPool": 1, "RNN": 1,
    "SoftmaxCrossEntropyLoss": 1, "Unique": 1,
}  # fmt: skip


def drop_outputs(ctx: Context) -> None:
    """Ask operators only for outputs that somebody reads."""
    # Without indices ONNX Runtime computes MaxPool in another way, which may overlook a NaN.
    ops = [op for op in _NEEDED if op != "MaxPool" or ctx.accuracy >= Accuracy.FAST]
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*ops):
            count = len(node.outputs)
            if node.is_standard and count > _needed(node) and not node.outputs[-1].use_count:
                with ctx.rewrite("simplify.unread_output", at=node) as rewrite:
                    _ask_for_less(rewrite, node)


def _needed(node: Node) -> int:
    """How many outputs there have to be; Attention fails in ONNX Runtime with only some of past and present."""
    cached = [*node.inputs[4:6], *(o for o in node.outputs[1:3] if o.use_count)]
    return 3 if node.op == "Attention" and any(v is not None for v in cached) else _NEEDED[node.op]


def _ask_for_less(rewrite: Rewrite, node: Node) -> None:
    require(node.version >= 7, "before opset 7 the number of outputs tells training and inference apart")
    outputs = node.outputs
    count = max([i + 1 for i, o in enumerate(outputs) if o.use_count], default=0)
    require(count >= 1, "nobody reads any output")
    # An output in between that has no name is not asked for, and has to stay so.
    require(all(o.name or o.use_count for o in outputs[:count]), "an output before it is left out")
    made = rewrite.node(node.op, node.inputs, node.attrs, outputs=max(count, _needed(node)))
    _hand_over(rewrite, outputs, made)


def split_dead_parts(rewrite: Rewrite, node: Node) -> None:
    """Parts of a Split next to each other that nobody reads are one part."""
    outputs = node.outputs
    read = [bool(o.use_count) for o in outputs]
    require(sum(read) > 1, "at most one part is read")
    require(any(not a and not b for a, b in itertools.pairwise(read)), "no dead parts are neighbours")
    axis = axis_of(node)
    sizes: list[int] = []
    kept: list[Value | None] = []
    places = spans(outputs, axis)
    require(len(places) == len(outputs), "the sizes of the parts are not fixed")
    for output, (begin, end) in zip(outputs, places, strict=True):
        require(isinstance(begin, int) and isinstance(end, int), "the sizes of the parts are not fixed")
        assert isinstance(begin, int) and isinstance(end, int)
        if output.use_count:
            kept.append(output)
        elif kept and kept[-1] is None:
            sizes[-1] += end - begin
            continue
        else:
            kept.append(None)
        sizes.append(end - begin)
    made = split(rewrite, node, operand(node, 0), axis, sizes)
    for old, new in zip(kept, made, strict=True):
        if old is not None:
            rewrite.replace(old, new)


def split(rewrite: Rewrite, like: Node, x: Value | None, axis: int, sizes: list[int]) -> tuple[Value, ...]:
    """A Split into parts of these sizes, as it is written at the opset of `like`."""
    if like.version < 13:
        return rewrite.node("Split", [x], {"axis": axis, "split": sizes}, outputs=len(sizes))
    given = rewrite.constant(np.array(sizes, np.int64), f"{like.outputs[0].name}_sizes")
    return rewrite.node("Split", [x, given], {"axis": axis}, outputs=len(sizes))


def _hand_over(rewrite: Rewrite, old: tuple[Value, ...], new: tuple[Value, ...]) -> None:
    for before, after in zip(old, new, strict=False):
        if before.use_count:
            rewrite.replace(before, after)
