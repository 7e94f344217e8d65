"""What Gemm computes, alpha · A' @ B' + beta · C, read from its attributes and operands."""

from __future__ import annotations

from graphopt_passes.fuse.affine import dims, per_channel

from graphopt import Node, Tensor, op, require


def bias_of(gemm: Node, b: Tensor | None, w: Tensor) -> Tensor | None:
    """`beta · C`, per column or for each element; None if Gemm adds nothing."""
    beta = number(gemm, "beta", 1.0)
    if b is None or beta == 0:
        return None
    columns = columns_of(gemm, w)
    full = b.rank == 2 and dims(b)[0] > 1 and dims(b)[1] == columns
    bias = b if full else per_channel(b, 1, w, columns)
    return bias if beta == 1 else bias * beta


def sizes(gemm: Node, x: Tensor, w: Tensor) -> tuple[object, object]:
    """Rows and columns of what Gemm gives."""
    require(x.rank == 2 and w.rank == 2, "an operand is no matrix")
    return x.shape[1 if number(gemm, "transA", 0) else 0], w.shape[0 if number(gemm, "transB", 0) else 1]


def terms(gemm: Node, x: Tensor, w: Tensor) -> tuple[object, object]:
    """How many products an element of what Gemm gives is the sum of, as each operand has it."""
    return x.shape[0 if number(gemm, "transA", 0) else 1], w.shape[1 if number(gemm, "transB", 0) else 0]


def columns_of(gemm: Node, w: Tensor) -> int:
    require(w.rank == 2, "the weights are no matrix")
    return dims(w)[0 if number(gemm, "transB", 0) else 1]


def scale_columns(gemm: Node, w: Tensor, scale: Tensor) -> Tensor:
    return w * op.Reshape(scale, [-1, 1] if number(gemm, "transB", 0) else [1, -1])


def number(node: Node, name: str, default: float) -> float:
    value = node.attr(name, default)
    require(isinstance(value, int | float), f"{name} is a parameter of the function")
    return float(value)
