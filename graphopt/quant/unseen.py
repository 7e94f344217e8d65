"""What a plan needs to know and calibration could not find out, which happens inside of bodies.

No sample took the branch; or the value cannot be handed out of its body, so that nobody could look at it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.quant.calibrate import UNREACHED

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.calibrate import Calibration
    from graphopt.quant.operands import Heavy
    from graphopt.quant.place import Plan

__all__ = ["Unseen", "unseen", "witnesses"]


@dataclass
class Unseen:
    """Weighted operators that stay float, and names of other activations that nobody can round; with the reasons."""

    nodes: dict[Node, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.values)


def witnesses(plan: Plan) -> list[Value]:
    """Values whose statistics tell whether a body was run, for operators that have no range from within it."""
    inside = [h.node for h in plan.heavy if not h.node.graph.is_main]
    known = {value.graph for value in plan.calibrated}
    return [node.outputs[0] for node in inside if node.graph not in known]


def unseen(plan: Plan, calibration: Calibration, given: Collection[Value] = ()) -> Unseen:
    """What `calibration` lacks for `plan`; the ranges of `given` values are known otherwise."""
    found = Unseen()
    lacking = {v for v in plan.calibrated if v.name not in calibration.statistics and v not in given}
    idle = {value.graph for value in witnesses(plan) if calibration.missing.get(value.name) == UNREACHED}
    users = _users(plan)
    for heavy in plan.heavy:
        if heavy.node.graph in idle:
            found.nodes[heavy.node] = UNREACHED
    for pair in plan.pairs:
        missing = next((v for v in (pair.like, *pair.also) if v in lacking), None)
        if missing is None:
            continue
        reason = calibration.missing.get(missing.name, "it is not among what was watched")
        nodes = list(users.get(id(pair), ()))
        for node in nodes:
            text = reason if reason == UNREACHED else f"{missing.name!r} cannot be calibrated: {reason}"
            found.nodes.setdefault(node, text)
        if not nodes:
            found.values[pair.value.name] = reason
    return found


def _users(plan: Plan) -> dict[int, list[Node]]:
    """The weighted operators that cannot do without a pair, by its `id`: those that read it, and that write it."""
    found: dict[int, list[Node]] = {}
    heavy = {h.node for h in plan.heavy}
    behind: dict[Value, Node] = {}
    for h in plan.heavy:
        for value in _written(h):
            behind[value] = h.node
    for pair in plan.pairs:
        readers = pair.value.uses() if pair.readers is None else pair.readers
        users = found.setdefault(id(pair), [])
        users += [node for node, _ in readers if node in heavy]
        if pair.readers is None and pair.value in behind:
            users.append(behind[pair.value])
    return found


def _written(heavy: Heavy) -> Iterator[Value]:
    """Where the Q behind an operator may stand."""
    yield heavy.output
    for reader, _ in heavy.output.uses():
        if reader.op in ("Relu", "Clip"):
            yield reader.outputs[0]

