"""Operators that repeat a tensor, or put axes of size 1 in front, before others that broadcast by themselves.

The operators behind such a one are made anew without it, up to those whose results come out in their old shape all the
same because another operand is as large; these read the smaller tensor. If all ways end so, nobody needs more.
"""

from __future__ import annotations

import heapq

from graphopt_passes.simplify.reading import operand

from graphopt import Accuracy, Context, Graph, Node, Rewrite, Value, require

_ROOTS = ("Expand", "Tile", "Unsqueeze", "Reshape")
_MOST = 32  # nodes behind one root
POINTWISE = frozenset([
    "Abs", "Add", "And", "Cast", "Ceil", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal",
    "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Tanh", "Where", "Xor",
])  # fmt: skip


def leave_to_broadcasting(ctx: Context) -> None:
    """Drop Expand, Tile and axes in front where all who read the result broadcast by themselves."""
    for graph in list(ctx.model.graphs()):
        for node in list(graph.find(*_ROOTS)):
            if not (node.alive and node.is_standard and _only_repeats(node) and _is_followed(node, ctx.accuracy)):
                continue
            with ctx.rewrite("simplify.implicit_broadcast", at=node) as rewrite:
                _without(rewrite, graph, node, ctx)


def minds_repetition(reader: Node, index: int, accuracy: Accuracy) -> bool:
    """Whether an operator computes with one number otherwise than with many equal ones, more than `accuracy` allows.

    ONNX Runtime multiplies for a single exponent of 2 or 3, and calls pow for each of several, which for integers is
    off from 2^53 on.
    """
    base = operand(reader, 0)
    floats = base is not None and base.dtype is not None and base.dtype.is_floating_point()
    return reader.op == "Pow" and index == 1 and not (floats and accuracy >= Accuracy.CLOSE)


def _only_repeats(node: Node) -> bool:
    """Whether the result is the operand, broadcast to another shape."""
    x = operand(node, 0)
    old, new = None if x is None else x.shape, node.outputs[0].shape
    if old is None or new is None or None in new or len(new) < len(old) or old == new:
        return False
    front = len(new) - len(old)
    if node.op == "Expand":
        return True
    if node.op == "Tile":
        return all(a == b or a == 1 for a, b in zip(old, new, strict=True))
    return new[front:] == old and set(new[:front]) == {1}


def _is_followed(node: Node, accuracy: Accuracy) -> bool:
    """Whether everybody who reads the result can do with the operand instead, as far as one looks at operators."""
    value = node.outputs[0]
    if value.is_output or not value.use_count:
        return False
    x = operand(node, 0)
    return all(reader.graph == node.graph and _takes(reader, i, value, x, accuracy) for reader, i in value.uses())


def _takes(reader: Node, index: int, old: Value, new: Value | None, accuracy: Accuracy) -> bool:
    """Whether a node computes the same from `new`, which `old` is broadcast from, but for the shape of the result."""
    if new is None or not reader.is_standard:
        return False
    if reader.op == "Gather":
        return index == 1 and (new.rank == old.rank or reader.attr("axis", 0) == 0)
    return reader.op in POINTWISE and not minds_repetition(reader, index, accuracy)


def _without(rewrite: Rewrite, graph: Graph, root: Node, ctx: Context) -> None:
    """Make anew what is behind `root`, until shapes are what they were."""
    x = operand(root, 0)
    assert x is not None
    smaller = {root.outputs[0]: x}
    pending: list[tuple[int, Node]] = []
    waiting: set[Node] = set()

    def follow(value: Value) -> None:
        for reader, i in value.uses():
            fits = reader.graph == graph and _takes(reader, i, value, smaller[value], ctx.accuracy)
            require(fits, "a reader needs the shape")
            if reader not in waiting:
                waiting.add(reader)
                heapq.heappush(pending, (ctx.position(reader), reader))

    follow(root.outputs[0])
    while pending:
        node = heapq.heappop(pending)[1]
        require(len(waiting) <= _MOST, "too many operators follow")
        result = node.outputs[0]
        inputs = [v if v is None else smaller.get(v, v) for v in node.inputs]
        made = rewrite.node(node.op, inputs, node.attrs)[0]
        if made.shape is not None and made.shape == result.shape and None not in made.shape:
            # The node itself stays where it is, for those that end two ways may be far apart.
            for i, value in enumerate(node.inputs):
                if value in smaller:
                    rewrite.set_input(node, i, smaller[value])
            continue
        require(not result.is_output, "a result of the model has the shape")
        require(made.shape is not None and None not in made.shape, "the shape of a result is not known")
        smaller[result] = made
        follow(result)
