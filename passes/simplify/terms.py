"""Constant terms that meet, also behind a minus."""

from __future__ import annotations

from graphopt_passes.simplify.meeting import as_double, check_meeting, check_terms

from graphopt import Const, Tensor, op, require, rule


def _add_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    return x + a - b


def _sub_add(x: Tensor, a: Const, b: Const) -> Tensor:
    return x - b + a


def _minuend_add(x: Tensor, a: Const, b: Const) -> Tensor:
    return a - x + b


def _minuend_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    return a - x - b


def _minus_minuend(x: Tensor, a: Const, b: Const) -> Tensor:
    return b - (a - x)


def _minus_sum(x: Tensor, a: Const, b: Const) -> Tensor:
    return b - (x + a)


def _minus_difference(x: Tensor, a: Const, b: Const) -> Tensor:
    return b - (x - a)


@rule(_add_sub, _sub_add, accuracy="close", shapes={"a": "", "b": ""})
def add_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    """Of a constant that is added and one that is subtracted the difference is one term."""
    _check(x, a, b, -1)
    return x + (a - b)


@rule(_minuend_add, accuracy="close")
def minuend_add(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant added to a constant minus x is added to the constant."""
    _check(x, a, b, 1)
    return (a + b) - x


@rule(_minuend_sub, accuracy="close", shapes={"a": "", "b": ""})
def minuend_sub(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant subtracted from a constant minus x is subtracted from the constant."""
    _check(x, a, b, -1)
    return (a - b) - x


@rule(_minus_minuend, accuracy="close", shapes={"a": "", "b": ""})
def minus_minuend(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant minus (a constant minus x) is x plus the difference of the constants."""
    _check(x, a, b, -1)
    return x + (b - a)


@rule(_minus_sum, accuracy="close", shapes={"a": "", "b": ""})
def minus_sum(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant minus (x plus a constant) is the difference of the constants minus x."""
    _check(x, a, b, -1)
    return (b - a) - x


@rule(_minus_difference, accuracy="close")
def minus_difference(x: Tensor, a: Const, b: Const) -> Tensor:
    """A constant minus (x minus a constant) is the sum of the constants minus x."""
    _check(x, a, b, 1)
    return (b + a) - x


def _neg_add(x: Tensor, a: Const) -> Tensor:
    return -(x + a)


@rule(_neg_add, accuracy="close")
def neg_add(x: Tensor, a: Const) -> Tensor:
    """The opposite of x plus a constant is the opposite constant minus x, up to the sign of a zero."""
    require(not x.is_const, "everything is constant")
    return -a - x


@rule(lambda x, y: op.Sum(x, y), accuracy="exact", single_use=False, bounded=True)
def sum_of_two(x: Tensor, y: Tensor) -> Tensor:
    """A Sum of two is an Add."""
    return x + y


def _check(x: Tensor, a: Tensor, b: Tensor, sign: int) -> None:
    """Decline where the constants, the second with this sign, cancel: then digits of x were lost that come back."""
    check_meeting(x, a, b)
    if x.dtype.is_floating_point():
        check_terms(x, as_double(a), sign * as_double(b))
