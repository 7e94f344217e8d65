"""Reductions of one tensor along the same axes, once counted from the front and once from the back, are one."""

from __future__ import annotations

from typing import Any

from graphopt_passes.simplify.reading import from_front, ints

from graphopt import Context, Node, Value

REWRITES = {"same_reduction": "Two reductions of a tensor along the same axes, however these are counted, are one."}
_AXES_AS_INPUT = {"ReduceSum": 13}
_AXES_AS_INPUT_OTHERS = 18
_REDUCE = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2")


def share_reductions(ctx: Context) -> None:
    """Let the variance read the mean that is there, so that both are seen to be of one normalization."""
    for graph in list(ctx.model.graphs()):
        known: dict[Any, Value] = {}
        for node in list(graph.find(*_REDUCE)):
            key = _key(node) if node.alive and node.is_standard else None
            if key is None:
                continue
            first = known.setdefault(key, node.outputs[0])
            if first != node.outputs[0] and not node.outputs[0].is_output:
                with ctx.rewrite("fuse.same_reduction", at=node) as rewrite:
                    rewrite.replace(node.outputs[0], first)


def _key(node: Node) -> Any:
    """What the result depends on; None where the axes are not fixed."""
    x = node.inputs[0]
    since = _AXES_AS_INPUT.get(node.op, _AXES_AS_INPUT_OTHERS)
    axes = node.inputs[1] if node.version >= since and len(node.inputs) > 1 else None
    if x is None or x.rank is None or (axes is not None and not axes.is_const):
        return None
    named = ints(node, 1, "axes", since)
    if not named or not all(-x.rank <= a < x.rank for a in named) or len({a % x.rank for a in named}) != len(named):
        return None
    return x, node.op, tuple(sorted(from_front(named, x.rank))), node.attr("keepdims", 1)
