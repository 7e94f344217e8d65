"""Arithmetic and logic: neutral operands, operators that undo or repeat themselves, constants that meet."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.simplify.meeting import as_double, check_factors, check_meeting, check_terms

from graphopt import Const, DType, Node, Tensor, op, require, rule

_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")


@rule(lambda x: x * 1, lambda x: x / 1, accuracy="exact", single_use=False)
def mul_one(x: Tensor) -> Tensor:
    """Multiplying or dividing by 1 changes nothing."""
    return x


@rule(lambda x: x**1, accuracy="exact", single_use=False)
def pow_one(x: Tensor) -> Tensor:
    """A float to the power of 1 is that float."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    return x


@rule(lambda x: x - 0, lambda x: x + -0.0, accuracy="exact", single_use=False)
def sub_zero(x: Tensor) -> Tensor:
    """Subtracting 0, or adding −0, changes nothing; for integers both are the same."""
    return x


@rule(lambda x: x + 0, lambda x: x - -0.0, accuracy="close", single_use=False)
def add_zero(x: Tensor) -> Tensor:
    """Adding 0 changes nothing but a −0, which becomes 0."""
    return x


@rule(lambda x: op.Neg(op.Neg(x)), lambda x: op.Not(op.Not(x)), accuracy="exact", single_use=False)
def double_negation(x: Tensor) -> Tensor:
    """Twice negated is as before, for numbers and for truth values."""
    return x


def _twice(x: Tensor, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.any(*_IDEMPOTENT)(inner.bind(op.any(*_IDEMPOTENT)(x))))


@rule(_twice, accuracy="exact")
def idempotent(x: Tensor, inner: Node, outer: Node) -> Tensor:
    """Abs, Ceil, Floor, Relu, Round and Sign do no more the second time."""
    require(inner.op == outer.op, "the operators differ")
    return op.any(outer.op)(x)


@rule(lambda x: op.Abs(op.Neg(x)), accuracy="exact")
def abs_neg(x: Tensor) -> Tensor:
    """The absolute value does not depend on the sign."""
    return op.Abs(x)


@rule(lambda x: op.any("Sum", "Max", "Min", "Mean")(x), accuracy="exact", single_use=False)
def single_operand(x: Tensor) -> Tensor:
    """The sum, mean, largest and smallest of one tensor is that tensor."""
    return x


@rule(lambda x, y: op.Where(True, x, y), lambda x, y: op.Where(False, y, x), accuracy="exact", single_use=False)
def where_constant(x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """A Where whose condition is the same everywhere takes one operand."""
    return x


@rule(lambda c, x: op.Where(c, x, x), accuracy="exact", single_use=False)
def where_same(c: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """A Where between a tensor and itself takes that tensor."""
    return x


@rule(lambda c, x, y: op.Where(op.Not(c), x, y), accuracy="exact")
def where_not(c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A Where on the negated condition takes its operands the other way round."""
    return op.Where(c, y, x)


@rule(
    lambda x: op.And(x, True), lambda x: op.Or(x, False), lambda x: op.Xor(x, False), accuracy="exact", single_use=False
)
def logic_neutral(x: Tensor) -> Tensor:
    """And with true, Or and Xor with false change nothing."""
    return x


def _mul_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    return x * a * b


def _add_add(x: Tensor, a: Const, b: Const) -> Tensor:
    return x + a + b


def _sub_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    return x - a - b


def _div_div(x: Tensor, c: Const) -> Tensor:
    return x / c


@rule(_mul_mul, accuracy="close")
def mul_mul(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constant factors in a row the product is one factor."""
    check_meeting(x, a, b)
    if x.dtype.is_floating_point():
        check_factors(x, as_double(a), as_double(b))
    return x * (a * b)


@rule(_add_add, accuracy="close")
def add_add(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of two constant terms in a row the sum is one term."""
    check_meeting(x, a, b)
    check_terms(x, as_double(a), as_double(b))
    return x + (a + b)


@rule(_sub_sub, accuracy="close")
def sub_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    """To subtract two constants in a row is to subtract their sum."""
    check_meeting(x, a, b)
    check_terms(x, as_double(a), as_double(b))
    return x - (a + b)


@rule(_div_div, accuracy="exact", single_use=False, bounded=True, shapes={"c": ""})
def div_to_mul(x: Tensor, c: Const) -> Tensor:
    """Dividing by a power of 2 is multiplying by its inverse."""
    require(x.dtype in (DType.FLOAT16, DType.FLOAT, DType.DOUBLE), "only floats have inverses")
    number = c.scalar
    require(math.isfinite(number) and abs(math.frexp(number)[0]) == 0.5, "the divisor is no power of 2")
    tiny = float(np.finfo(x.dtype.numpy()).tiny)
    require(abs(number) >= tiny and abs(1 / number) >= tiny, "the inverse is not a normal number")
    return x * (1 / c)
