"""Why an operator stays float whose operands would let it run on integers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.operands import Heavy
    from graphopt.targets.table import QuantTable

__all__ = ["exempt", "hazard", "protected"]


def exempt(heavy: Heavy, floats: Collection[str], plain: Collection[str]) -> str | None:
    """A reason not to quantize an operator that would cost too much accuracy, or that reads what would."""
    read = (v.name for v in (heavy.x, heavy.other) if v is not None)
    if heavy.node.outputs[0].name in floats or any(name in plain for name in read):
        return "it would cost too much accuracy"
    return None


def protected(heavy: Heavy, protects: Callable[[Node | Value], bool]) -> str | None:
    """A reason not to quantize an operator of which something has to stay as it is."""
    bias = heavy.bias
    parts = [heavy.node, heavy.weight, *(() if bias is None else (bias.reader, bias.value))]
    return "it is protected" if any(part is not None and protects(part) for part in parts) else None


def hazard(heavy: Heavy, table: QuantTable, safe: set[Node]) -> str | None:
    """A reason not to quantize the input, if the runtime would move its Q up to an operator that takes none.

    `safe`: nodes from which it is known that the way up holds none; grows, so that no way is walked twice.
    """
    node = heavy.x.producer
    walked = []
    while node is not None and node.is_standard and node not in safe:
        walked.append(node)
        row = table.elementwise.get(node.op)
        attr = next((a for a in row.unless_set if a in node.attrs), None) if row is not None else None
        if attr is not None:
            return f"its input comes from {node.op} with {attr}, which the runtime cannot quantize"
        passes = node.op in table.data_movement or node.op in ("Relu", "Clip")
        node = node.inputs[0].producer if passes and node.inputs[0] is not None else None
    safe.update(walked)
    return None
