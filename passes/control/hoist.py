"""What a Loop or Scan computes anew in each iteration, though it is always the same."""

from __future__ import annotations

from graphopt_passes.control.iteration import RANDOM, Iteration, iteration, remake

from graphopt import DType, Node, Rewrite, Value, require

# Not random, but not to be moved: runtimes want to see these next to the operators around them, or nothing is gained.
_STAYS = frozenset(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Identity"])
_CHEAP = frozenset(
    ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Shape",
     "Sigmoid", "Sign", "Sin", "Size", "Softplus", "Sqrt", "Tanh", "Transpose"]
)  # fmt: skip
_ELEMENTWISE = frozenset(
    ["Add", "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or", "Sub",
     "Where", "Xor"]
)  # fmt: skip


def loop_invariant(rewrite: Rewrite, node: Node) -> None:
    """What a Loop or Scan computes from nothing that changes is computed once, before it."""
    loop = iteration(node)
    runs = loop.runs()
    fixed: set[Value] = set(loop.body.initializers)
    chosen: list[Node] = []
    for inner in loop.body.nodes:
        if _is_fixed(inner, loop, fixed):
            if inner.op == "Constant":
                fixed.update(inner.outputs)
            elif _may_move(inner, loop) and (runs or _is_harmless(inner)):
                chosen.append(inner)
                fixed.update(inner.outputs)
    require(chosen, "every operator depends on something that changes, or may only run when its turn comes")
    values: dict[Value, Value] = {}
    for inner in chosen:
        for value in inner.inputs:
            if value is not None and value not in values and value.is_const and value.graph == loop.body:
                values[value] = rewrite.constant(value.tensor, value.name)
        values.update(zip(inner.outputs, rewrite.copy(inner, values), strict=False))
    remake(rewrite, loop, values)


HOISTS = (loop_invariant,)


def _is_fixed(inner: Node, loop: Iteration, fixed: set[Value]) -> bool:
    """Whether all that a node reads comes from around the body, or is itself fixed."""
    return all(v is None or v in fixed or v.graph != loop.body for v in inner.inputs)


def _may_move(inner: Node, loop: Iteration) -> bool:
    if not inner.is_standard or inner.bodies or inner.op in RANDOM or inner.op in _STAYS:
        return False
    # What the body gives must be computed in it; and what is no tensor is not known well enough.
    ends = set(loop.body.outputs)
    return all(o not in ends and (o.dtype is not None or not o.name) for o in inner.outputs)


def _is_harmless(inner: Node) -> bool:
    """Whether an operator cannot fail and costs little, so that it may also run if the loop never does."""
    if inner.op in _CHEAP:
        return True
    if inner.op == "Cast":
        source = inner.inputs[0]
        target = inner.outputs[0].dtype
        return source is not None and DType.STRING not in (source.dtype, target) and source.dtype is not None
    return inner.op in _ELEMENTWISE and _always_broadcast([v for v in inner.inputs if v is not None])


def _always_broadcast(values: list[Value]) -> bool:
    shapes = [v.shape for v in values]
    rank = max((len(s) for s in shapes if s is not None), default=0)
    for axis in range(1, rank + 1):
        sizes = {s[-axis] for s in shapes if s is not None and len(s) >= axis} - {1}
        if None in sizes or len(sizes) > 1:
            return False
    return None not in shapes
