"""Wrong rules, each wrong in a way that somebody once got wrong: the rule checker must catch every one.

A docstring says what is wrong. The right twins of some of them are in `twins.py`.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from graphopt import ANY, Attr, Const, DType, Node, Tensor, approx, many, op, product, require, rule, rules_in, scaled

_ROOT = math.sqrt(0.5)
_MATRIX = {"x": "N N", "y": "N N"}


# -- constants ------------------------------------------------------------------------------------


@rule(lambda x: product(x, 0.5, 1 + op.Erf(x * 0.7)), shapes={"x": "N C"})
def gelu_of_a_rounded_root(x: Tensor) -> Tensor:
    """The constant of Gelu is √½, which 0.7 is not."""
    return op.Gelu(x)


@rule(lambda x: product(x, 0.5, 1 + op.Erf(x / approx(1.414, rtol=0.01))), shapes={"x": "N C"})
def gelu_of_a_tolerant_root(x: Tensor) -> Tensor:
    """A tolerance of one percent takes other functions for Gelu."""
    return op.Gelu(x)


@rule(lambda x: product(x, 0.5, 1 + op.Erf(scaled(x, _ROOT))), shapes={"x": "N C"})
def gelu_by_tanh(x: Tensor) -> Tensor:
    """The tanh form of Gelu is an approximation of it, right to three digits."""
    return op.Gelu(x, approximate="tanh")


@rule(lambda x: x * op.Sigmoid(x * 1.702), shapes={"x": "N C"})
def gelu_by_sigmoid(x: Tensor) -> Tensor:
    """The sigmoid form is an even rougher one."""
    return op.Gelu(x)


@rule(lambda x: x * (180 / math.pi) * 0.0174, accuracy="close")
def radians_by_hand(x: Tensor) -> Tensor:
    """π/180 is 0.01745…"""
    return x


def _elu(x: Tensor, alpha: Const) -> Tensor:
    return op.Where(op.Greater(x, 0), x, alpha * (op.Exp(x) - 1))


@rule(_elu, accuracy="fast", shapes={"x": "N C", "alpha": ""})
def elu_of_default_alpha(x: Tensor, alpha: Tensor) -> Tensor:
    """alpha is lost."""
    return op.Elu(x)


def _leaky(x: Tensor, slope: Const) -> Tensor:
    return op.Max(x, x * slope)


@rule(_leaky, shapes={"x": "N C", "slope": ""})
def leaky_relu_of_any_slope(x: Tensor, slope: Tensor) -> Tensor:
    """With a slope above one, the larger of both is the other one."""
    return op.LeakyRelu(x, alpha=slope.scalar)


@rule(_leaky, shapes={"x": "N C", "slope": ""})
def leaky_relu_of_default_slope(x: Tensor, slope: Tensor) -> Tensor:
    """The slope is lost."""
    return op.LeakyRelu(x)


def _hard_swish_of_any_line(x: Tensor, alpha: Attr[float], beta: Attr[float]) -> Tensor:
    return x * op.HardSigmoid(x, alpha=alpha, beta=beta)


@rule(_hard_swish_of_any_line, shapes={"x": "N C"})
def hard_swish_of_any_line(x: Tensor, alpha: float, beta: float) -> Tensor:
    """HardSwish has a slope of 1/6 and an offset of 1/2, and no others."""
    return op.HardSwish(x)


# -- algebra that holds for some numbers ----------------------------------------------------------


@rule(lambda x: op.Exp(op.Log(x)))
def exp_of_log(x: Tensor) -> Tensor:
    """Negative numbers have no logarithm."""
    return x


@rule(lambda x: op.Sqrt(x * x), accuracy="close")
def root_of_square(x: Tensor) -> Tensor:
    """The root of a square is the absolute value."""
    return x


@rule(lambda x: op.Log(x * x), accuracy="close", bounded=True)
def log_of_square(x: Tensor) -> Tensor:
    """Twice the logarithm is that of the square for positive numbers only."""
    return 2 * op.Log(x)


@rule(lambda x, y: op.Sqrt(x) * op.Sqrt(y), accuracy="close")
def product_of_roots(x: Tensor, y: Tensor) -> Tensor:
    """The product of two negative numbers has a root, and they have none."""
    return op.Sqrt(x * y)


@rule(lambda x: x * 0, accuracy="exact", bounded=True)
def times_zero(x: Tensor) -> Tensor:
    """Infinity and NaN times 0 are NaN."""
    return op.ConstantOfShape(op.Shape(x))


@rule(lambda x: x - x, accuracy="exact", bounded=True)
def minus_itself(x: Tensor) -> Tensor:
    """The difference of two infinities is NaN."""
    return op.ConstantOfShape(op.Shape(x))


@rule(lambda x: x / x, accuracy="close", bounded=True)
def over_itself(x: Tensor) -> Tensor:
    """0/0 and ∞/∞ are NaN."""
    return op.ConstantOfShape(op.Shape(x)) + 1


@rule(lambda x: x + 0, accuracy="exact", single_use=False)
def plus_zero_exactly(x: Tensor) -> Tensor:
    """−0 + 0 is +0."""
    return x


@rule(lambda x, y: x - y + y, accuracy="close")
def minus_and_plus(x: Tensor, y: Tensor) -> Tensor:
    """∞ − ∞ + ∞ is NaN, and a small x beside a large y is lost."""
    return x


@rule(lambda x: x**0.5, accuracy="close", bounded=True)
def power_of_half(x: Tensor) -> Tensor:
    """The power of −∞ is ∞; its root is NaN."""
    return op.Sqrt(x)


def _division_by_product(x: Tensor, a: Const) -> Tensor:
    return x / a


@rule(_division_by_product, accuracy="exact", bounded=True, shapes={"a": ""})
def division_by_product(x: Tensor, a: Tensor) -> Tensor:
    """The inverse of most numbers is rounded."""
    require(x.dtype.is_floating_point(), "integers have no inverse")
    return x * (1 / a)


def _integer_division_by_product(x: Tensor, a: Const) -> Tensor:
    return x / a


@rule(_integer_division_by_product, accuracy="close", bounded=True, shapes={"x": "i32:N C", "a": "i32:"})
def integer_division_by_product(x: Tensor, a: Tensor) -> Tensor:
    """The inverse of an integer is 0."""
    return x * (1 / a)


def _divided_twice(x: Tensor, a: Const, b: Const) -> Tensor:
    return x / a / b


@rule(_divided_twice, accuracy="exact", shapes={"a": "", "b": ""})
def division_twice_exactly(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Both ways round, but not to the same number."""
    return x / (a * b)


