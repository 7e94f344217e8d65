"""Constants around a product of matrices become its weights; a product with a summand becomes Gemm."""

from __future__ import annotations

from graphopt_passes.fuse.affine import batch_norm, dims, factor, per_channel, require_finite

from graphopt import ANY, Attr, Const, Node, Tensor, op, require, rule

_MATMUL = {"x": "B M K", "w": "K N"}


def _plus(x: Tensor, w: Tensor, add: Tensor, sub: Tensor, product: Node) -> Tensor:
    y = product.bind(op.MatMul(x, w))
    return y + add | y - sub


@rule(_plus, shapes={"x": "M K", "w": "K N", "add": "N", "sub": "N"})
def matmul_add(x: Tensor, w: Tensor, add: Tensor | None, sub: Tensor | None, product: Node) -> Tensor:
    """A product of two matrices, plus what broadcasts to it, is Gemm."""
    require(product.version >= 7, "before opset 7 Gemm broadcasts its bias otherwise")
    require(x.rank == 2 and w.rank == 2, "Gemm takes matrices only")
    require(x.dtype.is_floating_point(), "integers wrap around")
    given = add if add is not None else sub
    assert given is not None
    if given.is_const and (given.rank < 2 or given.per_channel(1, of=w)):
        columns = w.shape[1]
        require(isinstance(columns, int), "the number of columns is not known")
        vector = per_channel(given, 1, w, columns if isinstance(columns, int) else 0)
        return op.Gemm(x, w, vector if sub is None else -vector)
    require_summand(given, x.shape[0], w.shape[1])
    if sub is not None:
        require_terms(x.shape[1], w.shape[0])
    return op.Gemm(x, w, given, beta=None if sub is None else -1.0)


def _scaled(x: Tensor, w: Const, mul: Const, div: Const) -> Tensor:
    y = x @ w
    return y * mul | y / div


@rule(_scaled, shapes={**_MATMUL, "mul": "N", "div": "+N"})
def matmul_scale(x: Tensor, w: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per column after a product with constant weights scales the weights."""
    require_own(w)
    require(x.rank >= 2 and w.rank >= 2, "an operand is a vector")
    constant = next(c for c in (mul, div) if c is not None)
    require(constant.rank <= max(x.rank, w.rank), "the constant raises the rank")
    return x @ (w * factor(mul, div, -1, constant, dims(w)[-1]))


def _biased_scaled(x: Tensor, w: Const, b: Const, mul: Const, div: Const) -> Tensor:
    y = x @ w + b
    return y * mul | y / div


@rule(_biased_scaled, shapes={**_MATMUL, "b": "N", "mul": "N", "div": "+N"})
def matmul_bias_scale(x: Tensor, w: Tensor, b: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per column after a product with a bias scales its weights and its bias."""
    require_own(w)
    require(x.rank >= 2 and w.rank == 2, "an operand is a vector, or the weights are several matrices")
    columns = dims(w)[1]
    scale = factor(mul, div, -1, x, columns)
    return x @ (w * scale) + per_channel(b, -1, x, columns) * scale


def _of_scaled(x: Tensor, w: Const, mul: Const, div: Const) -> Tensor:
    return op.MatMul(x * mul | x / div, w)


@rule(_of_scaled, shapes={**_MATMUL, "mul": "K", "div": "+K"})
def scale_matmul(x: Tensor, w: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per column before a product with constant weights scales their rows."""
    require_own(w)
    require(w.rank >= 2, "the weights are a vector")
    _require_same_size(x, -1, dims(w)[-2], mul, div)
    return x @ (w * op.Reshape(factor(mul, div, -1, x, dims(w)[-2]), [-1, 1]))


def _left_scaled(w: Const, x: Tensor, mul: Const, div: Const) -> Tensor:
    y = w @ x
    return y * mul | y / div


@rule(_left_scaled, shapes={"w": "M K", "x": "B K N", "mul": "M 1", "div": "+M 1"})
def left_matmul_scale(w: Tensor, x: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per row after a product of constant weights with x scales their rows."""
    require_own(w)
    require(x.rank >= 2 and w.rank >= 2, "an operand is a vector")
    rank = max(x.rank, w.rank)
    constant = next(c for c in (mul, div) if c is not None)
    require(constant.rank <= rank, "the constant raises the rank")
    wide = x if x.rank == rank else w
    return (w * op.Reshape(factor(mul, div, -2, wide, dims(w)[-2]), [-1, 1])) @ x


def _left_of_scaled(w: Const, x: Tensor, mul: Const, div: Const) -> Tensor:
    return op.MatMul(w, x * mul | x / div)


@rule(_left_of_scaled, shapes={"w": "M K", "x": "B K N", "mul": "K 1", "div": "+K 1"})
def left_scale_matmul(w: Tensor, x: Tensor, mul: Tensor | None, div: Tensor | None) -> Tensor:
    """A constant factor or divisor per row before constant weights are multiplied with it scales their columns."""
    require_own(w)
    require(x.rank >= 2 and w.rank >= 2, "an operand is a vector")
    _require_same_size(x, -2, dims(w)[-1], mul, div)
    return (w * factor(mul, div, -2, x, dims(w)[-1])) @ x


def _then_bn(
    x: Tensor, w: Const, gamma: Const, beta: Const, mean: Const, var: Const, eps: Attr[float], bn: Node
) -> Tensor:
    return bn.bind(op.BatchNormalization(op.MatMul(x, w), gamma, beta, mean, var, epsilon=eps, momentum=ANY))


@rule(_then_bn, shapes={"x": "M K", "w": "K N", "gamma": "N", "beta": "N", "mean": "N", "var": "+N"})
def matmul_bn(
    x: Tensor, w: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float, bn: Node
) -> Tensor:
    """BatchNormalization after a product of matrices scales the weights, and adds a bias: Gemm."""
    require(x.rank == 2 and w.rank == 2, "Gemm takes matrices only")
    scale, shift = batch_norm(bn, gamma, beta, mean, var, eps, like=w)
    return op.Gemm(x, w * scale, shift)


# -- what the rules ask for -----------------------------------------------------------------------


def require_own(w: Tensor) -> None:
    """Decline weights that others read, too: they would be in the file twice."""
    require(w.uses == 1, "the weights have other readers")


def require_summand(c: Tensor, rows: object, columns: object) -> None:
    """Decline what Gemm does not add to its product, of these sizes."""
    shape = c.shape
    require(1 <= len(shape) <= 2, "Gemm takes a vector or a matrix as its bias")
    for mine, theirs in zip(shape[::-1], (columns, rows), strict=False):
        require(mine == 1 or (mine is not None and mine == theirs), "the summand may raise the size of the product")
    if c.is_const:
        require_finite(c)


def require_terms(*sizes: object) -> None:
    """Decline a beta where each element may be a sum of nothing, which has as many terms as one of the sizes says."""
    # ONNX Runtime's Gemm gives the bias as it is then.
    require(any(isinstance(n, int) and n > 0 for n in sizes), "there may be nothing to sum")


def _require_same_size(x: Tensor, axis: int, size: int, *constants: Tensor | None) -> None:
    """Decline a constant whose broadcast is what gives an axis of x its size."""
    single = all(c is None or all(d == 1 for d in c.shape) for c in constants)
    require(single or x.shape[axis] == size, "the constant may raise the size of the operand")
