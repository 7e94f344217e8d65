"""Right rules that look much like the wrong ones of `mutants.py`: the rule checker must let every one pass."""

from __future__ import annotations

import math
import sys

import numpy as np

from graphopt import ANY, Attr, Const, DType, Node, Tensor, many, op, product, require, rule, rules_in, scaled

_ROOT = math.sqrt(0.5)


@rule(lambda x: product(x, 0.5, 1 + op.Erf(scaled(x, _ROOT))), shapes={"x": "N C"})
def gelu_by_erf(x: Tensor) -> Tensor:
    """Half of x times one plus erf(x·√½) is Gelu."""
    return op.Gelu(x)


@rule(lambda x: op.Abs(op.Abs(x)), accuracy="exact")
def abs_of_abs(x: Tensor) -> Tensor:
    """The absolute value has none but itself."""
    return op.Abs(x)


@rule(lambda x: x + 0, accuracy="close", single_use=False)
def plus_zero(x: Tensor) -> Tensor:
    """Adding 0 changes nothing but the sign of 0."""
    return x


@rule(lambda x: x + -0.0, accuracy="exact", single_use=False)
def plus_negative_zero(x: Tensor) -> Tensor:
    """Adding −0 changes nothing at all."""
    return x


@rule(lambda x: x / 4, accuracy="exact", bounded=True)
def division_by_a_power_of_two(x: Tensor) -> Tensor:
    """Dividing a float by 4 is multiplying it by ¼."""
    require(x.dtype.is_floating_point(), "integers have no inverse")
    return x * 0.25


@rule(lambda x: op.Floor(-x), accuracy="exact", bounded=True)
def floor_of_negative_is_ceiling(x: Tensor) -> Tensor:
    """The floor of a negative is the negative of the ceiling."""
    return -op.Ceil(x)


@rule(lambda x: op.Erf(-x), accuracy="close", bounded=True)
def erf_is_odd(x: Tensor) -> Tensor:
    """The error function of a negative is the negative of the error function."""
    require(x.dtype.is_floating_point(), "the smallest integer has no negative")
    return -op.Erf(x)


@rule(lambda x, y: -(x - y), accuracy="close")
def difference_the_other_way(x: Tensor, y: Tensor) -> Tensor:
    """The negative of a difference is the difference the other way round."""
    return y - x


@rule(lambda x, y: op.Transpose(op.Transpose(x, perm=[1, 0]) @ op.Transpose(y, perm=[1, 0]), perm=[1, 0]),
      shapes={"x": "N N", "y": "N N"})
def product_the_other_way(x: Tensor, y: Tensor) -> Tensor:
    """A product of transposes, transposed, is the product the other way round."""
    return y @ x


def _joined(xs: list[Tensor], axis: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, each=op.Relu), axis=axis)


@rule(_joined, accuracy="exact", bounded=True)
def relu_of_concat(xs: list[Tensor], axis: int) -> Tensor:
    """Relu of each operand is Relu of all."""
    return op.Relu(op.Concat(*xs, axis=axis))


def _apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = op.Split(op.Concat(x, y, axis=-1), axis=-1, num_outputs=2, nout=2)
    return first, second


@rule(_apart, accuracy="exact", shapes={"x": "N C", "y": "N C"})
def split_of_concat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What is joined and split again is as before."""
    return x, y


@rule(lambda a, b: op.Not(op.And(op.Not(a), op.Not(b))), accuracy="exact")
def de_morgan(a: Tensor, b: Tensor) -> Tensor:
    """Not neither is either."""
    return op.Or(a, b)


@rule(lambda x, y: -op.Max(-x, -y), accuracy="close")
def smallest(x: Tensor, y: Tensor) -> Tensor:
    """The negative of the largest negative is the smallest."""
    require(x.dtype.is_floating_point(), "the smallest integer has no negative")
    return op.Min(x, y)


def _bounded(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Min(op.Max(x, low), high)


@rule(_bounded, accuracy="close", shapes={"x": "N C", "low": "", "high": ""})
def clip_of_bounds(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Not below the lower and not above the upper bound is Clip."""
    require(low.rank == 0 and high.rank == 0, "a bound is no scalar")
    require(x.dtype.is_floating_point() and low.scalar <= high.scalar, "the bounds are crossed")
    return op.Clip(x, low, high)


@rule(lambda x: op.Cast(op.Cast(x, to=DType.DOUBLE.value), to=DType.FLOAT.value), accuracy="exact",
      shapes={"x": "f32:N C"})
