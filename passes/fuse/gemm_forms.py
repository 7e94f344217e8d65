"""Summands, numbers and transposes around a product of matrices as what Gemm has inputs and attributes for."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.gemm_operands import number, sizes, terms
from graphopt_passes.fuse.matmul import require_summand, require_terms

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_GEMM = {"x": "M K", "w": "K N", "b": "N"}


def _plus(x: Tensor, w: Tensor, b: Tensor | None, add: Tensor, sub: Tensor, gemm: Node) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return y + add | y - sub


@rule(_plus, shapes={**_GEMM, "add": "M N", "sub": "M N"})
def gemm_add(x: Tensor, w: Tensor, b: Tensor | None, add: Tensor | None, sub: Tensor | None, gemm: Node) -> Tensor:
    """What is added to a Gemm that has no bias is its bias."""
    require(b is None or number(gemm, "beta", 1.0) == 0, "the Gemm has a bias already")
    require(gemm.version >= 7, "before opset 7 Gemm broadcasts its bias otherwise")
    given = add if add is not None else sub
    assert given is not None
    columnwise = given.is_const and w.is_const and given.per_channel(1, of=w)
    require(not columnwise, "the constant is a bias per column")
    rows, columns = sizes(gemm, x, w)
    require_summand(given, rows, columns)
    if sub is not None:
        require_terms(*terms(gemm, x, w))
    return again(gemm, x, w, given, beta=None if sub is None else -1.0)


def _times_number(x: Tensor, w: Tensor, b: Tensor | None, mul: Const, div: Const, gemm: Node) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return y * mul | y / div


@rule(_times_number, shapes={**_GEMM, "mul": "", "div": "+"})
def gemm_number(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, gemm: Node
) -> Tensor:
    """A number times a Gemm is part of its alpha and its beta."""
    require(x.rank == 2 and w.rank == 2, "an operand is no matrix")
    fixed = w.is_const and w.uses == 1 and (b is None or b.is_const)
    require(not fixed, "the number belongs into the weights")
    times = _scalar(mul, div, x)
    alpha = float(np.float32(number(gemm, "alpha", 1.0) * times))
    beta = float(np.float32(number(gemm, "beta", 1.0) * times))
    require(alpha != 0 and np.isfinite(alpha) and np.isfinite(beta), "the factor is out of range")
    if b is not None:
        require_terms(*terms(gemm, x, w))
    return again(gemm, x, w, b, alpha=alpha, beta=None if b is None else beta)


def _matmul_number(x: Tensor, w: Tensor, mul: Const, div: Const, product: Node) -> Tensor:
    y = product.bind(op.MatMul(x, w))
    return y * mul | y / div


@rule(_matmul_number, shapes={"x": "M K", "w": "K N", "mul": "", "div": "+"})
def matmul_number(x: Tensor, w: Tensor, mul: Tensor | None, div: Tensor | None, product: Node) -> Tensor:
    """A number times a product of two computed matrices is Gemm with that alpha."""
    require(product.version >= 11, "before opset 11 Gemm has a bias")
    require(x.rank == 2 and w.rank == 2, "Gemm takes matrices only")
    require(not ((w.is_const and w.uses == 1) or (x.is_const and x.uses == 1)), "the number belongs into the weights")
    alpha = float(np.float32(_scalar(mul, div, x)))
    require(alpha != 0 and np.isfinite(alpha), "the factor is out of range")
    return op.Gemm(x, w, alpha=alpha)


def _of_transposed(x: Tensor, w: Tensor, b: Tensor | None, perm: Attr[list[int]], gemm: Node) -> Tensor:
    return gemm.bind(op.Gemm(op.Transpose(x, perm=perm), w, b, ...))


@rule(_of_transposed, shapes=_GEMM)
def transpose_gemm(x: Tensor, w: Tensor, b: Tensor | None, perm: list[int] | None, gemm: Node) -> Tensor:
    """Gemm of a transposed left factor is Gemm that transposes it itself."""
    return _transposing(gemm, "transA", perm, x, w, b)


def _by_transposed(x: Tensor, w: Tensor, b: Tensor | None, perm: Attr[list[int]], gemm: Node) -> Tensor:
    return gemm.bind(op.Gemm(x, op.Transpose(w, perm=perm), b, ...))


@rule(_by_transposed, shapes=_GEMM)
def gemm_transpose(x: Tensor, w: Tensor, b: Tensor | None, perm: list[int] | None, gemm: Node) -> Tensor:
    """Gemm of a transposed right factor is Gemm that transposes it itself."""
    return _transposing(gemm, "transB", perm, x, w, b)


def _scalar(mul: Tensor | None, div: Tensor | None, x: Tensor) -> float:
    """The number by which a product is multiplied, which must not change its shape."""
    constant = mul if mul is not None else div
    assert constant is not None
    require(constant.rank <= 2, "the constant raises the rank")
    require(all(d == 1 for d in constant.shape), "the constant may raise the size of the product")
    require(x.dtype.is_floating_point(), "integers wrap around")
    require(x.dtype != DType.DOUBLE, "alpha is a float32")
    value = constant.scalar
    require(math.isfinite(value) and value != 0, "the factor is 0, infinite or NaN")
    return value if div is None else 1 / value


def _transposing(gemm: Node, flag: str, perm: list[int] | None, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    require(perm is None or list(perm) == [1, 0], "the transpose changes nothing")
    return again(gemm, x, w, b, **{flag: 0 if number(gemm, flag, 0) else 1})
