"""Branches that are always taken, and states of recurrent operators that are zero anyway."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import checker

from tests.rules.exact import SIMPLIFY, fires, stays
from tests.rules.helpers import build, rewrite, weight


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


INNER = (
    "p = If({}) <then_branch = u () => (float[N] a) {{ a = Neg(x) }}, "
    "else_branch = v () => (float[N] b) {{ b = Abs(x) }}>"
)
OUTER = "y = If(c) <then_branch = t () => (float[N] p) {{ {} }}, else_branch = e () => (float[N] r) {{ r = Sin(x) }}>"
BRANCHES = (
    "y = If(c) <then_branch = t () => (float[N] p) {{ q = Neg(x) p = Exp(q) }}, else_branch = e () => ({}) {{ {} }}>"
)
OTHER = BRANCHES.format("float[1] r", "s = Constant<value_floats=[2.0]>() r = Sin(s)")


@pytest.mark.parametrize(("taken", "left", "out"), [(True, "Neg Exp", "N"), (False, "Sin", "M")])
def test_if_constant(taken: bool, left: str, out: str) -> None:
    fires("if_constant", f"(float[N] x) => (float[{out}] y)", OTHER, left, c=np.array([taken]))


def test_if_that_shapes_decide() -> None:
    """Its type is that of the branch that shapes choose, even before the condition is a constant."""
    branches = BRANCHES.format("float[1] r", "r = Constant<value_floats=[2.0]>()").replace("[N]", "[N,3]")
    body = f"a = Shape(x) k = Slice(a, one, two) c = Equal(k, three) {branches.replace('y =', 'b =')} y = Flatten(b)"
    model = build("(float[N,3] x) => (float[N,3] y)", body, one=i(1), two=i(2), three=i(3))
    outcome = rewrite(model, SIMPLIFY, "exact")
    assert outcome.fired == {"fixed_size": 1, "reshape_noop": 1}


def test_control_flow_within_the_branch_comes_along() -> None:
    body = OUTER.format("n = Neg(x) " + INNER.replace("Neg(x)", "Exp(n)").format("d"))
    fires("if_constant", "(float[N] x, bool d) => (float[N] y)", body, "If Neg", c=np.array(True))


def test_inner_if_goes_first() -> None:
    body = OUTER.format(INNER.format("c"))
    fires("if_constant", "(float[N] x) => (float[N] y)", body, "Neg", c=np.array(True))


def test_if_stays() -> None:
    stays(
        "if_constant", "not constant", "(float[N] x, bool c) => (float[N] y)", OTHER.replace("float[1] r", "float[M] r")
    )


def test_names_in_the_branch_stay_unique() -> None:
    body = OTHER + " w = Neg(x) " + OTHER.replace("y = ", "v = ").replace("q", "w2")
    model = build("(float[N] x) => (float[N] y, float[N] v)", body, c=np.array(True))
    outcome = rewrite(model, SIMPLIFY, "exact")
    assert outcome.fired["if_constant"] == 2
    names = [name for node in outcome.after.graph.node for name in node.output]
    assert len(names) == len(set(names))
    checker.check_model(outcome.after, full_check=True)


STATES = {"LSTM": ("h, h", 4), "GRU": ("h", 3), "RNN": ("h", 1)}


@pytest.mark.parametrize("op", list(STATES))
@pytest.mark.parametrize(
    "made",
    [
        "b = Gather(s, one) d = Concat<axis=0>(l, b, five) h = ConstantOfShape(d)",
        "b = Gather(s, one) d = Concat<axis=0>(b, five) e = Expand(z, d) h = Unsqueeze(e, zero)",
    ],
)
def test_zero_state(op: str, made: str) -> None:
    states, gates = STATES[op]
    outcome = fires(
        "zero_state",
        "(float[T,B,3] x) => (float[T,1,B,5] y)",
        f"s = Shape(x) {made} y = {op}<hidden_size=5>(x, w, r, , , {states})",
        op,
        dims=({"T": 4, "B": 2},),
        one=i(1),
        zero=i(0),
        l=i(1),
        five=i(5),
        z=np.zeros((), np.float32),
        w=weight(1, 5 * gates, 3, seed=1),
        r=weight(1, 5 * gates, 5, seed=2),
    )
    assert len(outcome.node(op).input) == 3


@pytest.mark.parametrize("fill", [1.0, -0.0])
def test_other_state_stays(fill: float) -> None:
    stays(
        "zero_state",
        "no initial state",
        "(float[T,2,3] x) => (float[T,1,2,5] y)",
        "y = RNN<hidden_size=5>(x, w, r, , , h)",
        h=np.full((1, 2, 5), fill, np.float32),
        w=weight(1, 5, 3),
        r=weight(1, 5, 5),
    )


def test_one_state_of_two() -> None:
    outcome = fires(
        "zero_state",
        "(float[T,2,3] x, float[1,2,5] h) => (float[T,1,2,5] y, float[1,2,5] c)",
        "y, a, c = LSTM<hidden_size=5>(x, w, r, , , h, z)",
        "LSTM",
        dims=({"T": 3},),
        z=np.zeros((1, 2, 5), np.float32),
        w=weight(1, 20, 3),
        r=weight(1, 20, 5),
    )
    assert list(outcome.node("LSTM").input[3:]) == ["", "", "h"]
