"""What more is known of values behind one that has been replaced by another of which more is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.facts import Facts
from graphopt.ir.native import Fact
from graphopt.ir.schemas import Inconsistent

if TYPE_CHECKING:
    from graphopt.ir.model import Model

_MOST = 10_000  # nodes that one change may have inferred again: what is not known costs speed, not truth


def refresh(
    model: Model, replaced: Iterable[tuple[oir.Value, oir.Value]], known: dict[oir.Value, Fact]
) -> list[oir.Node]:
    """Infer again what reads the values that replaced others; returns the nodes of whose results more is known now.

    `known`: the types of the replaced values, by their replacements.
    """
    facts = model.facts
    pending: deque[oir.Node] = deque()
    seen: set[oir.Value] = set()
    for old, new in replaced:
        if new in seen:
            continue
        fact = known.get(new)
        if fact is not None and _more(fact, facts.fact(new)) is not None:
            seen.add(new)
            pending.extend(_readers(model, new))
        elif new.const_value is not None and facts.const(old) is None:  # axes or a shape that was computed, perhaps
            seen.add(new)
            pending.extend(r for r in _readers(model, new) if any(_vague(facts, v) for v in r.outputs))
    better: list[oir.Node] = []
    for _ in range(_MOST):
        if not pending:
            break
        node = pending.popleft()
        if model.is_alive(node) and _infer(facts, node):
            better.append(node)
            for value in node.outputs:
                pending.extend(_readers(model, value))
    return better


def _infer(facts: Facts, node: oir.Node) -> bool:
    """Infer a node again; whether more is known of one of its outputs."""
    elements = [facts.symbolic(v) for v in node.outputs]
    try:
        found = facts.outputs(node)
    except Inconsistent:
        return False
    improved = False
    for value, fact, before in zip(node.outputs, found, elements, strict=False):
        merged = _more(facts.fact(value), fact)
        if merged is not None:
            facts.set(value, merged)
            improved = True
        elif before is not None:
            facts.forget_elements(value)
            improved = improved or _fewer_unknown(before, facts.symbolic(value))
    return improved


def _more(old: Fact, new: Fact) -> Fact | None:
    """The type with what `new` adds to `old`; None if it adds nothing."""
    if new.dtype is None or (old.dtype is not None and old.dtype != new.dtype):
        return None
    if old.shape is None or new.shape is None:
        shape = old.shape if new.shape is None else new.shape
    elif len(old.shape) != len(new.shape):
        return None
    else:
        shape = tuple(b if _open(a) and not _open(b) else a for a, b in zip(old.shape, new.shape, strict=True))
    if old.dtype is not None and shape == old.shape:
        return None
    return old._replace(dtype=new.dtype, shape=shape)


def _vague(facts: Facts, value: oir.Value) -> bool:
    shape = facts.shape(value)
    return shape is None or any(map(_open, shape))


def _open(size: int | Dim | None) -> bool:
    """Whether a size depends on one that has no name."""
    return size is None or (isinstance(size, Dim) and any(s.is_anonymous for _, factors in size.terms for s in factors))


def _fewer_unknown(before: Shape, after: Shape | None) -> bool:
    return after is not None and sum(map(_open, after)) < sum(map(_open, before))


def _readers(model: Model, value: oir.Value) -> list[oir.Node]:
    """The nodes that read a value; for an output of a body, also the node that the body belongs to."""
    found = [use.node for use in value.uses()]
    graph = value.graph
    if value.is_graph_output() and isinstance(graph, oir.Graph):
        holder = model.holders.get(graph)
        if holder is not None:
            found.append(holder)
    return found
