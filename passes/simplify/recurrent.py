"""Recurrent operators start from zeros anyway, so zeros need not be made for them."""

from __future__ import annotations

from graphopt import Context, Node, Rewrite, Value, require

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_KEEPS_ZEROS = frozenset(
    ["Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)


def drop_zero_states(ctx: Context) -> None:
    """Leave out initial states of LSTM, GRU and RNN that are 0 throughout, with all that computes their shape."""
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*_STATES):
            if not node.is_standard:
                continue
            with ctx.rewrite("simplify.zero_state", at=node) as rewrite:
                _drop(rewrite, node)


def _drop(rewrite: Rewrite, node: Node) -> None:
    inputs = list(node.inputs)
    zeros = [i for i in _STATES[node.op] if i < len(inputs) and _is_zero(inputs[i])]
    require(zeros, "no initial state is provably 0")
    for i in zeros:
        inputs[i] = None
    count = max(i + 1 for i, o in enumerate(node.outputs) if i == 0 or o.use_count)
    outputs = rewrite.node(node.op, inputs, node.attrs, outputs=count)
    for old, new in zip(node.outputs, outputs, strict=False):
        if old.use_count:
            rewrite.replace(old, new)


def _is_zero(value: Value | None) -> bool:
    """Whether every element is +0, by the constant that it is made of."""
    while value is not None and not value.is_const:
        producer = value.producer
        if producer is None or not producer.is_standard:
            return False
        if producer.op == "ConstantOfShape":
            fill = producer.attr("value")
            return fill is None or not any(fill.numpy().tobytes())
        if producer.op not in _KEEPS_ZEROS:
            return False
        value = producer.inputs[0]
    splat = None if value is None else value.splat
    return splat is not None and not any(splat.tobytes())
