"""Rules as an author would type them: mypy --strict and pyright have nothing to say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt import (
    ANY,
    Attr,
    Const,
    Domain,
    Node,
    Rule,
    RulePass,
    Tensor,
    approx,
    many,
    op,
    product,
    require,
    rule,
    scaled,
    total,
)

ms = Domain("com.microsoft")


@rule(lambda x: x * 1, accuracy="exact", single_use=False)
def mul_one(x: Tensor) -> Tensor:
    """Multiplying by one changes nothing."""
    return x


@rule(lambda x: product(x, 0.5, 1 + op.Erf(scaled(x, 1 / math.sqrt(2)))))
def gelu_erf(x: Tensor) -> Tensor:
    """The erf form of GELU is the Gelu operator."""
    return op.Gelu(x)


def conv_then_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: Attr[float], conv: Node,
) -> Tensor:  # fmt: skip
    return op.BatchNormalization(conv.bind(op.Conv(x, w, b, ...)), gamma, beta, mean, var, epsilon=eps, momentum=ANY)


@rule(conv_then_bn, shapes={"x": "N C H W", "w": "K C 3 3"}, attrs={"eps": 1e-3})
def conv_bn(
    x: Tensor, w: Const, b: Const | None, gamma: Const, beta: Const, mean: Const, var: Const,
    eps: float, conv: Node,
) -> Tensor:  # fmt: skip
    """BatchNormalization after Conv is a per-channel affine map: fold it into the weights."""
    k = gamma / op.Sqrt(var + eps)
    per_channel = op.Reshape(k, [-1] + [1] * (w.rank - 1))
    bias = beta - mean * k if b is None else (b - mean) * k + beta
    return op.Conv(x, w * per_channel, bias, **conv.attrs)


def first_form(x: Tensor, c: Const | None) -> Tensor:
    return op.Relu(x) | op.Relu(total(x, approx(1.0, rtol=1e-3)))


def second_form(x: Tensor, c: Const | None) -> Tensor:
    return op.Clip(x, c)


@rule(first_form, second_form, bounded=True)
def two_forms(x: Tensor, c: Const | None) -> Tensor:
    """Two left sides of one rule."""
    require(c is None or c.scalar == 0, "the bound is not zero")
    require(x.rank == 2 and x.shape[0] == 1 and not x.is_const, "no row")
    return ms.FastGelu(x)


def halves(x: Tensor, s: Const) -> tuple[Tensor, Tensor]:
    a, b = op.Split(op.Relu(x), s, nout=2, axis=0)
    return a, op.Neg(b)


@rule(halves)
def split_relu(x: Tensor, s: Const) -> tuple[Tensor, Tensor]:
    """Several outputs."""
    parts = op.Split(x, s, axis=0, nout=2)
    return parts[0], parts[1]


def relus(xs: list[Tensor], axis: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, each=op.Relu), axis=axis)


@rule(relus, bounded=True)
def concat_relu(xs: list[Tensor], axis: int) -> Tensor:
    """Operands in any number."""
    require(len(xs) > 1 and all(x.rank == 2 for x in xs), "nothing to join")
    return op.Relu(op.Concat(*xs, axis=axis))


@dataclass(frozen=True)
class MyRules(RulePass):
    """A pack of rules."""

    name: ClassVar[str] = "mine"
    pack: ClassVar[tuple[Rule[...], ...]] = (mul_one, gelu_erf, conv_bn, two_forms, split_relu, concat_relu)
