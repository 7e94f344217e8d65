"""Constants that become attributes, and the dtypes that operators have kernels for."""

from __future__ import annotations

import numpy as np

from graphopt import DType, Tensor, require


def attribute(constant: Tensor) -> float:
    """A number as an attribute, which is a float32."""
    number = constant.scalar
    require(np.float32(number) == number, "an attribute does not hold the constant")
    return number


def require_kernel(x: Tensor) -> None:
    """Decline the dtypes for which ONNX Runtime can run the arithmetic, but not the operator in its place."""
    require(x.dtype.is_floating_point(), "the operator is for floats")
    require(x.dtype not in (DType.DOUBLE, DType.BFLOAT16), "runtimes have no kernel of the operator for the dtype")
