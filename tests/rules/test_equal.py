"""Equal expressions: what is computed once, and what only looks equal."""

from __future__ import annotations

import pytest
from graphopt_passes.cleanup import Cleanup

from tests.bench.micro.case import operators
from tests.rules.helpers import assert_same, build, rewrite

X = "(float[2,4] x, float[2,4] z) => (float[2,4] y)"
JOIN = " c = Exp(a) y = Mul(c, b)"


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("a = Sub(x, z) b = Sub(z, x)", "Sub"),
        ("a = Max(x, z) b = Max(z, x)", "Max"),  # of 0 and -0 the first may be taken
        ("a = RandomNormalLike(x) b = RandomNormalLike(x)", "RandomNormalLike"),
        ("a = Softmax<axis = 0>(x) b = Softmax(x)", "Softmax"),
        ("a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu(x)", "LeakyRelu"),
    ],
)
def test_computed_twice(body: str, op: str) -> None:
    outcome = rewrite(build(X, body + JOIN), Cleanup())
    assert outcome.ops.count(op) == 2


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("a = Mul(x, z) b = Mul(z, x)", "Mul"),
        ("a = Softmax<axis = -1>(x) b = Softmax<axis = 1>(x)", "Softmax"),
        ("t = Transpose(x) u = Transpose<perm = [1, 0]>(x) a = Transpose(t) b = Transpose(u)", "Transpose"),
        ("a = Concat<axis = 0>(x) b = Concat<axis = -2>(x)", "Concat"),
    ],
)
def test_computed_once(body: str, op: str) -> None:
    model = build(X, body + JOIN)
    outcome = rewrite(model, Cleanup())
    before = operators(model)[op]
    assert outcome.ops.count(op) == before - before // 2
    assert_same(outcome)


IF = (
    "(float[4] x, bool c) => (float[4] y{more}) {{ {before} y = If(c) <then_branch = t () => (float[4] a) {{ {then} }}, "
    "else_branch = e () => (float[4] b) {{ b = Relu(x) }}> }}"
)


def _if(then: str, before: str = "", more: str = "") -> tuple[str, str]:
    signature, _, body = IF.format(then=then, before=before, more=more).partition(" { ")
    return signature, body.removesuffix(" }")


def test_a_branch_reads_what_is_outside() -> None:
    outcome = rewrite(build(*_if("p = Exp(x) a = Sin(p)", "z = Exp(x)", ", float[4] z")), Cleanup())
    assert operators(outcome.after)["Exp"] == 1
    assert_same(outcome)


def test_the_result_of_a_branch_stays_its_own() -> None:
    outcome = rewrite(build(*_if("a = Exp(x)", "z = Exp(x)", ", float[4] z")), Cleanup())
    assert operators(outcome.after)["Exp"] == 2


def test_what_only_a_branch_computes_is_not_read_outside() -> None:
    signature, body = _if("p = Exp(x) a = Sin(p)", more=", float[4] z")
    outcome = rewrite(build(signature, f"{body} z = Exp(x)"), Cleanup())
    assert operators(outcome.after)["Exp"] == 2
    assert_same(outcome)


def test_two_branches_do_not_read_each_other() -> None:
    signature, body = _if("p = Exp(x) a = Sin(p)")
    outcome = rewrite(build(signature, body.replace("b = Relu(x)", "q = Exp(x) b = Cos(q)")), Cleanup())
    assert operators(outcome.after)["Exp"] == 2
    assert_same(outcome)
