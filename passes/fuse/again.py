"""A node made again with other operands."""

from __future__ import annotations

from typing import Any

from graphopt import Node, Tensor, op


def again(node: Node, *operands: Tensor | None, **changes: Any) -> Tensor:
    """The operator of `node` on other operands, with its attributes but for `changes`; None leaves one out."""
    result: Tensor = op.any(node.op)(*operands, **{**node.attrs, **changes})
    return result
