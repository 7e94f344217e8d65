"""Reading what exporters do with the probabilities of attention, up to their product with the values."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt_passes.fuse.scores import number

from graphopt import Node, Value


@dataclass(frozen=True)
class Weights:
    """Where probabilities go: the product with the values, and whether NaN among them is made zero before."""

    product: Node
    safe: bool
    inner: tuple[Value, ...]


def weights_of(probabilities: Value) -> Weights | None:
    """How the result of a softmax is used, if it is multiplied with values and nothing else is done with it."""
    safe, inner = False, []
    value = probabilities
    for _ in range(4):
        readers = [node for node, _ in value.uses()]
        guarded = _guarded(value, readers)
        if guarded is not None:
            safe = True
            inner.append(guarded)
            value = guarded
            continue
        if len(readers) != 1 or value.is_output or not readers[0].is_standard:
            return None
        node = readers[0]
        if node.op == "MatMul":
            return Weights(node, safe, tuple(inner)) if node.inputs[0] == value else None
        after = node.outputs[0]
        if node.op not in ("Reshape", "Unsqueeze", "Squeeze") or value.shape is None or after.shape is None:
            return None
        if after.shape[-2:] != value.shape[-2:] or None in after.shape:
            return None
        inner.append(after)
        value = after
    return None


def _guarded(value: Value, readers: list[Node]) -> Value | None:
    """Where(IsNaN(value), 0, value)."""
    if len(readers) != 2 or value.is_output or {r.op for r in readers} != {"IsNaN", "Where"}:
        return None
    where, test = sorted(readers, key=lambda r: r.op == "IsNaN")
    zero = number(where.inputs[1])
    if where.inputs[0] != test.outputs[0] or where.inputs[2] != value or zero != 0 or test.outputs[0].use_count != 1:
        return None
    return where.outputs[0] if where.outputs[0].shape == value.shape else None
