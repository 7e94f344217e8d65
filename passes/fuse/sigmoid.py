"""Sigmoid and Softplus, and what is made of them, written out in exponentials."""

from __future__ import annotations

from graphopt_passes.fuse.attribute import attribute, require_kernel

from graphopt import Const, DType, Node, Tensor, op, require, rule, total

_X = {"x": "f32: N C"}


def _sigmoid(x: Tensor) -> Tensor:
    below = 1 + op.Exp(-x)
    tanh = op.Tanh(x * 0.5 | x / 2)
    return 1 / below | op.Reciprocal(below) | (tanh + 1) * 0.5 | (tanh + 1) / 2 | tanh * 0.5 + 0.5


@rule(_sigmoid, shapes=_X)
def sigmoid(x: Tensor) -> Tensor:
    """One over one plus the exponential of -x is Sigmoid, and so is half of one plus tanh of x/2."""
    require(x.dtype in (DType.FLOAT, DType.DOUBLE, DType.FLOAT16), "runtimes have no kernel for the dtype")
    return op.Sigmoid(x)


def _of_exp(x: Tensor) -> Tensor:
    e = op.Exp(x)
    return e / (1 + e)


@rule(_of_exp, accuracy="fast", shapes=_X)
def sigmoid_of_exp(x: Tensor) -> Tensor:
    """The exponential over one plus itself is Sigmoid, which does not overflow."""
    require(x.dtype in (DType.FLOAT, DType.DOUBLE, DType.FLOAT16), "runtimes have no kernel for the dtype")
    return op.Sigmoid(x)


@rule(lambda x: x / (1 + op.Exp(-x)), shapes=_X)
def swish_of_exp(x: Tensor) -> Tensor:
    """x over one plus the exponential of -x is x times Sigmoid."""
    require(x.dtype in (DType.FLOAT, DType.DOUBLE, DType.FLOAT16), "runtimes have no kernel for the dtype")
    return x * op.Sigmoid(x)


def _swish(x: Tensor, alpha: Const, sigmoid: Node) -> Tensor:
    return x * sigmoid.bind(op.Sigmoid(x)) | x * sigmoid.bind(op.Sigmoid(x * alpha))


@rule(_swish, shapes={"x": "N C", "alpha": ""})
def swish(x: Tensor, alpha: Tensor | None, sigmoid: Node) -> Tensor:
    """x times the sigmoid of a multiple of x is Swish."""
    require(sigmoid.version < 25, "ONNX Runtime 1.31 does not run Swish from opset 25 on")
    return op.Swish(x, alpha=1.0 if alpha is None else attribute(alpha))


def _guarded(x: Tensor, limit: Const) -> Tensor:
    return op.Where(op.Greater(x, limit), x, op.Softplus(x))


def _mish(x: Tensor, limit: Const) -> Tensor:
    return x * op.Tanh(op.Softplus(x) | _guarded(x, limit))


@rule(_mish, shapes={"x": "N C", "limit": ""})
def mish(x: Tensor, limit: Tensor | None) -> Tensor:
    """x times tanh of Softplus is Mish, also if Softplus is only computed for numbers below 20."""
    _require_limit(limit)
    return op.Mish(x)


def _softplus(x: Tensor, limit: Const) -> Tensor:
    stable = total(op.Relu(x) | op.Max(x, 0), op.Softplus(-op.Abs(x)) | op.Log(1 + op.Exp(-op.Abs(x))))
    return op.Log(1 + op.Exp(x)) | stable | _guarded(x, limit)


@rule(_softplus, accuracy="fast", shapes={"x": "N C", "limit": "+"})
def softplus(x: Tensor, limit: Tensor | None) -> Tensor:
    """The logarithm of one plus the exponential is Softplus, which does not overflow."""
    # Runtimes disagree: some compute Softplus as it is defined, which overflows where a guarded spelling does not.
    require_kernel(x)
    _require_limit(limit)
    return op.Softplus(x)


@rule(lambda x: x / (1 + op.Abs(x)), shapes={"x": "N C"})
def softsign(x: Tensor) -> Tensor:
    """x over one plus its absolute value is Softsign."""
    require_kernel(x)
    return op.Softsign(x)


def _require_limit(limit: Tensor | None) -> None:
    """From 20 on, Softplus of a number is that number, rounded to a float32."""
    require(limit is None or limit.scalar >= 20, "numbers below 20 are left as they are")
