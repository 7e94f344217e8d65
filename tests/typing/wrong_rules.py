"""Rules with mistakes that a type checker finds: each line that is marked, and no other, is an error for both."""

from __future__ import annotations

from graphopt import Attr, Const, Node, RulePass, Tensor, many, op, product, require, rule


def pattern(x: Tensor, w: Const) -> Tensor:
    return op.MatMul(x, w)


@rule(pattern)  # wrong: other parameter names
def other_names(x: Tensor, v: Const) -> Tensor:
    return x


@rule(pattern)  # wrong: one parameter less
def fewer(x: Tensor) -> Tensor:
    return x


@rule(pattern)  # wrong: no tensor comes back
def number(x: Tensor, w: Const) -> int:
    return 1


def with_attribute(x: Tensor, axis: Attr[int]) -> Tensor:
    return op.Softmax(x, axis=axis)


@rule(with_attribute)  # wrong: the attribute is an int
def other_type(x: Tensor, axis: str) -> Tensor:
    return op.Relu(x)


@rule(pattern, accuracy="exakt")  # wrong: no such class
def misspelt(x: Tensor, w: Const) -> Tensor:
    return x


@rule(pattern, single=True)  # wrong: no such argument
def unknown_argument(x: Tensor, w: Const) -> Tensor:
    return x


def uses_facts(x: Tensor, n: Node) -> Tensor:
    require(x.rnak == 2)  # wrong: no such fact, and no reason
    return n.bind(op.Relu(x)).shape  # wrong: a shape is no tensor


def compares(x: Tensor) -> Tensor:
    return product(x, 2) + x.rank.upper()  # wrong: a rank is an int


def listed(xs: list[Tensor]) -> Tensor:
    return op.Concat(*many(xs, every=op.Relu), axis=0)  # wrong: it is called each


class Pack(RulePass):
    name = 3  # wrong: a name is a str
