"""Powers with a constant exponent that are plainer operators."""

from __future__ import annotations

from graphopt import Node, Tensor, op, require, rule


def _square(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.Pow(x, 2))


@rule(_square, accuracy="close", single_use=False, bounded=True)
def square(x: Tensor, n: Node) -> Tensor:
    """A float to the power of 2 is its product with itself."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    # Runtimes know the parts of a normalization by this power, where it is not one operator already.
    require(all(r.op != "ReduceMean" for r, _ in n.outputs[0].uses()), "it is the variance of a normalization")
    return x * x


@rule(lambda x: x**0.5, accuracy="close", single_use=False, bounded=True)
def root(x: Tensor) -> Tensor:
    """What is never negative, to the power of one half, is its root."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    require(x.range[0] >= 0, "an element may be −∞, whose power is ∞ and whose root is NaN")
    return op.Sqrt(x)


@rule(lambda x: x**0.5, accuracy="fast", single_use=False, bounded=True)
def root_finite(x: Tensor) -> Tensor:
    """A finite float to the power of one half is its root."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    return op.Sqrt(x)


@rule(lambda x: x**-1, accuracy="close", single_use=False, bounded=True)
def inverse(x: Tensor) -> Tensor:
    """A float to the power of −1 is its reciprocal."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    return op.Reciprocal(x)


@rule(lambda x: op.Sqrt(x * x) | op.Sqrt(x**2), accuracy="fast")
def root_of_square(x: Tensor) -> Tensor:
    """The root of a square that neither overflows nor underflows is the absolute value."""
    require(x.dtype.is_floating_point(), "powers of integers are computed in floats")
    return op.Abs(x)


@rule(lambda x: op.Log(op.Exp(x)), accuracy="fast")
def log_of_exp(x: Tensor) -> Tensor:
    """The logarithm of an exponential that neither overflows nor underflows is its operand."""
    return x
