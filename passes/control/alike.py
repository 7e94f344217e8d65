"""Whether two bodies compute the same, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphopt import Graph, Node, Value


def alike(a: Graph, b: Graph) -> bool:
    """Whether two bodies give the same outputs for the same inputs: equal operators, wired alike, on equal constants.

    What they read from around them must be the same values. The order and the names of their nodes do not count.
    """
    if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
        return False
    nodes: dict[Node, Node] = {}
    values = dict(zip(a.inputs, b.inputs, strict=True))
    pending = list(zip(a.outputs, b.outputs, strict=True))
    while pending:
        left, right = pending.pop()
        if values.get(left) == right or (left == right and not _belongs(left, a)):
            continue
        if left in values:
            return False
        if left.is_const or right.is_const:
            if not same_constant(left, right):
                return False
            continue
        mine, other = left.producer, right.producer
        if mine is None or other is None or mine.graph != a or other.graph != b:
            return False
        if mine in nodes and nodes[mine] == other and left.index == right.index:
            continue  # another output of nodes that were compared
        if mine in nodes or other in nodes.values() or left.index != right.index or not _same_operator(mine, other):
            return False
        nodes[mine] = other
        values[left] = right
        for x, y in zip(mine.inputs, other.inputs, strict=True):
            if (x is None) != (y is None):
                return False
            if x is not None and y is not None:
                pending.append((x, y))
        captured = _captured_pairs(mine, other)
        if captured is None:
            return False
        pending.extend(captured)
    return True


def same_constant(a: Value, b: Value) -> bool:
    """Whether two values are constants of the same type with the same bits."""
    if a == b:
        return a.is_const
    x, y = a.tensor, b.tensor
    if x is None or y is None or x.dtype != y.dtype or tuple(x.shape) != tuple(y.shape) or a.sample != b.sample:
        return False
    left, right = a.array(), b.array()
    assert left is not None and right is not None
    if left.dtype.kind == "O":
        return bool((left == right).all())
    return left.tobytes() == right.tobytes()


def _same_operator(a: Node, b: Node) -> bool:
    same = (a.op, a.domain, len(a.inputs), len(a.outputs)) == (b.op, b.domain, len(b.inputs), len(b.outputs))
    x, y = a.effective_attrs, b.effective_attrs
    return same and x.keys() == y.keys() and all(_same_attribute(x[k], y[k]) for k in x)


def _same_attribute(a: Any, b: Any) -> bool:
    if isinstance(a, Graph) or isinstance(b, Graph):
        return isinstance(a, Graph) and isinstance(b, Graph)  # what is in them is compared elsewhere
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same_attribute(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "is_ref") or hasattr(b, "is_ref"):
        return hasattr(a, "is_ref") and hasattr(b, "is_ref") and a.ref_attr_name == b.ref_attr_name
    if hasattr(a, "tobytes") or hasattr(b, "tobytes"):
        return _same_tensor(a, b)
    return type(a) is type(b) and bool(a == b)


def _same_tensor(a: Any, b: Any) -> bool:
    both = hasattr(a, "tobytes") and hasattr(b, "tobytes")
    if not both or a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape) or a.dtype.name == "STRING":
        return False
    return bool(a.tobytes() == b.tobytes())


def _captured_pairs(a: Node, b: Node) -> list[tuple[Value, Value]] | None:
    """What the bodies of two nodes read from around them, pairwise; None if the bodies differ."""
    if not a.bodies and not b.bodies:
        return []
    return None if len(a.bodies) != len(b.bodies) else _nested(a, b)


def _nested(a: Node, b: Node) -> list[tuple[Value, Value]] | None:
    """Bodies within bodies are the same if they read nothing from the ones around them that might differ."""
    for x, y in zip(a.bodies, b.bodies, strict=True):
        if any(v is not None and _belongs(v, a.graph) for v in _reads(x)) or not alike(x, y):
            return None
    return []


def _reads(graph: Graph) -> Iterator[Value | None]:
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        for body in node.bodies:
            yield from _reads(body)


def _belongs(value: Value, graph: Graph) -> bool:
    return value.graph == graph
