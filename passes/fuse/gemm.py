"""Constants around a matrix product become its weights and its bias; a product with a bias becomes Gemm."""

from __future__ import annotations

from graphopt_passes.fuse.affine import batch_norm, dims, factor, per_channel, require_finite
from graphopt_passes.fuse.again import again

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
    bias = _bias(gemm, b, w)
    return again(gemm, x, _scale_columns(gemm, w, scale), shift if bias is None else bias * scale + shift, beta=None)


def _then_scale(x: Tensor, w: Const, b: Const | None, mul: Const, div: Const, gemm: Node) -> Tensor:
    y = gemm.bind(op.Gemm(x, w, b, ...))
    return y * mul | y / div


@rule(_then_scale, shapes={**_GEMM, "mul": "N", "div": "+N"})
def gemm_scale(
    x: Tensor, w: Tensor, b: Tensor | None, mul: Tensor | None, div: Tensor | None, gemm: Node
) -> Tensor:
    """A constant factor or divisor per column after Gemm scales its weights and its bias."""
    _require_own(w)
    scale = factor(mul, div, 1, w, _columns(gemm, w))
    bias = _bias(gemm, b, w)
    return again(gemm, x, _scale_columns(gemm, w, scale), None if bias is None else bias * scale, beta=None)


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
    shift = per_channel(constant, 1, w, _columns(gemm, w))
    bias = _bias(gemm, b, w)
    if minuend is not None:
        return again(gemm, x, w, shift if bias is None else shift - bias, alpha=-_number(gemm, "alpha", 1.0), beta=None)
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
    trans, alpha = _number(gemm, "transB", 0), _number(gemm, "alpha", 1.0)
    matrix = op.Transpose(w, perm=[1, 0]) if trans else w
    extra = op.MatMul(shift, matrix) * alpha
    bias = _bias(gemm, b, w)
    rows = w * op.Reshape(scale, [1, -1] if trans else [-1, 1])
    return again(gemm, x, rows, extra if bias is None else bias + extra, beta=None)


def _product_plus(x: Tensor, w: Const, b: Const, product: Node) -> Tensor:
    return product.bind(op.MatMul(x, w)) + b


@rule(_product_plus, shapes=_GEMM)
def matmul_add(x: Tensor, w: Tensor, b: Tensor, product: Node) -> Tensor:
    """A product of matrices with constant weights, plus a constant per column, is Gemm."""
    require(product.version >= 7, "before opset 7 Gemm broadcasts its bias otherwise")
    require(x.rank == 2 and w.rank == 2, "Gemm takes matrices only")
    return op.Gemm(x, w, per_channel(b, 1, w, dims(w)[1]))


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


def _product_scaled(x: Tensor, w: Const, mul: Const, div: Const) -> Tensor:
    y = x @ w
    return y * mul | y / div


@rule(_product_scaled, shapes={"x": "B M K", "w": "K N", "mul": "N", "div": "+N"})
def matmul_scale(x: Tensor, w: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per column after a product with constant weights scales the weights."""
    _require_own(w)
    require(x.rank >= 2 and w.rank >= 2, "an operand is a vector")
    constant = next(c for c in (mul, div) if c is not None)
    require(constant.rank <= max(x.rank, w.rank), "the constant raises the rank")
    return x @ (w * factor(mul, div, -1, constant, dims(w)[-1]))


# -- operands of Gemm: alpha · A' @ B' + beta · C -------------------------------------------------


def _bias(gemm: Node, b: Tensor | None, w: Tensor) -> Tensor | None:
    """`beta · C`, per column or for each element; None if Gemm adds nothing."""
    beta = _number(gemm, "beta", 1.0)
    if b is None or beta == 0:
        return None
    columns = _columns(gemm, w)
    full = b.rank == 2 and dims(b)[0] > 1 and dims(b)[1] == columns
    bias = b if full else per_channel(b, 1, w, columns)
    return bias if beta == 1 else bias * beta


def _columns(gemm: Node, w: Tensor) -> int:
    require(w.rank == 2, "the weights are no matrix")
    return dims(w)[0 if _number(gemm, "transB", 0) else 1]


def _scale_columns(gemm: Node, w: Tensor, scale: Tensor) -> Tensor:
    return w * op.Reshape(scale, [-1, 1] if _number(gemm, "transB", 0) else [1, -1])


def _transposing(gemm: Node, flag: str, perm: list[int] | None, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    require(perm is None or list(perm) == [1, 0], "the transpose changes nothing")
    return again(gemm, x, w, b, **{flag: 0 if _number(gemm, flag, 0) else 1})


def _number(node: Node, name: str, default: float) -> float:
    value = node.attr(name, default)
    require(isinstance(value, int | float), f"{name} is a parameter of the function")
    return float(value)


def _require_own(w: Tensor) -> None:
    require(w.uses == 1, "the weights have other readers")
