"""Constants around Gemm become its weights and its bias."""

from __future__ import annotations

import math

from graphopt_passes.fuse.affine import batch_norm, dims, factor, per_channel, require_finite
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.gemm_operands import bias_of, columns_of, number, scale_columns
from graphopt_passes.fuse.matmul import require_own

from graphopt import ANY, Attr, Const, Node, Tensor, op, require, rule

_GEMM = {"x": "M K", "w": "K N", "b": "N"}


def _then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: Attr[float], gemm: Node, bn: Node,
) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return bn.bind(op.BatchNormalization(y, gamma, beta, mean, var, epsilon=eps, momentum=ANY))


@rule(_then_bn, shapes={**_GEMM, "gamma": "N", "beta": "N", "mean": "N", "var": "+N"})
def gemm_bn(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor,
    eps: float, gemm: Node, bn: Node,
) -> Tensor:
    """BatchNormalization after Gemm scales its weights and its bias, and shifts the bias."""
    scale, shift = batch_norm(bn, gamma, beta, mean, var, eps, like=w)
    bias = bias_of(gemm, b, w)
    return again(gemm, x, scale_columns(gemm, w, scale), shift if bias is None else bias * scale + shift, beta=None)


def _then_scale(x: Tensor, w: Const, b: Const | None, mul: Const, div: Const, gemm: Node) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return y * mul | y / div


@rule(_then_scale, shapes={**_GEMM, "mul": "N", "div": "+N"})
def gemm_scale(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, gemm: Node
) -> Tensor:
    """A constant factor or divisor per column after Gemm scales its weights and its bias."""
    require_own(w)
    scale = factor(mul, div, 1, w, columns_of(gemm, w))
    bias = bias_of(gemm, b, w)
    return again(gemm, x, scale_columns(gemm, w, scale), None if bias is None else bias * scale, beta=None)


def _then_shift(
    x: Tensor, w: Const, b: Const | None, add: Const, sub: Const, minuend: Const, gemm: Node
) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return y + add | y - sub | minuend - y


@rule(_then_shift, shapes={**_GEMM, "add": "N", "sub": "N", "minuend": "N"})
def gemm_shift(
    x: Tensor, w: Tensor, b: Tensor | None, add: Tensor | None, sub: Tensor | None, minuend: Tensor | None,
    gemm: Node,
) -> Tensor:
    """A constant added to each column after Gemm is its bias; subtracting from it makes alpha negative."""
    constant = next(c for c in (add, sub, minuend) if c is not None)
    shift = per_channel(constant, 1, w, columns_of(gemm, w))
    bias = bias_of(gemm, b, w)
    if minuend is not None:
        return again(gemm, x, w, shift if bias is None else shift - bias, alpha=-number(gemm, "alpha", 1.0), beta=None)
    if sub is not None:
        shift = -shift
    return again(gemm, x, w, shift if bias is None else bias + shift, beta=None)


def _after_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: Attr[float], gemm: Node, bn: Node,
) -> Tensor:
    y = bn.bind(op.BatchNormalization(x, gamma, beta, mean, var, epsilon=eps, momentum=ANY))
    return gemm.bind(op.Gemm(y, w, b, ..., transA=0))


@rule(_after_bn, shapes={**_GEMM, "gamma": "K", "beta": "K", "mean": "K", "var": "+K"})
def bn_gemm(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor,
    eps: float, gemm: Node, bn: Node,
) -> Tensor:
    """BatchNormalization before Gemm scales its weights and shifts its bias."""
    require(w.rank == 2, "the weights are no matrix")
    require_finite(w)
    scale, shift = batch_norm(bn, gamma, beta, mean, var, eps, like=w)
    trans, alpha = number(gemm, "transB", 0), number(gemm, "alpha", 1.0)
    matrix = op.Transpose(w, perm=[1, 0]) if trans else w
    extra = op.MatMul(shift, matrix) * alpha
    bias = bias_of(gemm, b, w)
    rows = w * op.Reshape(scale, [1, -1] if trans else [-1, 1])
    return again(gemm, x, rows, extra if bias is None else bias + extra, beta=None)


def _of_shifted(
    x: Tensor, w: Const, b: Const | None, add: Const, sub: Const, gemm: Node
) -> Tensor:
    return gemm.bind(op.Gemm(x + add | x - sub, w, b, ..., transA=0))


@rule(_of_shifted, shapes={**_GEMM, "add": "K", "sub": "K"})
def shift_gemm(
    x: Tensor, w: Tensor, b: Tensor | None, add: Tensor | None, sub: Tensor | None, gemm: Node
) -> Tensor:
    """A constant added to each column before Gemm shifts its bias."""
    require(w.rank == 2 and x.rank == 2, "an operand is no matrix")
    require_finite(w)
    constant = next(c for c in (add, sub) if c is not None)
    rows = dims(w)[1 if number(gemm, "transB", 0) else 0]
    require(math.prod(dims(constant)) == 1 or x.shape[1] == rows, "the constant may raise the size of the operand")
    trans, alpha = number(gemm, "transB", 0), number(gemm, "alpha", 1.0)
    level = per_channel(constant, 1, x, rows)
    extra = op.MatMul(level, op.Transpose(w, perm=[1, 0]) if trans else w) * (alpha if sub is None else -alpha)
    bias = bias_of(gemm, b, w)
    return again(gemm, x, w, extra if bias is None else bias + extra, beta=None)


def _of_scaled(x: Tensor, w: Const, b: Tensor | None, mul: Const, div: Const, gemm: Node) -> Tensor:
    return gemm.bind(op.Gemm(x * mul | x / div, w, b, ..., transA=0))


@rule(_of_scaled, shapes={**_GEMM, "mul": "K", "div": "+K"})
def scale_gemm(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, gemm: Node
) -> Tensor:
    """A constant factor or divisor per column before Gemm scales the rows of its weights."""
    require_own(w)
    require(w.rank == 2 and x.rank == 2, "an operand is no matrix")
    constant = next(c for c in (mul, div) if c is not None)
    trans = number(gemm, "transB", 0)
    rows = dims(w)[1 if trans else 0]
    require(math.prod(dims(constant)) == 1 or x.shape[1] == rows, "the constant may raise the size of the operand")
    return again(gemm, x, w * op.Reshape(factor(mul, div, 1, x, rows), [1, -1] if trans else [-1, 1]), b)
