"""A product with a constant matrix, however it is written: MatMul, or Gemm with its factors and transpositions.

What dynamic and weight-only quantization need to know of it is the same: y = x·W + bias, with W of shape [K, N].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.operands import OVERRIDABLE

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.value import Graph, Node, Value

__all__ = ["ConstantCache", "Dense", "dense_of", "stored_matrix"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Dense:
    """`node` multiplies `x` (its transpose if `turned`) by a matrix of `k` × `n`.

    `stored`: the constant that holds it, as [n, k] if `transposed`. `alpha` scales the product, `beta` what Gemm adds,
    `bias`.
    """

    node: Node
    x: Value
    turned: bool
    stored: Value
    transposed: bool
    k: int
    n: int
    alpha: float = 1.0
    bias: Value | None = None
    beta: float = 1.0

    def matrix(self) -> Array:
        """The weights as float32 [K, N], with `alpha` in them. Reads them from their file."""
        array = self.stored.content()
        made = np.asarray(array.T if self.transposed else array, np.float32)
        return made if self.alpha == 1.0 else made * np.float32(self.alpha)

    def data(self, rw: Rewrite) -> Value:
        """What is multiplied, with the transposition that Gemm asks for done by a node."""
        return rw.node("Transpose", [self.x], {"perm": [1, 0]})[0] if self.turned else self.x

    def row_bias(self) -> Array | None:
        """The bias times `beta` as float32 [N], if it is a constant that is the same for all rows."""
        bias = self.bias
        if bias is None or not bias.is_const:
            return None
        array = bias.array()
        if array is None or array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
            return None
        return np.broadcast_to(np.float32(self.beta) * array.reshape(-1).astype(np.float32), (self.n,))

    def add_bias(self, rw: Rewrite, product: Value) -> Value:
        """`product` plus what Gemm adds to it."""
        bias = self.bias
        if bias is None or self.beta == 0.0:
            return product
        if self.beta != 1.0:
            factor = rw.constant(np.asarray(self.beta, np.float32), f"{self.node.name}_beta")
            (bias,) = rw.node("Mul", [bias, factor])
        return rw.node("Add", [product, bias])[0]


class ConstantCache:
    """Constants made from a weight, for the next operator that reads it in their graph or in one of its bodies."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], tuple[Value | None, ...]] = {}

    def get(
        self, dense: Dense, graph: Graph, make: Callable[[], tuple[Value | None, ...]]
    ) -> tuple[Value | None, ...]:
        """What `make` puts into `graph`, or what it put there for an equal product, if that is still there."""
        key = (graph, dense.stored, dense.transposed, dense.alpha, dense.x.dtype)
        known = self._made.get(key)
        if known is None or not all(v is None or v.is_initializer for v in known):
            known = self._made[key] = make()
        return known


def stored_matrix(value: Value) -> tuple[Value, bool] | None:
    """The constant behind a matrix, and whether a Transpose stands between them; None if it is computed."""
    if value.is_const:
        return value, False
    node = value.producer
    if node is None or not node.is_standard or node.op != "Transpose" or node.inputs[0] is None:
        return None
    perm = node.attr("perm")
    source = node.inputs[0]
    return (source, True) if source.is_const and (perm is None or list(perm) == [1, 0]) else None


def dense_of(node: Node, edit: Editor, dtypes: tuple[str, ...] = ("FLOAT",)) -> Dense | str:
    """The product that a MatMul or Gemm is, or the reason why it is none that can be stored in integers.

    `dtypes`: of what it multiplies. Reads no weights.
    """
    x, w = (*node.inputs, None, None)[:2]
    if x is None or w is None:
        return "an input is missing"
    found = stored_matrix(w)
    if found is None:
        return _why_not_const(x, w)
    stored, transposed = found
    if x.is_const:
        return "both inputs are constants"
    if node.graph.is_function:
        return "it stands in a function, which several callers share"
    if edit.protects(node) or edit.protects(stored):
        return "it is protected"
    for name, value in (("input", x), ("weight", stored)):
        if value.dtype is None or value.dtype.name not in dtypes:
            return f"its {name} is {'unknown' if value.dtype is None else value.dtype.name.lower()}"
    sizes = tuple(d for d in stored.shape or () if isinstance(d, int))
    if len(sizes) != 2:
        return "its weight is no matrix"
    if 0 in sizes:
        return "its weight is empty"
    if x.rank is None or x.rank < 2:
        return "its input is a vector, or of unknown rank"
    return _dense(node, x, stored, transposed, sizes)


def _dense(node: Node, x: Value, stored: Value, transposed: bool, sizes: tuple[int, ...]) -> Dense | str:
    if node.op == "MatMul":
        k, n = sizes[::-1] if transposed else sizes
        return Dense(node, x, False, stored, transposed, k, n)
    transposed = transposed != bool(node.attr("transB", 0))
    k, n = sizes[::-1] if transposed else sizes
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if not math.isfinite(alpha) or not math.isfinite(beta):
        return "its alpha or beta is not finite"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return Dense(node, x, bool(node.attr("transA", 0)), stored, transposed, k, n, alpha, bias, beta)


def _why_not_const(x: Value, w: Value) -> str:
    if w.producer is not None and w.producer.op == "DequantizeLinear":
        return "it is quantized already"
    if w.is_initializer and w.is_input:
        return OVERRIDABLE
    if x.is_const:
        return "its constant is the left operand, and integer kernels want it on the right"
    return "both operands are activations; they stay float"
