"""If: branches that are always taken, that do the same, or that only choose between what is there."""

from __future__ import annotations

import math

from graphopt_passes.control.alike import alike

from graphopt import DType, Graph, Node, Rewrite, Value, require

_FEW = 4096  # elements that are copied faster than a branch is entered
_WHERE = frozenset([DType.FLOAT, DType.DOUBLE, DType.INT32, DType.INT64, DType.UINT8])  # runtimes' kernels


def if_constant(rewrite: Rewrite, node: Node) -> None:
    """An If whose condition is known is the branch that it takes."""
    condition = node.inputs[0]
    array = None if condition is None else condition.array()
    require(array is not None and array.size == 1, "the condition is not constant")
    assert array is not None
    _inline(rewrite, node, _branch(node, "then_branch" if array.item() else "else_branch"))


def if_same(rewrite: Rewrite, node: Node) -> None:
    """An If whose branches compute the same is either of them."""
    branch = _branch(node, "then_branch")
    require(alike(branch, _branch(node, "else_branch")), "the branches differ")
    _inline(rewrite, node, branch)


def if_passes(rewrite: Rewrite, node: Node) -> None:
    """What an If takes from around it in both branches alike is read there."""
    sources = [_sources(node, i) for i in range(len(node.outputs))]
    same = [(old, pair[0]) for old, pair in zip(node.outputs, sources, strict=True)
            if old.use_count and pair[0] is not None and pair[0] == pair[1]]  # fmt: skip
    require(same, "no output is the same in both branches")
    for old, new in same:
        assert new is not None
        rewrite.replace(old, new)


def if_where(rewrite: Rewrite, node: Node) -> None:
    """An If that only chooses between two small tensors of one shape is Where."""
    require(node.version >= 9, "before opset 9 there is no Where")
    require(len(node.outputs) == 1, "it chooses several tensors")
    condition, (a, b) = node.inputs[0], _sources(node, 0)
    require(condition is not None and a is not None and b is not None, "a branch computes something")
    assert condition is not None and a is not None and b is not None
    require(a.dtype in _WHERE and a.dtype == b.dtype, "runtimes have no kernel of Where for the dtype")
    shape = a.shape
    require(shape is not None and shape == b.shape, "the shapes of the branches may differ")
    assert shape is not None
    sizes = [n for n in shape if isinstance(n, int)]
    require(len(sizes) == len(shape) and math.prod(sizes) <= _FEW, "the tensors may be large")
    fits = condition.shape is not None and len(condition.shape) <= len(shape) and all(n == 1 for n in condition.shape)
    require(fits, "the condition would change the shape")
    operands = [condition, _near(rewrite, a, node), _near(rewrite, b, node)]
    rewrite.replace(node.outputs[0], rewrite.node("Where", operands)[0])


def if_not(rewrite: Rewrite, node: Node) -> None:
    """An If that asks for the opposite has its branches exchanged."""
    condition = node.inputs[0]
    producer = None if condition is None else condition.producer
    require(producer is not None and producer.op == "Not" and producer.is_standard, "the condition is not negated")
    assert producer is not None and condition is not None
    require(condition.use_count == 1, "the condition has other readers")
    attrs = {
        "then_branch": rewrite.body(_branch(node, "else_branch"), {}),
        "else_branch": rewrite.body(_branch(node, "then_branch"), {}),
    }
    made = rewrite.node("If", producer.inputs, attrs, outputs=len(node.outputs))
    for old, new in zip(node.outputs, made, strict=True):
        rewrite.keep_type(old, new)
        rewrite.replace(old, new)


def if_dead_output(rewrite: Rewrite, node: Node) -> None:
    """What an If gives and nobody reads is not computed in its branches."""
    used = [i for i, old in enumerate(node.outputs) if old.use_count]
    require(0 < len(used) < len(node.outputs), "all outputs are used")
    attrs = {}
    for name in ("then_branch", "else_branch"):
        branch = _branch(node, name)
        attrs[name] = rewrite.body(branch, {}, outputs=[branch.outputs[i] for i in used])
    made = rewrite.node("If", node.inputs, attrs, outputs=len(used))
    for i, new in zip(used, made, strict=True):
        rewrite.keep_type(node.outputs[i], new)
        rewrite.replace(node.outputs[i], new)


BRANCHES = (if_constant, if_same, if_passes, if_where, if_not, if_dead_output)


def _branch(node: Node, name: str) -> Graph:
    branch = node.attr(name)
    require(isinstance(branch, Graph), "the branch is an attribute of the function's caller")
    assert isinstance(branch, Graph)
    require(len(branch.outputs) == len(node.outputs), "the branch has another number of outputs")
    return branch


def _inline(rewrite: Rewrite, node: Node, branch: Graph) -> None:
    for old, new in zip(node.outputs, rewrite.inline(branch, {}), strict=True):
        rewrite.replace(old, new)


def _sources(node: Node, index: int) -> tuple[Value | None, Value | None]:
    """The values that an If only hands on as its output, in either case; None where it computes something."""
    a, b = (_source(_branch(node, name), index) for name in ("then_branch", "else_branch"))
    return a, b


def _source(branch: Graph, index: int) -> Value | None:
    value = branch.outputs[index]
    while (producer := value.producer) is not None and producer.op == "Identity" and producer.is_standard:
        source = producer.inputs[0]
        if source is None:
            return None
        value = source
    return None if value.graph == branch and not value.is_const else value


def _near(rewrite: Rewrite, value: Value, node: Node) -> Value:
    """The value where `node` can read it: a constant of a branch has to come out of it."""
    return rewrite.constant(value.tensor, value.name) if value.graph in node.bodies else value
