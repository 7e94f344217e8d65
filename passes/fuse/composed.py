"""Linear operators in a row, all with constant weights, as one whose weights are the product of theirs.

Infinities meet other numbers then, so all of this is for finite inputs only.
"""

from __future__ import annotations

from graphopt_passes.fuse.affine import dims, per_channel, require_finite
from graphopt_passes.fuse.again import again
from graphopt_passes.fuse.convolution import padding
from graphopt_passes.fuse.gemm_operands import bias_of, columns_of, number
from graphopt_passes.fuse.matmul import require_own

from graphopt import Const, Node, Tensor, op, require, rule


def _matmuls(x: Tensor, a: Const, b: Const, c: Const) -> Tensor:
    y = x @ a
    return op.MatMul(y | y + b, c)


@rule(_matmuls, accuracy="fast", shapes={"x": "B M K", "a": "K H", "b": "H", "c": "H N"})
def matmul_matmul(x: Tensor, a: Tensor, b: Tensor | None, c: Tensor) -> Tensor:
    """Products with two constant matrices in a row are one product with their product, if that multiplies less."""
    require(a.rank == 2 and c.rank == 2, "the weights are several matrices, or a vector")
    hidden = dims(a)[1]
    _require_cheaper(a, c, dims(a)[0], hidden, dims(c)[1])
    y = x @ (a @ c)
    return y if b is None else y + per_channel(b, -1, x if x.rank > 1 else a, hidden) @ c


def _left_matmuls(x: Tensor, a: Const, c: Const) -> Tensor:
    return op.MatMul(c, op.MatMul(a, x))


@rule(_left_matmuls, accuracy="fast", shapes={"x": "B K N", "a": "H K", "c": "M H"})
def left_matmul_matmul(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """Two constant matrices that multiply in a row are their product, if that multiplies less."""
    require(a.rank == 2 and c.rank == 2, "the weights are several matrices, or a vector")
    _require_cheaper(a, c, dims(a)[1], dims(a)[0], dims(c)[0])
    return (c @ a) @ x


def _gemms(x: Tensor, a: Const, b: Const | None, first: Node, c: Const, d: Const | None, then: Node) -> Tensor:
    return then.bind(op.Gemm(first.bind(op.Gemm(x, a, b, ...)), c, d, ..., transA=0))


def _gemm_matmul(x: Tensor, a: Const, b: Const | None, first: Node, c: Const, d: Const | None, then: Node) -> Tensor:
    del d
    return then.bind(op.MatMul(first.bind(op.Gemm(x, a, b, ...)), c))


@rule(_gemms, _gemm_matmul, accuracy="fast", shapes={"x": "M K", "a": "K H", "b": "H", "c": "H N", "d": "N"})
def gemm_gemm(
    x: Tensor, a: Tensor, b: Tensor | None, first: Node, c: Tensor, d: Tensor | None, then: Node
) -> Tensor:
    """Two Gemms in a row with constant weights are one, if that multiplies less."""
    require(c.rank == 2, "the weights are several matrices, or a vector")
    left = op.Transpose(a, perm=[1, 0]) if number(first, "transB", 0) else a
    gemm = then.op == "Gemm"
    right = op.Transpose(c, perm=[1, 0]) if gemm and number(then, "transB", 0) else c
    hidden, columns = columns_of(first, a), columns_of(then, c) if gemm else dims(c)[1]
    _require_cheaper(a, c, sum(dims(a)) - hidden, hidden, columns)
    alpha = number(then, "alpha", 1.0) if gemm else 1.0
    inner, outer = bias_of(first, b, a), bias_of(then, d, c) if gemm else None
    moved = None if inner is None else (inner @ right) * alpha
    bias = outer if moved is None else moved if outer is None else moved + outer
    return again(first, x, (left @ right) * alpha, bias, transB=None, beta=None)


def _convolutions(x: Tensor, w: Const, b: Const | None, first: Node, v: Const, d: Const | None, then: Node) -> Tensor:
    return then.bind(op.Conv(first.bind(op.Conv(x, w, b, ...)), v, d, ...))


@rule(_convolutions, accuracy="fast", shapes={"x": "N C H W", "w": "8 C 3 3", "b": "8", "v": "3 8 1 1", "d": "3"})
def conv_pointwise(
    x: Tensor, w: Tensor, b: Tensor | None, first: Node, v: Tensor, d: Tensor | None, then: Node
) -> Tensor:
    """A convolution of single elements after another one mixes the channels of its weights, if that multiplies less."""
    for node in (first, then):
        require(node.attr("group", 1) == 1, "there are groups")
    kernel, (channels, hidden, *ones) = dims(w), dims(v)
    require(all(n == 1 for n in ones), "the kernel of the second one has several elements")
    strides = then.attr("strides") or [1]
    require(isinstance(strides, list | tuple) and all(s == 1 for s in strides), "the second one takes steps")
    require(not any(padding(then, w.rank - 2)), "the second one pads")
    size = w.value.nbytes or 0
    _require_cheaper(w, v, size // max(1, kernel[0] * _width(w)), hidden, channels)
    mix = op.Reshape(v, [channels, hidden])
    weights = op.Reshape(mix @ op.Reshape(w, [hidden, -1]), [channels, *kernel[1:]])
    moved = None if b is None else op.Reshape(mix @ op.Reshape(b, [hidden, 1]), [channels])
    return again(first, x, weights, d if moved is None else moved if d is None else moved + d)


def _width(w: Tensor) -> int:
    return max(1, w.dtype.bitwidth // 8)


def _require_cheaper(a: Tensor, c: Tensor, inner: int, hidden: int, outer: int) -> None:
    """Decline where one product of `inner` × `outer` weights takes more multiplications than two through `hidden`."""
    require(a.dtype.is_floating_point() and a.dtype == c.dtype, "integers wrap around")
    require_own(a)
    require_own(c)
    require_finite(a, c)
    require(inner * outer <= inner * hidden + hidden * outer, "two products with fewer weights are cheaper than one")
