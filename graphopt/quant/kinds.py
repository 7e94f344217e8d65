"""Kinds of quantization other than static, carried out: dynamic and weight-only, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.errors import UsageError, nearest
from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.coverage import reasons_by_name
from graphopt.quant.dynamic import DYNAMIC_OPS, OPSET_DYNAMIC, Dynamic
from graphopt.quant.lift import HALF_OPSETS
from graphopt.quant.weights_only import WEIGHT_OPS, WeightsOnly, opset_of_weights

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node
    from graphopt.quant.correct.matrices import MatrixCorrections
    from graphopt.quant.insert import Placed
    from graphopt.quant.options import QuantOptions
    from graphopt.quant.place import QuantSelection
    from graphopt.targets.target import Target

__all__ = ["Carried", "carry_out", "deselected", "nodes_of_kind", "opset_of_kind"]

_OPS = {"dynamic": DYNAMIC_OPS, "weights": WEIGHT_OPS}
_NAMED = frozenset({"Conv", "ConvTranspose", "GRU"})  # which one might expect dynamic quantization to take


@dataclass
class Carried:
    """What was done: placed weights, how many operators of each kind, and what was declined as (node, op, reason).

    `reasons`: why operators stay float, as `coverage` takes them.
    """

    placed: list[Placed] = field(default_factory=list)
    declined: list[tuple[str, str, str]] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def decline(self, node: Node, reason: str) -> None:
        self.declined.append((node.name, node.op, reason))
        self.reasons.update(reasons_by_name([(node, reason)]))


def opset_of_kind(model: Model, target: Target, options: QuantOptions) -> int:
    """The opset that the operators need which a kind would bring into the model; 0 if any will do."""
    known = _OPS[options.kind] - ({*target.kinds.float} if options.kind == "weights" else set())
    if not any(node.op in known and _is_meant(node) for graph in model.graphs() for node in graph.nodes):
        return 0
    if options.kind == "dynamic":
        return OPSET_DYNAMIC
    rest = options.rest or ("float32" if target.quant is None else target.quant.rest)
    return max(opset_of_weights(target.kinds.weights, options.stored, options.block), HALF_OPSETS[rest])


def nodes_of_kind(model: Model, kind: str, options: QuantOptions, target: Target) -> tuple[list[Node], Carried]:
    """The operators that `dynamic` or `weights` may take, in the order of the graphs, and why others may not.

    Raises `TargetError` if the target has no form of the kind, `UsageError` for an operator that it does not know.
    """
    target.kinds.require(kind, target.name)
    known = _OPS[kind]
    for op in options.selection.ops:
        if op not in known:
            raise UsageError(f"quant.ops cannot be {op!r} with kind={kind}", hint=nearest(op, known))
    carried = Carried()
    found = []
    for graph in model.graphs():
        for node in graph.nodes:
            if node.op in known and _is_meant(node):
                found.append(node)
            elif kind == "dynamic" and node.op in _NAMED and node.is_standard:
                why = target.kinds.refused.get(node.op, f"there is no kernel of {node.op} with dynamic scales")
                carried.decline(node, why)
    chosen = []
    for node in found:
        reason = deselected(node, options.selection, found)
        if reason is None and kind == "weights":
            reason = target.kinds.float.get(node.op)
        if reason is None:
            chosen.append(node)
        else:
            carried.decline(node, reason)
    return chosen, carried


def carry_out(
    edit: Editor,
    target: Target,
    options: QuantOptions,
    chosen: Mapping[str, Sequence[Node]],
    *,
    bits: int,
    corrections: MatrixCorrections | None = None,
) -> Carried:
    """Convert the nodes of each kind; `bits`: of weights whose products are added in integers. `corrections`: of those
    that are stored only.
    """
    done = Carried()
    for kind, nodes in chosen.items():
        work: Dynamic | WeightsOnly
        if kind == "dynamic":
            work = Dynamic(edit, target.kinds, nodes, per_channel=options.per_channel, bits=bits)
        else:
            work = WeightsOnly(edit, target.kinds, dtype=options.stored, block=options.block, corrections=corrections)
        for node in nodes:
            try:
                done.placed.append(work.convert(node))
                done.done[kind] = done.done.get(kind, 0) + 1
            except Decline as reason:
                done.decline(node, reason.reason)
    return done


def _is_meant(node: Node) -> bool:
    """Whether this is the standard operator of its name, or for Attention that of ONNX Runtime."""
    return node.domain == CONTRIBUTED if node.op == "Attention" else node.is_standard


def deselected(node: Node, selection: QuantSelection, found: Sequence[Node]) -> str | None:
    """Why the user does not want a node, else None; `found`: all that could be quantized, in order."""
    reason = selection.objection(node)
    if reason is not None:
        return reason
    if any(v.name in selection.floats for v in node.outputs):
        return "it would cost too much accuracy"
    ends = not selection.ends and node in (found[0], found[-1])
    return "the first and the last layer were to stay float" if ends else None