def cast_through_double(x: Tensor) -> Tensor:
    """A double holds every float."""
    require(x.dtype == DType.FLOAT, "another dtype")
    return x


def _moved_twice(x: Tensor, p: Attr[list[int]], q: Attr[list[int]]) -> Tensor:
    return op.Transpose(op.Transpose(x, perm=p), perm=q)


@rule(_moved_twice, accuracy="exact", shapes={"x": "N N N"})
def permutations_in_order(x: Tensor, p: list[int] | None, q: list[int] | None) -> Tensor:
    """The second permutation picks from the first."""
    require(p is not None and q is not None, "a default")
    assert p is not None and q is not None
    return op.Transpose(x, perm=[p[i] for i in q])


def _softmax(x: Tensor, axis: Attr[int], softmax: Node) -> Tensor:
    return op.Log(softmax.bind(op.Softmax(x, axis=axis)))


@rule(_softmax, accuracy="fast", shapes={"x": "+N N N"})
def log_softmax(x: Tensor, axis: int, softmax: Node) -> Tensor:
    """The logarithm of Softmax is LogSoftmax."""
    return op.LogSoftmax(x, axis=axis)


def _padded(x: Tensor, pads: Const, value: Const) -> Tensor:
    return op.Pad(-x, pads, value)


@rule(_padded, accuracy="exact", bounded=True)
def pad_of_negated_value(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    """The value is negated with the rest."""
    return -op.Pad(x, pads, -value)


def _scaled(x: Tensor, w: Const, b: Const, alpha: Attr[float], beta: Attr[float]) -> Tensor:
    return op.Gemm(x, w, b, alpha=alpha, beta=beta) * 3


@rule(_scaled, shapes={"x": "N N", "w": "N N", "b": "N"})
def gemm_scaled(x: Tensor, w: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    """A factor scales product and bias."""
    require(x.dtype.is_floating_point(), "integers overflow")
    return op.Gemm(x, w, b, alpha=3 * alpha, beta=3 * beta)


def _conv_then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const, eps: Attr[float]
) -> Tensor:
    return op.BatchNormalization(op.Conv(x, w, b), gamma, beta, mean, var, epsilon=eps, momentum=ANY)


_BN = {
    "x": "N C H W", "w": "K C 1 1", "b": "K", "gamma": "K", "beta": "K", "mean": "K", "var": "+K",
}  # fmt: skip


@rule(_conv_then_bn, shapes=_BN)
def bn_in_conv(
    x: Tensor, w: Tensor, b: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """BatchNormalization after Conv scales its weights and shifts its bias."""
    require(w.rank == 4 and gamma.dtype == w.dtype == mean.dtype, "no image, or several dtypes")
    constants = [c for c in (w, b, gamma, beta, mean, var) if c is not None]
    require(all(np.isfinite(np.asarray(c.array, np.float64)).all() for c in constants), "a constant is not finite")
    factor = gamma / op.Sqrt(var + eps)
    bias = beta - mean * factor if b is None else (b - mean) * factor + beta
    return op.Conv(x, w * op.Reshape(factor, [-1, 1, 1, 1]), bias)


def _norm_shifted(x: Tensor, scale: Const, b: Const, eps: Attr[float]) -> Tensor:
    return op.LayerNormalization(x, scale, epsilon=eps) + b


@rule(_norm_shifted, shapes={"x": "N D", "scale": "D", "b": "D"}, attrs={"eps": [1e-5, 0.01]})
def norm_with_bias(x: Tensor, scale: Tensor, b: Tensor, eps: float) -> Tensor:
    """A constant added after LayerNormalization is its bias."""
    require(scale.shape == b.shape, "the constant varies along other axes")
    return op.LayerNormalization(x, scale, b, epsilon=eps)


def _relu_between(q: Tensor, s: Const, z: Const) -> Tensor:
    return op.QuantizeLinear(op.Relu(op.DequantizeLinear(q, s, z)), s, z)


@rule(_relu_between, accuracy="exact", shapes={"q": "i8:N C", "s": "+", "z": "i8:"})
def relu_at_the_zero_point(q: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """Not below zero is not below the zero point."""
    require(q.dtype in (DType.INT8, DType.UINT8), "ONNX Runtime has no such Max")
    require(s.rank == z.rank == 0 and q.rank > 0, "several scales")
    return op.Max(q, z)


TWINS = rules_in(sys.modules[__name__])
