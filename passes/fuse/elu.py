"""Functions that are exponential below zero: Elu and its relatives."""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.attribute import attribute, require_kernel

from graphopt import Attr, Const, DType, Tensor, op, require, rule

_X = {"x": "f32: N C"}


def _elu(x: Tensor, alpha: Const) -> Tensor:
    positive = op.Greater(x, 0) | op.GreaterOrEqual(x, 0)
    below = op.Exp(x) - 1 | op.Exp(x) + -1 | op.Exp(op.Min(x, 0)) - 1 | op.Exp(op.Min(x, 0)) + -1
    below = below | op.Exp(op.Where(positive, 0, x)) - 1
    whole = op.Relu(x) | op.Max(x, 0)
    return (
        op.Where(positive, x, below * alpha)
        | op.Where(positive, x, below)
        | whole + op.Min(below, 0)
        | whole + op.Min(below * alpha, 0)
    )


@rule(_elu, shapes={**_X, "alpha": "+"})
def elu(x: Tensor, alpha: Tensor | None) -> Tensor:
    """x where it is positive, and else a multiple of the exponential minus one, is Elu."""
    require_kernel(x)
    number = 1.0 if alpha is None else attribute(alpha)
    require(0 < number < np.inf, "the multiple is not positive")
    return op.Elu(x, alpha=number)


def _celu(x: Tensor, a: Const, over: Const) -> Tensor:
    whole = op.Relu(x) | op.Max(x, 0)
    return whole + op.Min(a * (op.Exp(x * over | x / a) - 1), 0)


@rule(_celu, shapes={**_X, "a": "+", "over": "+"})
def celu(x: Tensor, a: Tensor, over: Tensor | None) -> Tensor:
    """The positive part of x plus a·(exp(x/a) - 1) where that is negative is Celu."""
    require(x.dtype == DType.FLOAT, "runtimes have no kernel of the operator for the dtype")
    alpha = attribute(a)
    require(0 < alpha < np.inf, "the multiple is not positive")
    require(over is None or over.scalar == np.float32(1 / alpha), "the exponential is of another multiple")
    return op.Celu(x, alpha=alpha)


def _scaled_elu(x: Tensor, a: Attr[float], g: Const) -> Tensor:
    return op.Elu(x, alpha=a) * g


@rule(_scaled_elu, shapes={**_X, "g": "+"}, attrs={"a": 1.5})
def selu(x: Tensor, a: float, g: Tensor) -> Tensor:
    """A number times Elu is Selu."""
    require_kernel(x)
    gamma = attribute(g)
    require(0 < gamma < float("inf"), "the factor is not positive")
    return op.Selu(x, alpha=a, gamma=gamma)
