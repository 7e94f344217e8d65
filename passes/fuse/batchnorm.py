"""BatchNormalization next to what is affine in each channel as well."""

from __future__ import annotations

from graphopt_passes.fuse.affine import batch_norm, dims, factor, per_channel, require_finite
from graphopt_passes.fuse.again import again

from graphopt import ANY, Attr, Const, Node, Tensor, op, require, rule

_BN = {"x": "N C H", "gamma": "C", "beta": "C", "mean": "C", "var": "+C"}


def _then_affine(
    x: Tensor, gamma: Const, beta: Const, mean: Const, var: Const, bn: Node,
    mul: Const, div: Const, add: Const, sub: Const,
) -> Tensor:  # fmt: skip
    y = bn.bind(op.BatchNormalization(x, gamma, beta, mean, var, ...))
    return y * mul | y / div | y + add | y - sub


@rule(_then_affine, shapes={**_BN, "mul": "C 1", "div": "+C 1", "add": "C 1", "sub": "C 1"})
def bn_affine(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, bn: Node,
    mul: Tensor | None, div: Tensor | None, add: Tensor | None, sub: Tensor | None,
) -> Tensor:  # fmt: skip
    """A constant factor or summand per channel after BatchNormalization changes its parameters."""
    _require_inference(bn, x, gamma, beta)
    channels = dims(gamma)[0]
    if mul is not None or div is not None:
        scale = factor(mul, div, 1, x, channels)
        return again(bn, x, gamma * scale, beta * scale, mean, var)
    shift = per_channel(add if add is not None else sub, 1, x, channels)  # type: ignore[arg-type]
    return again(bn, x, gamma, beta + shift if sub is None else beta - shift, mean, var)


def _after_affine(
    x: Tensor, gamma: Const, beta: Const, mean: Const, var: Const, bn: Node, eps: Attr[float],
    mul: Const, div: Const, add: Const, sub: Const,
) -> Tensor:  # fmt: skip
    y = x * mul | x / div | x + add | x - sub
    return bn.bind(op.BatchNormalization(y, gamma, beta, mean, var, epsilon=eps, momentum=ANY))


@rule(_after_affine, shapes={**_BN, "mul": "C 1", "div": "+C 1", "add": "C 1", "sub": "C 1"})
def affine_bn(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, bn: Node, eps: float,
    mul: Tensor | None, div: Tensor | None, add: Tensor | None, sub: Tensor | None,
) -> Tensor:  # fmt: skip
    """A constant factor or summand per channel before BatchNormalization changes its parameters."""
    _require_inference(bn, x, gamma, beta)
    require_finite(gamma, beta, mean, var)
    channels = dims(gamma)[0]
    constant = next(c for c in (mul, div, add, sub) if c is not None)
    single = all(d == 1 for d in constant.shape)
    require(single or x.shape[1] == channels, "the constant may raise the number of channels")
    if mul is not None or div is not None:
        scale = factor(mul, div, 1, x, channels)
        # The mean is one of scaled numbers: it is taken out of the input, and into the offset.
        offset = beta - mean * gamma / op.Sqrt(var + eps)
        return again(bn, x, gamma * scale, offset, mean * 0.0, var)
    shift = per_channel(constant, 1, x, channels)
    return again(bn, x, gamma, beta, mean - shift if sub is None else mean + shift, var)


def _twice(
    x: Tensor, gamma: Const, beta: Const, mean: Const, var: Const, first: Node,
    gamma2: Const, beta2: Const, mean2: Const, var2: Const, eps2: Attr[float], then: Node,
) -> Tensor:  # fmt: skip
    y = first.bind(op.BatchNormalization(x, gamma, beta, mean, var, ...))
    return then.bind(op.BatchNormalization(y, gamma2, beta2, mean2, var2, epsilon=eps2, momentum=ANY))


@rule(_twice, shapes={**_BN, "gamma2": "C", "beta2": "C", "mean2": "C", "var2": "+C"})
def bn_bn(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, first: Node,
    gamma2: Tensor, beta2: Tensor, mean2: Tensor, var2: Tensor, eps2: float, then: Node,
) -> Tensor:  # fmt: skip
    """Of two BatchNormalizations in a row the second one changes the parameters of the first."""
    _require_inference(first, x, gamma, beta)
    require_finite(gamma, beta, mean, var)
    scale, shift = batch_norm(then, gamma2, beta2, mean2, var2, eps2, like=gamma)
    return again(first, x, gamma * scale, beta * scale + shift, mean, var)


def _alone(x: Tensor, gamma: Const, var: Const, eps: Attr[float], bn: Node) -> Tensor:
    return bn.bind(op.BatchNormalization(x, gamma, 0.0, 0.0, var, epsilon=eps, momentum=ANY))


@rule(_alone, bounded=True, shapes={"x": "N C H", "gamma": "C", "var": "+C"})
def bn_mul(x: Tensor, gamma: Tensor, var: Tensor, eps: float, bn: Node) -> Tensor:
    """A BatchNormalization that shifts nothing is a factor per channel."""
    _require_inference(bn, x, gamma, gamma)
    require_finite(gamma, var)
    return x * op.Reshape(gamma / op.Sqrt(var + eps), [-1] + [1] * (x.rank - 2))


def _require_inference(bn: Node, x: Tensor, gamma: Tensor, beta: Tensor) -> None:
    require(bn.version >= 7, "before opset 7 BatchNormalization means something else")
    require(not bn.attr("training_mode", 0), "BatchNormalization is in training")
    require(sum(bool(o.name) for o in bn.outputs) == 1, "BatchNormalization also gives its statistics")
    require({gamma.dtype, beta.dtype} == {x.dtype}, "BatchNormalization has parameters of another dtype")
    require(x.rank >= 2 and gamma.rank == 1, "the input has no channels")
