"""Functions that treat positive and negative numbers differently, written out with comparisons, Max and Min."""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.attribute import attribute, require_kernel

from graphopt import Const, DType, Tensor, op, require, rule


def _max(x: Tensor, slope: Const) -> Tensor:
    return op.Max(x, x * slope)


@rule(_max, shapes={"x": "N C", "slope": "+"})
def leaky_relu(x: Tensor, slope: Tensor) -> Tensor:
    """The larger of x and a positive fraction of x is LeakyRelu."""
    require_kernel(x)
    alpha = attribute(slope)
    require(0 < alpha < 1, "the slope is not between zero and one")
    return op.LeakyRelu(x, alpha=alpha)


@rule(lambda x, slope: op.Min(x, x * slope), shapes={"x": "N C", "slope": "+"})
def leaky_relu_min(x: Tensor, slope: Tensor) -> Tensor:
    """The smaller of x and a multiple of x is LeakyRelu, whose slope is more than one."""
    require_kernel(x)
    alpha = attribute(slope)
    require(1 < alpha < np.inf, "the slope is not more than one")
    return op.LeakyRelu(x, alpha=alpha)


def _by_sign(x: Tensor, slope: Const) -> Tensor:
    positive = op.Greater(x, 0) | op.GreaterOrEqual(x, 0)
    negative = op.Less(x, 0) | op.LessOrEqual(x, 0)
    return op.Where(positive, x, x * slope) | op.Where(negative, x * slope, x)


@rule(_by_sign, shapes={"x": "N C", "slope": ""})
def leaky_relu_where(x: Tensor, slope: Tensor) -> Tensor:
    """x where it is positive, and else a number times x, is LeakyRelu."""
    _require_slopes(x, slope)
    return op.LeakyRelu(x, alpha=attribute(slope))


@rule(_by_sign, shapes={"x": "N C", "slope": "C"})
def prelu_where(x: Tensor, slope: Tensor) -> Tensor:
    """x where it is positive, and else a multiple of x that differs between channels, is PRelu."""
    _require_slopes(x, slope)
    _require_several(x, slope)
    return op.PRelu(x, slope)


def _by_parts(x: Tensor, slope: Const, minus: Const) -> Tensor:
    positive, below = op.Relu(x) | op.Max(x, 0), op.Relu(-x) | op.Max(-x, 0)
    return (
        positive - below * slope
        | positive + -(below * slope)
        | positive + below * minus
        | positive + slope * (op.Min(x, 0) | op.Clip(x, None, 0.0) | -below)
    )


@rule(_by_parts, shapes={"x": "N C", "slope": "", "minus": ""})
def leaky_relu_parts(x: Tensor, slope: Tensor | None, minus: Tensor | None) -> Tensor:
    """The positive part of x plus a number times its negative part is LeakyRelu."""
    alpha = _slope(slope, minus)
    _require_slopes(x, alpha)
    return op.LeakyRelu(x, alpha=attribute(alpha) * (1 if minus is None else -1))


@rule(_by_parts, shapes={"x": "N C", "slope": "C", "minus": "C"})
def prelu_parts(x: Tensor, slope: Tensor | None, minus: Tensor | None) -> Tensor:
    """The positive part of x plus its negative part times a slope for each channel is PRelu."""
    alpha = _slope(slope, minus)
    _require_slopes(x, alpha)
    _require_several(x, alpha)
    return op.PRelu(x, alpha if minus is None else -alpha)


def _by_distance(x: Tensor, half: Const) -> Tensor:
    return (op.Relu(x) | op.Max(x, 0)) + half * (x - op.Abs(x))


@rule(_by_distance, accuracy="fast", shapes={"x": "N C", "half": "C"})
def prelu_abs(x: Tensor, half: Tensor) -> Tensor:
    """The positive part of x plus half a slope times what x lacks to its absolute value is PRelu."""
    # At infinity, what x lacks is ∞ - ∞.
    _require_slopes(x, half)
    if half.value.splat is not None:
        return op.LeakyRelu(x, alpha=2 * attribute(half))
    _require_several(x, half)
    return op.PRelu(x, half * 2)


# -- steps ----------------------------------------------------------------------------------------


@rule(lambda x: op.Where(op.Greater(x, 0) | op.GreaterOrEqual(x, 0), x, 0), accuracy="fast", shapes={"x": "N C"})
def relu_where(x: Tensor) -> Tensor:
    """x where it is positive, and else 0, is Relu."""
    # NaN is not positive, and Relu of it is NaN.
    require(x.dtype.is_floating_point(), "integers have no Relu everywhere")
    return op.Relu(x)


@rule(lambda x, t: op.Where(op.Greater(x, t), x, 0), shapes={"x": "N C", "t": ""})
def thresholded_relu(x: Tensor, t: Tensor) -> Tensor:
    """x where it is more than a number, and else 0, is ThresholdedRelu."""
    require_kernel(x)
    alpha = attribute(t)
    require(alpha != 0, "the threshold is 0")
    return op.ThresholdedRelu(x, alpha=alpha)


def _outside(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Where(op.Or(op.Greater(x, high), op.Less(x, low | -high)), x, 0)


@rule(_outside, shapes={"x": "N C", "low": "", "high": "+"})
def hard_shrink(x: Tensor, low: Tensor | None, high: Tensor) -> Tensor:
    """x where it is far from 0, and else 0, is Shrink."""
    require(x.dtype.is_floating_point() and x.dtype != DType.BFLOAT16, "runtimes have no kernel for the dtype")
    lambd = attribute(high)
    require(low is None or low.scalar == -lambd, "the limits differ")
    return op.Shrink(x, lambd=lambd, bias=0.0)


def _towards_zero(x: Tensor, low: Const, high: Const, down: Const, up: Const) -> Tensor:
    above = op.Where(op.Greater(x, high), x - high | x - down, 0)
    return above + op.Where(op.Less(x, low | -high), x + high | x + up | x - low, 0)


@rule(_towards_zero, shapes={"x": "N C", "low": "", "high": "+", "down": "+", "up": "+"})
def soft_shrink(x: Tensor, low: Tensor | None, high: Tensor, down: Tensor | None, up: Tensor | None) -> Tensor:
    """x, nearer to 0 by a number where it is far from 0, and else 0, is Shrink."""
    require(x.dtype.is_floating_point() and x.dtype != DType.BFLOAT16, "runtimes have no kernel for the dtype")
    lambd = attribute(high)
    bias = lambd if down is None else attribute(down)
    require(lambd >= 0 and (low is None or low.scalar == -lambd), "the limits differ")
    require(bias == (lambd if up is None else up.scalar), "both sides are moved by different numbers")
    return op.Shrink(x, lambd=lambd, bias=bias)


# -- operands -------------------------------------------------------------------------------------


def _slope(slope: Tensor | None, minus: Tensor | None) -> Tensor:
    found = minus if slope is None else slope
    assert found is not None
    return found


def _require_slopes(x: Tensor, slope: Tensor) -> None:
    require(x.dtype.is_floating_point(), "integers have no slope")
    require_kernel(x)
    require(bool(np.isfinite(slope.array.astype(np.float64)).all()), "a slope is not finite")


def _require_several(x: Tensor, slope: Tensor) -> None:
    require(slope.value.splat is None, "there is one slope only")
    require(slope.broadcasts_into(x), "the slopes may raise the size of x")
