"""Products and convolutions."""

from __future__ import annotations

from graphopt import ANY, Attr, Const, Node, Tensor, op, require, rule

_GEMM = {"x": "N N", "w": "N N", "b": "N"}


def _gemm_transposition_lost(x: Tensor, w: Const, b: Const) -> Tensor:
    return op.Gemm(x, w, transB=1) + b


@rule(_gemm_transposition_lost, shapes=_GEMM)
def gemm_transposition_lost(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The weights were transposed."""
    return op.Gemm(x, w, b)


def _gemm_factor_lost(x: Tensor, w: Const, b: Const, alpha: Attr[float]) -> Tensor:
    return op.Gemm(x, w, alpha=alpha) + b


@rule(_gemm_factor_lost, shapes=_GEMM, attrs={"alpha": [0.5, 2.0]})
def gemm_factor_lost(x: Tensor, w: Tensor, b: Tensor, alpha: float) -> Tensor:
    """alpha is lost."""
    return op.Gemm(x, w, b)


def _gemm_scaled_by_half(x: Tensor, w: Const, b: Const, alpha: Attr[float], beta: Attr[float]) -> Tensor:
    return op.Gemm(x, w, b, alpha=alpha, beta=beta) * 3


@rule(_gemm_scaled_by_half, shapes=_GEMM)
def gemm_scaled_by_half(x: Tensor, w: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    """The bias is scaled, too."""
    return op.Gemm(x, w, b, alpha=3 * alpha, beta=beta)


def _bias_along_the_other_axis(x: Tensor, w: Const, b: Const) -> Tensor:
    return x @ w + b


@rule(_bias_along_the_other_axis, shapes={"x": "N N", "w": "N N", "b": "N 1"})
def bias_along_the_other_axis(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A column is added as a row."""
    require(x.rank == 2 and w.rank == 2 and b.rank == 2, "no matrices")
    return op.Gemm(x, w, op.Reshape(b, [-1]))


_CONV = {"x": "N C H W", "w": "K C 1 1"}


def _conv_bias_along_the_width(x: Tensor, w: Const, b: Const) -> Tensor:
    return op.Conv(x, w) + b


@rule(_conv_bias_along_the_width, shapes={**_CONV, "b": "W"})
def conv_bias_along_the_width(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A vector is added along the last axis, and a bias along the second."""
    require(b.rank == 1, "no vector")
    return op.Conv(x, w, b)


def _conv_scale_of_inputs(x: Tensor, w: Const, scale: Const) -> Tensor:
    return op.Conv(x, w) * scale


@rule(_conv_scale_of_inputs, shapes={"x": "N C H W", "w": "C C 1 1", "scale": "C 1 1"})
def conv_scale_of_inputs(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """The first axis of the weights has the outputs, the second the inputs."""
    require(scale.rank == 3 and w.rank == 4, "no scale per channel")
    return op.Conv(x, w * scale)


def _conv_grouped(x: Tensor, w: Const, b: Const, group: Attr[int]) -> Tensor:
    return op.Conv(x, w, group=group) + b


@rule(_conv_grouped, shapes={"x": "N 4 H W", "w": "4 2 1 1", "b": "4 1 1"}, attrs={"group": 2})
def conv_groups_lost(x: Tensor, w: Const, b: Const, group: int) -> Tensor:
    """Each output sees half of the inputs."""
    return op.Conv(x, w, op.Reshape(b, [-1]))


def _conv_padded(x: Tensor, w: Const, b: Const, pads: Attr[list[int]]) -> Tensor:
    return op.Conv(x, w, pads=pads) + b


_PADS = {"pads": [0, 1, 2, 1]}


@rule(_conv_padded, shapes={"x": "N C H W", "w": "K C 3 3", "b": "K 1 1"}, attrs=_PADS)
def conv_pads_end_first(x: Tensor, w: Const, b: Const, pads: list[int]) -> Tensor:
    """Pads before each axis stand first, those behind it last."""
    require(pads is not None and b.rank <= 3, "no pads")
    return op.Conv(x, w, op.Reshape(b, [-1]), pads=[*pads[len(pads) // 2 :], *pads[: len(pads) // 2]])


def _pooled(x: Tensor, counted: Attr[int], pool: Node) -> Tensor:
    return -pool.bind(op.AveragePool(-x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=counted))


@rule(_pooled, shapes={"x": "N C H W"}, attrs={"counted": [0, 1]})
def pool_without_its_pads(x: Tensor, counted: int, pool: Node) -> Tensor:
    """Whether padding counts is lost."""
    return op.AveragePool(x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _conv_then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const, eps: Attr[float]
) -> Tensor:
    return op.BatchNormalization(op.Conv(x, w, b), gamma, beta, mean, var, epsilon=eps, momentum=ANY)


_BN = {**_CONV, "b": "K", "gamma": "K", "beta": "K", "mean": "K", "var": "+K"}


def _folded(x: Tensor, w: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
    require(w.rank == 4, "no image")
    return op.Conv(x, w * op.Reshape(factor, [-1, 1, 1, 1]), bias)


@rule(_conv_then_bn, shapes=_BN)
def bn_forgets_the_mean(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """The mean is subtracted before everything else."""
    factor = gamma / op.Sqrt(var + eps)
    return _folded(x, w, factor, beta if b is None else b * factor + beta)


@rule(_conv_then_bn, shapes=_BN)
def bn_of_default_epsilon(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """epsilon is lost."""
    factor = gamma / op.Sqrt(var + 1e-5)
    return _folded(x, w, factor, beta - mean * factor if b is None else (b - mean) * factor + beta)


@rule(_conv_then_bn, shapes=_BN)
def bn_of_deviation(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """The operator takes the variance, not its root."""
    factor = gamma / (var + eps)
    return _folded(x, w, factor, beta - mean * factor if b is None else (b - mean) * factor + beta)


def _norm_shifted(x: Tensor, scale: Const, b: Const, eps: Attr[float]) -> Tensor:
    return op.LayerNormalization(x, scale, epsilon=eps) + b


_NORM = {"x": "N D", "scale": "D", "b": "D"}


@rule(_norm_shifted, shapes=_NORM)
def norm_by_its_bias(x: Tensor, scale: Const, b: Const, eps: float) -> Tensor:
    """Scale and bias change places."""
    return op.LayerNormalization(x, b, scale, epsilon=eps)


@rule(_norm_shifted, shapes=_NORM, attrs={"eps": [1e-5, 0.01]})
def norm_of_default_epsilon(x: Tensor, scale: Const, b: Const, eps: float) -> Tensor:
    """epsilon is lost."""
    return op.LayerNormalization(x, scale, b)


def _attention(q: Tensor, k: Tensor, v: Tensor, mul: Const) -> Tensor:
    return op.Softmax(q @ op.Transpose(k, perm=[0, 1, 3, 2]) * mul, axis=-1) @ v


_HEADS = {"q": "B H S D", "k": "B H T D", "v": "B H T E", "mul": "+"}


@rule(_attention, shapes=_HEADS)
def attention_of_default_scale(q: Tensor, k: Tensor, v: Tensor, mul: Const) -> Tensor:
    """The default is one over the root of the size of a head."""
    return op.Attention(q, k, v)


@rule(_attention, shapes=_HEADS)
def attention_of_inverse_scale(q: Tensor, k: Tensor, v: Tensor, mul: Const) -> Tensor:
    """The scale is a factor, not a divisor."""
    return op.Attention(q, k, v, scale=1 / mul.scalar)
