"""Constant folding: whatever depends on constants only is computed now, where that does not cost size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import Accuracy, Context, Node, Pass, Value

_NEVER = frozenset(
    [
        # They give other numbers at each call.
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout",
        # A weight's DequantizeLinear is how the runtime knows that the weight is an integer.
        "DequantizeLinear",
        # Already constant, or only a name.
        "Constant", "Identity",
        # Their results are no tensors.
        "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence", "Optional",
        "SequenceMap", "OptionalGetElement", "SequenceAt", "ConcatFromSequence", "SequenceLength",
    ]
)  # fmt: skip
# Of floats these give one result only: they move elements, or round as IEEE 754 says.
_EXACT = frozenset(
    ["Abs", "Add", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Compress", "Concat", "ConstantOfShape",
     "DepthToSpace", "Div", "Equal", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
     "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "OneHot",
     "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence", "Round", "ScatterElements", "ScatterND",
     "Shape", "Sign", "Size", "Slice", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "TopK", "Transpose",
     "Trilu", "Unsqueeze", "Where"]
)  # fmt: skip


@dataclass(frozen=True)
class Fold(Pass):
    """Compute what depends on constants only, unless that would make the file grow.

    `slack`: bytes that the results of one node may be larger than the constants they replace. It is a limit per
    node, not per model, so that a second run decides as the first did.
    `budget`: bytes that a single intermediate result may have; known from its shape before anything runs.
    `timeout`: seconds that the computation may take.
    """

    name = "fold"
    rewrites: ClassVar[Mapping[str, str]] = {"fold": "What depends on constants only is a constant."}

    slack: int = 1 << 16
    budget: int = 1 << 28
    timeout: float = 60.0

    def run(self, ctx: Context) -> None:
        if ctx.ignores("fold"):
            return
        region = self._affordable(ctx, self._constant(ctx))
        if not region:
            return
        wanted = [o for n in region.values() for o in n.outputs if _leaves(o, region)]
        values = ctx.evaluate(list(region.values()), wanted, budget=self.budget, timeout=self.timeout)
        for value in wanted:
            producer = value.producer
            if value not in values or producer is None or not producer.alive:
                continue
            with ctx.rewrite("fold", at=producer) as rewrite:
                rewrite.replace(value, rewrite.constant(values[value], value.name))

    def _constant(self, ctx: Context) -> dict[Node, Node]:
        """The nodes whose results are fixed and small enough, in topological order."""
        region: dict[Node, Node] = {}
        for graph in ctx.model.graphs():
            for node in graph.nodes:
                inputs = node.inputs
                if not inputs or not all(v is None or v.is_const or v.producer in region for v in inputs):
                    continue
                if node.op in _NEVER:
                    continue
                if ctx.accuracy < Accuracy.CLOSE and not _is_exact(node):
                    ctx.decline("fold", node, "the last bits of the result differ between runtimes")
                    continue
                if not node.is_standard or node.bodies:
                    ctx.decline("fold", node, f"{node.op} is not computed ahead of time")
                    continue
                sizes = [_bytes(o) for o in node.outputs]
                if any(s is None for s in sizes):
                    ctx.decline("fold", node, "the size of the result is not known beforehand")
                elif any(s is not None and s > self.budget for s in sizes):
                    ctx.decline("fold", node, f"the result would be larger than {self.budget} bytes")
                else:
                    region[node] = node
        return region

    def _affordable(self, ctx: Context, region: dict[Node, Node]) -> dict[Node, Node]:
        """The part of the region in which no node makes the file grow by more than `slack`."""
        kept: dict[Node, Node] = {}
        for node in region:
            sources = {v for v in node.inputs if v is not None}
            if not all(v.is_const or v.producer in kept for v in sources):
                continue
            freed = sum(_bytes(v) or 0 for v in sources if all(reader in region for reader, _ in v.uses()))
            growth = max(0, sum(_bytes(o) or 0 for o in node.outputs) - freed)
            if growth > self.slack:
                ctx.decline("fold", node, "the file would grow by more than the slack")
                continue
            kept[node] = node
        return kept


def _is_exact(node: Node) -> bool:
    """Whether every runtime gives the same bits."""
    if node.op in _EXACT:
        return True
    kinds = [v.dtype for v in (*node.inputs, *node.outputs) if v is not None]
    # Powers of integers are computed in floats.
    return node.op != "Pow" and all(k is not None and not k.is_floating_point() for k in kinds)


def _leaves(value: Value, region: dict[Node, Node]) -> bool:
    """Whether somebody outside of the region reads the value."""
    return value.is_output or any(reader not in region for reader, _ in value.uses())


def _bytes(value: Value) -> int | None:
    """Bytes of a value whose shape is static, else None."""
    if value.nbytes is not None:
        return value.nbytes
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None:
        return None
    count = 1
    for dim in shape:
        if not isinstance(dim, int):
            return None
        count *= dim
    return -(-count * dtype.bitwidth // 8) if dtype.name != "STRING" else None
