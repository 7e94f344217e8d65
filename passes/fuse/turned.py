"""A Transpose of a Gemm is the Gemm of its operands in the other order."""

from __future__ import annotations

from graphopt import Attr, Node, Tensor, op, require, rule


def _turned(a: Tensor, b: Tensor, perm: Attr[list[int]], gemm: Node) -> Tensor:
    return op.Transpose(gemm.bind(op.Gemm(a, b, ...)), perm=perm)


@rule(_turned, shapes={"a": "f32: M K", "b": "K N"}, attrs={"perm": [1, 0]})
def gemm_transposed(a: Tensor, b: Tensor, perm: list[int] | None, gemm: Node) -> Tensor:
    """The transpose of a product is the product of the transposes in the other order, which Gemm makes itself."""
    require(perm is None or list(perm) == [1, 0], "nothing changes places")
    turned = {"transA": 1 - gemm.attr("transB", 0), "transB": 1 - gemm.attr("transA", 0)}
    return op.Gemm(b, a, **{**gemm.attrs, **turned})
