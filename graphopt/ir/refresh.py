"""What more is known of values behind one that has been replaced by another of which more is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.ir import control
from graphopt.ir.facts import Facts
from graphopt.ir.learn import Learner, is_open, more
from graphopt.ir.native import Fact

if TYPE_CHECKING:
    from graphopt.ir.model import Model

_MOST = 10_000  # nodes that one change may have inferred again: what is not known costs speed, not truth
_MANY = 32  # operands of a node


def refresh(
    model: Model, replaced: Iterable[tuple[oir.Value, oir.Value]], known: dict[oir.Value, Fact]
) -> list[oir.Node]:
    """Infer again what reads the values that replaced others; returns the nodes of whose operands more is known now.

    `known`: the types of the replaced values, by their replacements.
    """
    facts = model.facts
    learner = Learner(facts)
    pending: deque[oir.Node] = deque()
    for old, new in replaced:
        fact, now = known.get(new), facts.fact(new)
        if fact is not None and fact != now:
            learner.equate(fact, now, old.producer())
            pending.extend(_readers(model, new, more(fact, now) is not None))
        elif new.const_value is not None and facts.const(old) is None:  # axes or a shape that was computed, perhaps
            pending.extend(r for r in _readers(model, new) if any(_vague(facts, v) for v in r.outputs))
    seen: dict[oir.Node, None] = {}
    for _ in range(_MOST):
        if not pending:
            break
        node = pending.popleft()
        if not model.is_alive(node):
            continue
        seen[node] = None
        for value, implied in control.inputs(node, facts.fact, facts.standard_version(node)):
            if learner.learn(value, implied, node):
                pending.extend(_readers(model, value))
        if learner.infer(node):
            for value in node.outputs:
                pending.extend(_readers(model, value, learner.gained))
    return list(seen)


def _vague(facts: Facts, value: oir.Value) -> bool:
    shape = facts.shape(value)
    return shape is None or any(map(is_open, shape))


def _readers(model: Model, value: oir.Value, gained: bool = True) -> list[oir.Node]:
    """The nodes that read a value; for an output of a body, also the node that the body belongs to.

    `gained`: whether more is known of the value than another name for a size, which is not worth a look at many
    operands for each of them.
    """
    found = [use.node for use in value.uses() if gained or len(use.node.inputs) <= _MANY]
    graph = value.graph
    if value.is_graph_output() and isinstance(graph, oir.Graph):
        holder = model.holders.get(graph)
        if holder is not None:
            found.append(holder)
    return found
