"""Activation functions that exporters write as arithmetic, as the operators that they are."""

from __future__ import annotations

import math

import numpy as np

from graphopt import Const, DType, Node, Tensor, op, product, require, rule, scaled, total

_SIXTH = 1 / 6
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


def _halved(x: Tensor, y: Tensor) -> Tensor:
    """x · y / 2, however it is associated."""
    return product(x, y, 0.5) | x * y / 2 | x * (y / 2) | x / 2 * y


def _gelu_erf(x: Tensor) -> Tensor:
    erf = op.Erf(scaled(x, math.sqrt(0.5)))
    return _halved(x, 1 + erf) | x * total(0.5, erf * 0.5)


@rule(_gelu_erf, shapes={"x": "N C"})
def gelu_erf(x: Tensor) -> Tensor:
    """Half of x times one plus the error function of x over √2 is Gelu."""
    return op.Gelu(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    c, square = _TANH_CUBIC, x * x | x**2
    cubic = c * (x**3 | x * square) | x * (c * square) | x * (x * (c * x)) | square * (c * x)
    inner = _TANH_SCALE * (x + cubic) | product(x, _TANH_SCALE, 1 + (c * square | x * (c * x)))
    tanh = op.Tanh(inner)
    return _halved(x, 1 + tanh) | x * total(0.5, tanh * 0.5)


@rule(_gelu_tanh, shapes={"x": "N C"})
def gelu_tanh(x: Tensor) -> Tensor:
    """Half of x times one plus tanh of √(2/π)·(x + 0.044715·x³) is Gelu in its tanh approximation."""
    return op.Gelu(x, approximate="tanh")


def _swish(x: Tensor, alpha: Const) -> Tensor:
    return x * op.Sigmoid(x) | x * op.Sigmoid(x * alpha)


@rule(_swish, shapes={"x": "N C", "alpha": ""})
def swish(x: Tensor, alpha: Tensor | None) -> Tensor:
    """x times the sigmoid of a multiple of x is Swish."""
    return op.Swish(x, alpha=1.0 if alpha is None else _attribute(alpha))


@rule(lambda x: x * op.Tanh(op.Softplus(x)), shapes={"x": "N C"})
def mish(x: Tensor) -> Tensor:
    """x times tanh of Softplus is Mish."""
    return op.Mish(x)


@rule(lambda x: op.Log(1 + op.Exp(x)), accuracy="fast", shapes={"x": "N C"})
def softplus(x: Tensor) -> Tensor:
    """The logarithm of one plus the exponential is Softplus, which does not overflow."""
    _require_kernel(x)
    return op.Softplus(x)


def _clip(x: Tensor, low: float, high: float) -> Tensor:
    return op.Clip(x, low, high) | op.Clip(x, min=low, max=high)


def _hard_sigmoid(x: Tensor, slope: Const, offset: Const) -> Tensor:
    return scaled(_clip(x + 3, 0.0, 6.0), _SIXTH) | _clip(x * slope + offset, 0.0, 1.0)


@rule(_hard_sigmoid, shapes={"x": "N C", "slope": "", "offset": ""})
def hard_sigmoid(x: Tensor, slope: Tensor | None, offset: Tensor | None) -> Tensor:
    """A line clipped to between zero and one is HardSigmoid."""
    _require_kernel(x)
    alpha = _SIXTH if slope is None else _attribute(slope)
    beta = 0.5 if offset is None else _attribute(offset)
    return op.HardSigmoid(x, alpha=alpha, beta=beta)


def _hard_swish(x: Tensor, add: Node) -> Tensor:
    clipped = _clip(add.bind(x + 3), 0.0, 6.0)
    return (
        x * op.HardSigmoid(x, alpha=_SIXTH, beta=0.5)
        | product(x, clipped, _SIXTH)
        | x * clipped / 6
        | x * (clipped / 6)
        | x / 6 * clipped
    )


@rule(_hard_swish, shapes={"x": "N C"})
def hard_swish(x: Tensor, add: Node | None) -> Tensor:
    """x times x + 3 clipped to between 0 and 6, over 6, is HardSwish; before opset 14, x times HardSigmoid."""
    _require_kernel(x)
    if add is not None and add.version < 14:
        return x * op.HardSigmoid(x, alpha=_SIXTH, beta=0.5)
    return op.HardSwish(x)


def _max(x: Tensor, slope: Const) -> Tensor:
    return op.Max(x, x * slope)


@rule(_max, shapes={"x": "N C", "slope": "+"})
def leaky_relu(x: Tensor, slope: Tensor) -> Tensor:
    """The larger of x and a positive fraction of x is LeakyRelu."""
    _require_kernel(x)
    alpha = _attribute(slope)
    require(0 < alpha < 1, "the slope is not between zero and one")
    return op.LeakyRelu(x, alpha=alpha)


def _by_sign(x: Tensor, slope: Const) -> Tensor:
    positive = op.Greater(x, 0) | op.GreaterOrEqual(x, 0)
    negative = op.Less(x, 0) | op.LessOrEqual(x, 0)
    return op.Where(positive, x, x * slope) | op.Where(negative, x * slope, x)


@rule(_by_sign, shapes={"x": "N C", "slope": ""})
def leaky_relu_where(x: Tensor, slope: Tensor) -> Tensor:
    """x where it is positive, and else a multiple of x, is LeakyRelu, or PRelu if the slopes differ."""
    require(x.dtype.is_floating_point(), "integers have no slope")
    _require_kernel(x)
    require(bool(np.isfinite(slope.array.astype(np.float64)).all()), "a slope is not finite")
    if slope.value.splat is not None:
        return op.LeakyRelu(x, alpha=_attribute(slope))
    require(slope.broadcasts_into(x), "the slopes may raise the size of x")
    return op.PRelu(x, slope)


def _attribute(constant: Tensor) -> float:
    """A number as an attribute, which is a float32."""
    number = constant.scalar
    require(np.float32(number) == number, "an attribute does not hold the constant")
    return number


def _require_kernel(x: Tensor) -> None:
    require(x.dtype.is_floating_point(), "the operator is for floats")
    require(x.dtype != DType.DOUBLE, "runtimes have no kernel of the operator for double")
