"""Activation functions that ONNX Runtime knows, with the bias before them."""

from __future__ import annotations

import numpy as np
from graphopt_passes.contrib.operators import ms, require_float, require_vector
from graphopt_passes.fuse.activation import gelu_erf, gelu_tanh

from graphopt import Attr, Const, Tensor, op, require, rule

_X = {"x": "f32: N C", "bias": "C"}


@rule(*gelu_erf.sources, shapes={"x": "f32: N C"})
def gelu(x: Tensor) -> Tensor:
    """Half of x times one plus the error function of x over √2 is Gelu of com.microsoft, before opset 20."""
    require_float(x)
    return ms.Gelu(x)


@rule(*gelu_tanh.sources, shapes={"x": "f32: N C"})
def fast_gelu(x: Tensor) -> Tensor:
    """Half of x times one plus tanh of √(2/π)·(x + 0.044715·x³) is FastGelu, before opset 20."""
    require_float(x)
    return ms.FastGelu(x)


def _gelu_of_sum(x: Tensor, bias: Tensor) -> Tensor:
    return op.Gelu(x + bias) | ms.Gelu(x + bias)


@rule(_gelu_of_sum, shapes=_X)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of x plus a vector is BiasGelu."""
    require_float(x)
    require_vector(bias, x)
    return ms.BiasGelu(x, bias)


def _fast_gelu_of_sum(x: Tensor, bias: Tensor) -> Tensor:
    return op.Gelu(x + bias, approximate="tanh") | ms.FastGelu(x + bias)


@rule(_fast_gelu_of_sum, shapes=_X)
def bias_fast_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The tanh approximation of Gelu of x plus a vector is FastGelu with a bias."""
    require_float(x)
    require_vector(bias, x)
    return ms.FastGelu(x, bias)


def _quick_gelu(x: Tensor, factor: Const, alpha: Attr[float]) -> Tensor:
    return x * op.Sigmoid(x * factor) | x * op.Sigmoid(x) | op.Swish(x, alpha=alpha)


@rule(_quick_gelu, shapes={"x": "f32: N C", "factor": ""}, attrs={"alpha": 1.5}, bounded=True)
def quick_gelu(x: Tensor, factor: Tensor | None, alpha: float | None) -> Tensor:
    """x times the sigmoid of a multiple of x is QuickGelu."""
    require_float(x)
    number = alpha if alpha is not None else 1.0 if factor is None else factor.scalar
    require(np.isfinite(number), "the factor is not finite")
    return ms.QuickGelu(x, alpha=float(number))
