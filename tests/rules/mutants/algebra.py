"""Constants that are nearly right, and algebra that holds for some numbers."""

from __future__ import annotations

import math

from graphopt import Attr, Const, Tensor, approx, op, product, require, rule, scaled

_ROOT = math.sqrt(0.5)


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
