"""Weights that several operators read with different needs: what is stored more than once, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.place import Plan

__all__ = ["copies"]

_NAMED = 3  # readers that are named


def copies(plan: Plan) -> Iterator[str]:
    """A remark on each weight of a plan that will be stored in more than one form; before the plan is carried out."""
    forms: dict[Value, dict[int | None, list[Node]]] = {}
    for heavy in plan.heavy:
        if heavy.weight is not None:
            forms.setdefault(heavy.weight, {}).setdefault(heavy.axis, []).append(heavy.node)
    for weight, by_axis in forms.items():
        told = [f"as integers for {_listed(nodes)}{_along(axis)}" for axis, nodes in by_axis.items()]
        inside = {node for nodes in by_axis.values() for node in nodes}
        others = [node for node, index in weight.uses() if node not in inside or index != 1]
        if others or weight.is_output:
            told.append(f"in float for {_listed(others)}" if others else "in float as an output")
        if len(told) > 1:
            yield f"{weight.name!r} is stored {len(told)} times: {', '.join(told)}"


def _along(axis: int | None) -> str:
    return "" if axis is None else f" along axis {axis}"


def _listed(nodes: list[Node]) -> str:
    names = list(dict.fromkeys(node.name or node.op for node in nodes))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
