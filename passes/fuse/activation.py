"""Activation functions that exporters write as arithmetic, as the operators that they are."""

from __future__ import annotations

import math

from graphopt_passes.fuse.attribute import attribute, require_kernel

from graphopt import Const, DType, Node, Tensor, approx, op, product, require, rule, scaled, total

_SIXTH = 1 / 6
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


_ROUGH_ROOT = 1.4142099618911743  # √2 as old BERT checkpoints of TensorFlow have it
_ULPS = 2.5e-7  # two roundings of a float32: constants that were computed instead of written


def _halved(x: Tensor, y: Tensor) -> Tensor:
    """x · y / 2, however it is associated."""
    return product(x, y, 0.5) | x * y / 2 | x * (y / 2) | x / 2 * y


def _near(number: float) -> Tensor:
    """The number as the dtype holds it, or off by what computing it in float32 costs."""
    return approx(number, rtol=_ULPS)


def _gelu_erf(x: Tensor) -> Tensor:
    erf = op.Erf(x * _near(math.sqrt(0.5)) | x / (_near(math.sqrt(2)) | _ROUGH_ROOT))
    return _halved(x, 1 + erf) | x * total(0.5, erf * 0.5) | (x + x * erf) * 0.5 | (x + x * erf) / 2


@rule(_gelu_erf, shapes={"x": "N C"})
def gelu_erf(x: Tensor) -> Tensor:
    """Half of x times one plus the error function of x over √2 is Gelu."""
    _require_not_double(x)
    return op.Gelu(x)


def _require_not_double(x: Tensor) -> None:
    require(x.dtype != DType.DOUBLE, "runtimes have no kernel of the operator for the dtype")


def _argument(x: Tensor, scale: float) -> Tensor:
    """What tanh is taken of: scale · (x + 0.044715·x³), also with x before the brackets."""
    c, square = _near(_TANH_CUBIC), x * x | x**2
    cubic = c * (x**3 | x * square) | x * (c * square) | x * (x * (c * x)) | square * (c * x)
    multiplied, both = scale * _TANH_CUBIC, (x + cubic)
    factor = _near(scale) + (_near(multiplied) * square | x * (_near(multiplied) * x))
    return _near(scale) * both | product(x, _near(scale), 1 + (c * square | x * (c * x))) | x * factor


def _gelu_tanh(x: Tensor) -> Tensor:
    tanh = op.Tanh(_argument(x, _TANH_SCALE))
    return _halved(x, 1 + tanh) | x * total(0.5, tanh * 0.5)


def _gelu_tanh_spread(x: Tensor) -> Tensor:
    return (x + x * op.Tanh(_argument(x, _TANH_SCALE))) * 0.5


def _gelu_logistic(x: Tensor) -> Tensor:
    return x * op.Sigmoid(_argument(x, 2 * _TANH_SCALE))


@rule(_gelu_tanh, _gelu_tanh_spread, _gelu_logistic, shapes={"x": "N C"})
def gelu_tanh(x: Tensor) -> Tensor:
    """Half of x times one plus tanh of √(2/π)·(x + 0.044715·x³) is Gelu in its tanh approximation."""
    _require_not_double(x)
    return op.Gelu(x, approximate="tanh")


def _clip(x: Tensor, low: float, high: float) -> Tensor:
    clipped = op.Clip(x, low, high) | op.Clip(x, min=low, max=high)
    return clipped if low else clipped | op.Min(op.Relu(x), high) | op.Min(op.Max(x, 0), high)


def _hard_sigmoid(x: Tensor, slope: Const, offset: Const) -> Tensor:
    return scaled(_clip(x + 3, 0.0, 6.0), _SIXTH) | _clip(x * slope + offset, 0.0, 1.0)


@rule(_hard_sigmoid, shapes={"x": "N C", "slope": "", "offset": ""})
def hard_sigmoid(x: Tensor, slope: Tensor | None, offset: Tensor | None) -> Tensor:
    """A line clipped to between zero and one is HardSigmoid."""
    require_kernel(x)
    alpha = _SIXTH if slope is None else attribute(slope)
    beta = 0.5 if offset is None else attribute(offset)
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
    require_kernel(x)
    if add is not None and add.version < 14:
        return x * op.HardSigmoid(x, alpha=_SIXTH, beta=0.5)
    return op.HardSwish(x)