@rule(_divided_twice, accuracy="exact", shapes={"x": "i32:N C", "a": "i32:", "b": "i32:"})
def integer_division_twice(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x / a / b is not x / (a / b)."""
    return x / op.Max(1, a / b)


@rule(lambda x: op.Floor(x + 0.5), accuracy="exact")
def round_by_floor(x: Tensor) -> Tensor:
    """Round goes to the even number from the middle."""
    return op.Round(x)


@rule(lambda x: op.Floor(-x), accuracy="exact", bounded=True)
def floor_of_negative(x: Tensor) -> Tensor:
    """The floor of a negative is the negative of the ceiling."""
    return -op.Floor(x)


@rule(lambda x: op.Erf(-x), accuracy="close")
def odd_taken_for_even(x: Tensor) -> Tensor:
    """Erf is odd."""
    return op.Erf(x)


@rule(lambda x, y: op.Mod(-x, y, fmod=1), accuracy="exact", bounded=True)
def modulo_of_negative(x: Tensor, y: Tensor) -> Tensor:
    """The sign is lost: fmod has that of the dividend."""
    return op.Mod(x, y, fmod=1)


@rule(lambda x, y: x - op.Floor(x / y) * y, accuracy="fast", shapes={"x": "N C", "y": "+N C"})
def floored_modulo(x: Tensor, y: Tensor) -> Tensor:
    """fmod truncates, and Floor does not."""
    return op.Mod(x, y, fmod=1)


# -- operands that change places ------------------------------------------------------------------


@rule(lambda x, y: -(x - y), accuracy="exact")
def negated_difference(x: Tensor, y: Tensor) -> Tensor:
    """It is y − x."""
    return x - y


@rule(lambda x, y: op.Reciprocal(x / y), accuracy="close")
def inverted_quotient(x: Tensor, y: Tensor) -> Tensor:
    """It is y / x."""
    return x / y


@rule(lambda x, y: op.Transpose(op.Transpose(x) @ op.Transpose(y)), shapes=_MATRIX)
def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """(XᵀYᵀ)ᵀ is YX."""
    return x @ y


@rule(lambda c, x, y: op.Where(op.Not(c), x, y), accuracy="exact")
def where_not_kept(c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """On the negated condition the operands change places."""
    return op.Where(c, x, y)


@rule(lambda x, y: op.Where(True, x, y), accuracy="exact", single_use=False)
def where_true_takes_the_other(x: Tensor, y: Tensor) -> Tensor:
    """A true condition takes the first."""
    return y


def _joined(xs: list[Tensor], axis: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, each=op.Relu), axis=axis)


@rule(_joined, accuracy="exact", bounded=True)
def concat_backwards(xs: list[Tensor], axis: int) -> Tensor:
    """The order of the operands is lost."""
    return op.Relu(op.Concat(*reversed(xs), axis=axis))


def _apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = op.Split(op.Concat(x, y, axis=-1), axis=-1, num_outputs=2, nout=2)
    return first, second


@rule(_apart, accuracy="exact", shapes={"x": "N C", "y": "N C"})
def split_the_other_way(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs change places."""
    return y, x


def _two_products(x: Tensor, v: Const, w: Const) -> tuple[Tensor, Tensor]:
    return x @ v, x @ w


@rule(_two_products, bounded=True, single_use=False, shapes={"x": "N K", "v": "K M", "w": "K M"})
def products_with_one_output(x: Tensor, v: Const, w: Const) -> tuple[Tensor, Tensor]:
    """The second output is the first half once more."""
    require(v.value is not w.value, "the weights are the same")
    joined = x @ op.Concat(v, w, axis=1)
    first, _ = op.Split(joined, [v.shape[1], w.shape[1]], axis=1, nout=2)
    return first, first


# -- comparisons, bounds --------------------------------------------------------------------------


@rule(lambda x, y: op.Not(op.Less(x, y)), accuracy="exact")
def not_less(x: Tensor, y: Tensor) -> Tensor:
    """What is not less may be equal."""
    return op.Greater(x, y)


@rule(lambda x, y: op.Not(op.Less(x, y)), accuracy="exact")
def not_less_nor_nan(x: Tensor, y: Tensor) -> Tensor:
    """NaN is neither less, nor greater or equal."""
    return op.GreaterOrEqual(x, y)


@rule(lambda a, b: op.Not(op.And(op.Not(a), op.Not(b))), accuracy="exact")
def half_of_de_morgan(a: Tensor, b: Tensor) -> Tensor:
    """Neither becomes either, not both."""
    return op.And(a, b)


@rule(lambda x: op.Equal(x, x), accuracy="exact", bounded=True)
def equal_to_itself(x: Tensor) -> Tensor:
    """NaN is not."""
    return op.Cast(op.ConstantOfShape(op.Shape(x)) + 1, to=DType.BOOL.value)


@rule(lambda x, y: -op.Max(-x, -y), accuracy="exact")
def largest_for_smallest(x: Tensor, y: Tensor) -> Tensor:
    """The negative of the largest negative is the smallest."""
    return op.Max(x, y)


_BOUNDS = {"x": "N C", "low": "", "high": ""}


def _bounded(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Min(op.Max(x, low), high)


@rule(_bounded, accuracy="exact", shapes=_BOUNDS)
def clip_upside_down(x: Tensor, low: Const, high: Const) -> Tensor:
    """The bounds change places."""
    return op.Clip(x, high, low)


@rule(_bounded, accuracy="exact", shapes=_BOUNDS)
def clip_without_ceiling(x: Tensor, low: Const, high: Const) -> Tensor:
    """The upper bound is lost."""
    return op.Clip(x, low)


def _clip_of_crossed_bounds(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Max(op.Min(x, high), low)


@rule(_clip_of_crossed_bounds, accuracy="exact", shapes=_BOUNDS)
def clip_of_crossed_bounds(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where the lower bound is above the upper one, Clip gives the upper one, and this the lower."""
    return op.Clip(x, low, high)


def _clipped_twice(x: Tensor, low: Const, high: Const, low2: Const, high2: Const) -> Tensor:
    return op.Clip(op.Clip(x, low, high), low2, high2)


@rule(_clipped_twice, accuracy="exact", shapes={**_BOUNDS, "low2": "", "high2": ""})
def clip_by_the_outer_bounds(x: Tensor, low: Const, high: Const, low2: Const, high2: Const) -> Tensor:
    """The inner bounds are lost."""
    return op.Clip(x, low2, high2)


# -- types ----------------------------------------------------------------------------------------


def _to_and_back(x: Tensor, to: Attr[int], back: Attr[int]) -> Tensor:
    return op.Cast(op.Cast(x, to=to), to=back)


@rule(_to_and_back, accuracy="exact", shapes={"x": "f32:N C"}, attrs={"to": [DType.INT8.value, DType.INT32.value]})
def cast_through_integers(x: Tensor, to: int, back: int) -> Tensor:
    """The fraction is lost between the two."""
    require(back == x.dtype.value, "another dtype")
    return x


@rule(lambda x: op.Cast(op.Cast(x, to=DType.FLOAT16.value), to=DType.FLOAT.value), shapes={"x": "f32:N C"})
def cast_through_half(x: Tensor) -> Tensor:
    """Thirteen bits are lost between the two."""
    return x


# -- axes, permutations ---------------------------------------------------------------------------


def _softmax_axis_lost(x: Tensor, axis: Attr[int]) -> Tensor:
    return op.Log(op.Softmax(x, axis=axis))


@rule(_softmax_axis_lost, shapes={"x": "N N N"})
def softmax_axis_lost(x: Tensor, axis: int) -> Tensor:
    """The default axis is another."""
    return op.LogSoftmax(x)


def _moved_twice(x: Tensor, p: Attr[list[int]], q: Attr[list[int]]) -> Tensor:
    return op.Transpose(op.Transpose(x, perm=p), perm=q)


@rule(_moved_twice, accuracy="exact", shapes={"x": "N N N"})
def permutations_in_the_wrong_order(x: Tensor, p: list[int], q: list[int]) -> Tensor:
    """The second permutation picks from the first."""
    require(p is not None and q is not None, "a default")
    return op.Transpose(x, perm=[q[i] for i in p])


def _permutation_lost(x: Tensor, p: Attr[list[int]]) -> Tensor:
    return op.Relu(op.Transpose(x, perm=p))


@rule(_permutation_lost, accuracy="exact", bounded=True, shapes={"x": "N N N"})
def permutation_lost(x: Tensor, p: list[int]) -> Tensor:
    """Without one, Transpose reverses the axes."""
    return op.Transpose(op.Relu(x))


def _shape_of_transposed(x: Tensor, p: Attr[list[int]]) -> Tensor:
    return op.Shape(op.Transpose(x, perm=p))


@rule(_shape_of_transposed, accuracy="exact", shapes={"x": "A B C"})
def shape_of_transposed(x: Tensor, p: list[int]) -> Tensor:
    """The sizes are permuted, too."""
    return op.Shape(x)


@rule(lambda x: x - op.ReduceMean(x, axes=[-1], keepdims=1), bounded=True, once=True, shapes={"x": "N N"})
def mean_without_its_axis(x: Tensor) -> Tensor:
    """Without the axis that was reduced, the means are along the other one."""
    return x - op.ReduceMean(x, axes=[-1], keepdims=0)


def _log_sum_for_log_sum_exp(x: Tensor, axes: Const | None) -> Tensor:
    return op.Log(op.ReduceSum(x, axes))


@rule(_log_sum_for_log_sum_exp, accuracy="fast", shapes={"x": "+N C"})
def log_sum_for_log_sum_exp(x: Tensor, axes: Tensor | None) -> Tensor:
    """There is one operator with Exp, and one without."""
    return op.ReduceLogSumExp(x, axes)


@rule(lambda x, i: op.Gather(op.Transpose(x, perm=[1, 0]), i, axis=0), accuracy="exact", shapes={"x": "N N", "i": "i64:K"})
def gather_along_the_old_axis(x: Tensor, i: Tensor) -> Tensor:
    """Transposed, the axis is the other one."""
    return op.Gather(x, i, axis=0)


def _sliced_twice(x: Tensor, s: Const, e: Const, a: Const, s2: Const, e2: Const) -> Tensor:
    return op.Slice(op.Slice(x, s, e, a), s2, e2, a)


_ONE = {"s": "i64:1", "e": "i64:1", "a": "i64:1", "s2": "i64:1", "e2": "i64:1"}


@rule(_sliced_twice, accuracy="exact", shapes=_ONE)
def slices_from_the_start(x: Tensor, s: Const, e: Const, a: Const, s2: Const, e2: Const) -> Tensor:
    """The second slice begins where the first one does."""
    return op.Slice(x, s2, e2, a)


def _pad_value_lost(x: Tensor, pads: Const, value: Const) -> Tensor:
    return op.Relu(op.Pad(x, pads, value))


@rule(_pad_value_lost, accuracy="exact", bounded=True)
def pad_value_lost(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    """Padded with zeros, and not with the value."""
    return op.Pad(op.Relu(x), pads)


def _pad_value_kept(x: Tensor, pads: Const, value: Const) -> Tensor:
    return op.Pad(-x, pads, value)


@rule(_pad_value_kept, accuracy="exact", bounded=True)
def pad_value_kept(x: Tensor, pads: Tensor, value: Tensor) -> Tensor:
    """The value is negated with the rest."""
    return -op.Pad(x, pads, value)


def _running_sum_forwards(x: Tensor, axis: Const, reverse: Attr[int]) -> Tensor:
    return -op.CumSum(-x, axis, reverse=reverse)


@rule(_running_sum_forwards, shapes={"axis": "i64:"}, attrs={"reverse": [0, 1]})
def running_sum_forwards(x: Tensor, axis: Tensor, reverse: int) -> Tensor:
    """It ran backwards."""
    return op.CumSum(x, axis)


def _triangle_upside_down(x: Tensor, upper: Attr[int]) -> Tensor:
    return op.Relu(op.Trilu(x, upper=upper))


@rule(_triangle_upside_down, accuracy="exact", bounded=True)
def triangle_upside_down(x: Tensor, upper: int) -> Tensor:
    """The default is the upper one."""
    return op.Trilu(op.Relu(x))


def _depth(x: Tensor, mode: Attr[str]) -> Tensor:
    return op.Relu(op.DepthToSpace(x, blocksize=2, mode=mode))


@rule(_depth, accuracy="exact", bounded=True, shapes={"x": "N 8 H W"}, attrs={"mode": ["DCR", "CRD"]})
def blocks_in_another_order(x: Tensor, mode: str) -> Tensor:
    """The mode is lost."""
    return op.DepthToSpace(op.Relu(x), blocksize=2)


# -- products, convolutions -----------------------------------------------------------------------

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


# -- quantization ---------------------------------------------------------------------------------

_SCALAR = {"q": "u8:N C", "s": "+", "z": "u8:"}


def _relu_between(q: Tensor, s: Const, z: Const) -> Tensor:
    return op.QuantizeLinear(op.Relu(op.DequantizeLinear(q, s, z)), s, z)


@rule(_relu_between, accuracy="exact", shapes={"q": "i8:N C", "s": "+", "z": "i8:"})
def relu_below_the_zero_point(q: Tensor, s: Const, z: Const) -> Tensor:
    """What is negative is what lies below the zero point, not below zero."""
    return op.Max(q, np.zeros((), np.int8))


def _zero_point_ignored(q: Tensor, s: Const, z: Const) -> Tensor:
    return op.DequantizeLinear(q, s, z)


@rule(_zero_point_ignored, bounded=True, shapes=_SCALAR)
def zero_point_ignored(q: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """The zero point is lost."""
    return op.Cast(q, to=DType.FLOAT.value) * s


def _quantized_and_back(x: Tensor, s: Const, z: Const) -> Tensor:
    return op.DequantizeLinear(op.QuantizeLinear(x, s, z), s, z)


@rule(_quantized_and_back, shapes={"x": "N C", "s": "+", "z": "u8:"})
def quantized_and_back(x: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """It is rounded and clipped in between."""
    return x


def _channels(q: Tensor, s: Const, axis: Attr[int]) -> Tensor:
    return op.DequantizeLinear(q, s, axis=axis)


@rule(_channels, bounded=True, shapes={"q": "i8:N N", "s": "+N"}, attrs={"axis": [0, 1]})
def scales_along_the_last_axis(q: Tensor, s: Const, axis: int) -> Tensor:
    """The axis is lost."""
    return op.Cast(q, to=DType.FLOAT.value) * s


def _dropout_that_scales(x: Tensor, ratio: Const) -> Tensor:
    return op.Dropout(x, ratio)


@rule(_dropout_that_scales, bounded=True, shapes={"x": "N C", "ratio": ""})
def dropout_that_scales(x: Tensor, ratio: Tensor) -> Tensor:
    """In inference, Dropout does nothing at all."""
    return x * (1 - ratio)


MUTANTS = rules_in(sys.modules[__name__])
