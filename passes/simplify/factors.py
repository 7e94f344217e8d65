"""Constant factors and divisors that meet, and reciprocals that are quotients."""

from __future__ import annotations

import numpy as np
from graphopt_passes.simplify.meeting import as_double, check_factors, check_meeting

from graphopt import Const, Tensor, op, require, rule

_SCALED = {"a": "", "b": ""}


def _mul_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    return x * a * b


def _mul_div(x: Tensor, a: Const, b: Const) -> Tensor:
    return x * a / b


def _div_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    return x / b * a


def _div_div(x: Tensor, a: Const, b: Const) -> Tensor:
    return x / a / b


def _quotient_scaled(x: Tensor, a: Const, b: Const) -> Tensor:
    return a / x * b


def _quotient_divided(x: Tensor, a: Const, b: Const) -> Tensor:
    return a / x / b


@rule(_mul_div, accuracy="close", shapes=_SCALED)
def mul_div(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant factor, then a constant divisor are one factor."""
    return _scaled(x, a, b, finite=False)


@rule(_div_mul, accuracy="close", shapes=_SCALED)
def div_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant divisor, then a constant factor are one factor."""
    _check_floats(x, a, b)
    check_factors(x, _inverse(b), as_double(a))
    return x * (a / b)


@rule(_div_div, accuracy="close", shapes=_SCALED)
def div_div(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constant divisors in a row the product is one divisor."""
    _check_floats(x, a, b)
    check_factors(x, _inverse(a), _inverse(b))
    return x / (a * b)


@rule(_mul_div, accuracy="fast", shapes=_SCALED)
def mul_div_finite(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant factor, then a constant divisor are one factor, if nothing overflows in between."""
    return _scaled(x, a, b, finite=True)


@rule(_mul_mul, accuracy="fast", shapes=_SCALED)
def mul_mul_finite(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constant factors in a row the product is one factor, if nothing overflows in between."""
    _check_floats(x, a, b)
    check_factors(x, as_double(a), as_double(b), finite=True)
    return x * (a * b)


@rule(_quotient_scaled, accuracy="close", shapes={"a": "", "b": "+"})
def quotient_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant factor of a constant divided by x multiplies the constant."""
    _check_floats(x, a, b)
    # The first quotient may overflow, so the second factor must not make it smaller.
    require(bool(np.all(np.abs(as_double(b)) >= 1)), "the quotient may overflow where the smaller one does not")
    check_factors(x, as_double(a), as_double(b))
    return (a * b) / x


@rule(_quotient_divided, accuracy="close", shapes={"a": "", "b": "+"})
def quotient_div(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant divisor of a constant divided by x divides the constant."""
    _check_floats(x, a, b)
    require(bool(np.all(np.abs(as_double(b)) <= 1)), "the quotient may overflow where the smaller one does not")
    check_factors(x, as_double(a), _inverse(b))
    return (a / b) / x


def _over_root(x: Tensor, y: Tensor) -> Tensor:
    root = op.Sqrt(x)
    return y * (1 / root) | y * op.Reciprocal(root)


@rule(_over_root, accuracy="close", single_use=False)
def over_root(x: Tensor, y: Tensor) -> Tensor:
    """Times the reciprocal of a root is divided by it."""
    # The root of the least number is large enough for its reciprocal not to overflow.
    require(x.dtype.is_floating_point(), "the reciprocal of an integer is rounded")
    return y / op.Sqrt(x)


@rule(lambda x, y: y * (1 / x) | y * op.Reciprocal(x), accuracy="fast")
def times_reciprocal(x: Tensor, y: Tensor) -> Tensor:
    """Times the reciprocal of a float is divided by it, unless the reciprocal overflows."""
    require(x.dtype.is_floating_point(), "the reciprocal of an integer is rounded")
    return y / x


@rule(lambda x, y: y / op.Reciprocal(x) | y / (1 / x), accuracy="fast")
def over_reciprocal(x: Tensor, y: Tensor) -> Tensor:
    """Divided by the reciprocal of a float is multiplied by it, unless the reciprocal overflows."""
    require(x.dtype.is_floating_point(), "the reciprocal of an integer is rounded")
    return y * x


def _scaled(x: Tensor, a: Tensor, b: Tensor, *, finite: bool) -> Tensor:
    _check_floats(x, a, b)
    check_factors(x, as_double(a), _inverse(b), finite=finite)
    return x * (a / b)


def _check_floats(x: Tensor, a: Tensor, b: Tensor) -> None:
    check_meeting(x, a, b)
    require(x.dtype.is_floating_point(), "the quotient of integers is rounded")


def _inverse(c: Tensor) -> np.ndarray:
    array: np.ndarray = as_double(c)
    require(bool(np.all(array != 0)), "a divisor is 0")
    return 1 / array
