"""Signs: Neg that meets a constant, a sum, a product or a difference; absolute values of what has no sign."""

from __future__ import annotations

from graphopt import Const, DType, Tensor, op, require, rule

_SIGNED = frozenset([DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.INT32, DType.INT64])


@rule(lambda x: x * -1, accuracy="exact", single_use=False, bounded=True)
def mul_minus_one(x: Tensor) -> Tensor:
    """Times −1 is the opposite."""
    _require_kernel(x)
    return op.Neg(x)


@rule(lambda x: x / -1, accuracy="exact", single_use=False, bounded=True)
def div_minus_one(x: Tensor) -> Tensor:
    """A float divided by −1 is its opposite."""
    require(x.dtype.is_floating_point(), "the least integer has no opposite, and cannot be divided by −1")
    _require_kernel(x)
    return op.Neg(x)


@rule(lambda x: 0 - x, accuracy="close", single_use=False, bounded=True)
def zero_minus(x: Tensor) -> Tensor:
    """What is missing to 0 is the opposite, up to the sign of a zero."""
    _require_kernel(x)
    return op.Neg(x)


def _neg_mul(x: Tensor, a: Const) -> Tensor:
    return -(x * a) | -x * a


@rule(_neg_mul, accuracy="exact")
def neg_mul(x: Tensor, a: Const) -> Tensor:
    """The opposite of a multiple is one of the opposite factor."""
    require(not x.is_const, "everything is constant")
    return x * -a


def _neg_div(x: Tensor, a: Const) -> Tensor:
    return -(x / a) | -x / a


@rule(_neg_div, accuracy="exact")
def neg_div(x: Tensor, a: Const) -> Tensor:
    """The opposite of a fraction is one with the opposite divisor."""
    _require_float_fraction(x)
    return x / -a


def _neg_quotient(x: Tensor, a: Const) -> Tensor:
    return -(a / x) | a / -x


@rule(_neg_quotient, accuracy="exact")
def neg_quotient(x: Tensor, a: Const) -> Tensor:
    """The opposite of a constant divided by x is the opposite constant divided by x."""
    _require_float_fraction(x)
    return -a / x


@rule(lambda x, y: -x * -y, accuracy="exact")
def neg_times_neg(x: Tensor, y: Tensor) -> Tensor:
    """The product of opposites is that of the operands."""
    return x * y


@rule(lambda x, y: -x / -y, accuracy="exact")
def neg_over_neg(x: Tensor, y: Tensor) -> Tensor:
    """The quotient of opposites is that of the floats themselves."""
    require(x.dtype.is_floating_point(), "the least integer has no opposite")
    return x / y


@rule(lambda x, y: x + -y, accuracy="exact")
def add_neg(x: Tensor, y: Tensor) -> Tensor:
    """Adding the opposite is subtracting."""
    return x - y


@rule(lambda x, y: x - -y, accuracy="exact")
def sub_neg(x: Tensor, y: Tensor) -> Tensor:
    """Subtracting the opposite is adding."""
    return x + y


@rule(lambda x, y: -(x - y), accuracy="close")
def neg_sub(x: Tensor, y: Tensor) -> Tensor:
    """The opposite of a difference is the difference the other way round, up to the sign of a zero."""
    return y - x


@rule(lambda x: op.Abs(x), accuracy="close", single_use=False)
def abs_noop(x: Tensor) -> Tensor:
    """The absolute value of what is never negative is that value, up to the sign of a zero."""
    require(x.range[0] >= 0, "an element may be negative")
    return x


@rule(lambda x: op.Abs(x * x), accuracy="exact", single_use=False)
def abs_square(x: Tensor) -> Tensor:
    """A square has no sign."""
    require(x.dtype.is_floating_point(), "the square of an integer may wrap around")
    return x * x


def _square_abs(x: Tensor) -> Tensor:
    a = op.Abs(x)
    return a * a


@rule(_square_abs, accuracy="exact")
def square_abs(x: Tensor) -> Tensor:
    """The square of the absolute value is the square."""
    return x * x


@rule(lambda x: op.Relu(x), accuracy="close", single_use=False)
def relu_noop(x: Tensor) -> Tensor:
    """Relu of what is never negative is what it is given, up to the sign of a zero."""
    require(x.range[0] >= 0, "an element may be negative")
    return x


def _require_float_fraction(x: Tensor) -> None:
    require(x.dtype.is_floating_point(), "the least integer has no opposite")
    require(not x.is_const, "everything is constant")


def _require_kernel(x: Tensor) -> None:
    require(x.dtype in _SIGNED, "the dtype has no sign, or runtimes have no kernel of Neg for it")
