"""An If whose condition is known is the branch that it takes."""

from __future__ import annotations

from graphopt import Context, Graph, Node, Rewrite, Value, require


def inline_branches(ctx: Context) -> None:
    """Put the taken branch of every If with a constant condition in its place, the inner ones first."""
    for graph in reversed(list(ctx.model.graphs())):
        for node in graph.find("If"):
            if not node.is_standard or not node.alive:
                continue
            # The type of an If is what both branches have in common; that of the branch taken says more.
            with ctx.rewrite("simplify.if_constant", at=node, same_type=False) as rewrite:
                _inline(rewrite, node)


def _inline(rewrite: Rewrite, node: Node) -> None:
    condition = node.inputs[0]
    array = None if condition is None else condition.array()
    require(array is not None and array.size == 1, "the condition is not constant")
    assert array is not None
    branch = node.attr("then_branch" if array.item() else "else_branch")
    require(isinstance(branch, Graph), "the branch is an attribute of the function's caller")
    made: dict[Value, Value] = {v: rewrite.constant(v.tensor, v.name) for v in branch.initializers}
    for inner in branch.nodes:
        # A body inside of the branch may read what the branch computes, which would have to be renamed there.
        require(not inner.bodies, "there is control flow within the branch")
        made.update(_copy(rewrite, inner, made))
    for old, new in zip(node.outputs, branch.outputs, strict=True):
        rewrite.replace(old, made.get(new, new))


def _copy(rewrite: Rewrite, inner: Node, made: dict[Value, Value]) -> dict[Value, Value]:
    """The outputs of a node of the branch, each with the value that stands for it outside."""
    tensor = inner.outputs[0].tensor if inner.op == "Constant" else None
    if tensor is not None:
        return {inner.outputs[0]: rewrite.constant(tensor, inner.outputs[0].name)}
    inputs = [None if v is None else made.get(v, v) for v in inner.inputs]
    count = max(i + 1 for i, o in enumerate(inner.outputs) if i == 0 or o.name or o.use_count)
    outputs = rewrite.node(inner.op, inputs, inner.attrs, domain=inner.domain, outputs=count)
    return dict(zip(inner.outputs, outputs, strict=False))
