"""What is said of a rule that does not match: the deepest partial match, and the first mismatch in plain words."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import Attr, Const, Domain, Tensor, approx, many, op, product, rule
from graphopt.rules.explain import Miss
from tests.unit.engine import model
from tests.unit.explaining import BODY, F, half_tanh, miss, reason

# -- operands --------------------------------------------------------------------------------------


def test_another_number() -> None:
    found = reason(half_tanh, f"g (float[4] x) => (float[4] y) {{ {BODY} }}", c=F(0.044715))
    assert found == "operand 1 of n_mul is 0.044715, expected 0.5"


def test_a_number_is_written_as_its_type_has_it() -> None:
    @rule(lambda x: x * 0.7071067811865476)
    def scaled(x: Tensor) -> Tensor:
        """x over √2."""
        return x

    text = "g (T[4] x) => (T[4] y) { [m] y = Mul(x, c) }"
    single = reason(scaled, text.replace("T", "float"), c=F(0.7071))
    assert single == "operand 1 of m is 0.7071, expected 0.70710677"
    double = reason(scaled, text.replace("T", "double"), c=np.float64(0.7071))
    assert double == "operand 1 of m is 0.7071, expected 0.7071067811865476"
    half = reason(scaled, text.replace("T", "float16"), c=np.float16(0.7))
    assert half == "operand 1 of m is 0.7, expected 0.707"
    whole = reason(scaled, text.replace("T", "int64"), c=np.int64(2))
    assert whole == "operand 1 of m is 2, expected 0.70710677"


@pytest.mark.parametrize(
    ("constant", "said"),
    [
        (F([1, 2]), "[1.0, 2.0]"),
        (np.full((3, 4), 2.5, F), "2.5 (float32[3, 4])"),
        (np.arange(12, dtype=F).reshape(3, 4), "the constant 'c' (float32[3, 4])"),
        (np.zeros((0,), F), "the constant 'c' (float32[0])"),
        (F([[3]]), "3.0 (float32[1, 1])"),
    ],
)
def test_constants_are_shown_if_they_are_small(constant: np.ndarray, said: str) -> None:
    found = reason(half_tanh, f"g (float[n, m] x) => (float[k, l] y) {{ {BODY} }}", c=constant)
    assert found == f"operand 1 of n_mul is {said}, expected 0.5"


def test_a_number_within_a_tolerance() -> None:
    @rule(lambda x: x * approx(0.5, rtol=0.01))
    def nearly_half(x: Tensor) -> Tensor:
        """Half of x, more or less."""
        return x

    found = reason(nearly_half, "g (float[4] x) => (float[4] y) { [m] y = Mul(x, c) }", c=F(0.51))
    assert found == "operand 1 of m is 0.51, expected 0.5 within 1 %"


@rule(lambda x, y: op.Sub(op.Erf(x), y))
def erf_minus(x: Tensor, y: Tensor) -> Tensor:
    """An Erf from which something is subtracted."""
    return x


def test_another_operator() -> None:
    body = "g (float[4] x) => (float[4] y) { [n_tanh] t = Tanh(x) [n_sub] y = Sub(t, x) }"
    assert reason(erf_minus, body) == "operand 0 of n_sub comes from Tanh (n_tanh), expected Erf"


def test_nodes_without_a_name_go_by_their_output() -> None:
    found = reason(erf_minus, "g (float[4] x) => (float[4] y) { t = Tanh(x) y = Sub(t, x) }")
    assert found == "operand 0 of Sub of 'y' comes from Tanh of 't', expected Erf"


def test_an_operator_of_another_domain() -> None:
    @rule(lambda x: op.Neg(Domain("com.microsoft").Gelu(x)))
    def neg_gelu(x: Tensor) -> Tensor:
        """A negated Gelu."""
        return x

    found = reason(neg_gelu, "g (float[4] x) => (float[4] y) { t = Gelu(x) [n] y = Neg(t) }")
    assert found == "operand 0 of n comes from Gelu of 't', expected com.microsoft.Gelu"


def test_inputs_and_overridable_initializers() -> None:
    assert reason(erf_minus, "g (float[4] x) => (float[4] y) { [s] y = Sub(x, x) }") == (
        "operand 0 of s is the input 'x' of the model, expected Erf"
    )

    def _minus(x: Tensor, c: Const) -> Tensor:
        return op.Sub(x, c)

    @rule(_minus)
    def minus(x: Tensor, c: Const) -> Tensor:
        """A constant is subtracted."""
        return x

    text = "g (float[4] x, float[4] c) => (float[4] y) { [s] y = Sub(x, c) }"
    assert reason(minus, text, c=np.zeros(4, F)) == (
        "operand 1 of s is the initializer 'c', which a caller may override, expected a constant"
    )


def test_all_alternatives_of_a_place_are_named() -> None:
    @rule(lambda x: op.Sqrt(op.Relu(x) | op.any("Sigmoid", "Tanh")(x) | 0.5))
    def root(x: Tensor) -> Tensor:
        """A root of one of several."""
        return x

    found = reason(root, "g (float[4] x) => (float[4] y) { [e] t = Exp(x) [s] y = Sqrt(t) }")
    assert found == "operand 0 of s comes from Exp (e), expected Relu, Sigmoid or Tanh or 0.5"


def test_both_operands_of_a_commutative_operator_are_named() -> None:
    @rule(lambda x: x * op.Sigmoid(x))
    def swish(x: Tensor) -> Tensor:
        """x times its sigmoid."""
        return op.HardSwish(x)

    text = "g (float[4] x) => (float[4] y) { [t] a = Tanh(x) [m] y = Mul(a, c) }"
    assert reason(swish, text, c=F(3)) == (
        "operand 0 of m comes from Tanh (t) and operand 1 is 3.0, expected one of them to be Sigmoid"
    )
    same = "g (float[4] x) => (float[4] y) { [t] a = Tanh(x) [m] y = Mul(a, a) }"
    assert reason(swish, same) == "operand 1 of m comes from Tanh (t), expected Sigmoid"
    other = "g (float[4] x, float[4] z) => (float[4] y) { [s] a = Sigmoid(z) [m] y = Mul(x, a) }"
    assert reason(swish, other) == "operand 0 of s is the input 'z' of the model, expected x, which is the input 'x' of the model"


def test_operands_that_are_left_out_or_too_many() -> None:
    @rule(lambda x, lo: op.Clip(x, lo, None))
    def clip_below(x: Tensor, lo: Tensor) -> Tensor:
        """A Clip with a lower bound only."""
        return x

    above = "g (float[4] x, float h) => (float[4] y) { [c] y = Clip(x, , h) }"
    assert reason(clip_below, above) == "operand 1 of c is left out, expected a tensor"
    both = "g (float[4] x, float l, float h) => (float[4] y) { [c] y = Clip(x, l, h) }"
    assert reason(clip_below, both) == "operand 2 of c is the input 'h' of the model, expected none"

    @rule(lambda x, lo: op.Clip(x, op.Neg(lo)))
    def clip_neg(x: Tensor, lo: Tensor) -> Tensor:
        """A Clip from a negated bound on."""
        return x

    assert reason(clip_neg, above) == "c has 3 operands, expected 2"
    none = "g (float[4] x) => (float[4] y) { [c] y = Clip(x) }"
    assert reason(clip_neg, none) == "operand 1 of c is left out, expected Neg"


def test_a_node_that_is_elsewhere_already() -> None:
    @rule(lambda x, y: op.Sub(op.Neg(x), op.Neg(y)))
    def two_negs(x: Tensor, y: Tensor) -> Tensor:
        """The difference of two negated tensors."""
        return x

    same = "g (float[4] x) => (float[4] y) { [n] a = Neg(x) [s] y = Sub(a, a) }"
    assert reason(two_negs, same) == (
        "operand 1 of s comes from Neg (n), which another part of the pattern has matched already"
    )

    def _shared(x: Tensor) -> Tensor:
        e = op.Exp(x)
        return e / (e + 1)

    @rule(_shared)
    def logistic(x: Tensor) -> Tensor:
        """The exponential over itself plus one."""
        return x

    two = "g (float[4] x) => (float[4] y) { [e1] a = Exp(x) [e2] b = Exp(x) [p] c = Add(b, one) [d] y = Div(a, c) }"
    assert reason(logistic, two, one=F(1)) == (
        "operand 0 of p comes from Exp (e2), expected e1, as elsewhere in the pattern"
    )


def test_values_of_an_outer_graph() -> None:
    @rule(lambda x: op.Relu(op.Neg(x)))
    def relu_neg(x: Tensor) -> Tensor:
        """A negated tensor, clamped."""
        return x

    text = """g (float[4] x, bool c) => (float[4] y) {
        [n] a = Neg(x)
        y = If (c) <then_branch = t () => (float[4] u) { [r] u = Relu(a) },
                    else_branch = e () => (float[4] v) { v = Identity(a) }>
    }"""
    assert reason(relu_neg, text) == "operand 0 of r comes from Neg (n) outside of the graph that it is in"


def test_another_output() -> None:
    @rule(lambda x: op.Neg(op.TopK(x, [1], nout=2)[0]))
    def neg_top(x: Tensor) -> Tensor:
        """The largest element, negated."""
        return x

    text = "g (int64[4] x) => (int64[1] y) { [t] a, b = TopK(x, k) [n] y = Neg(b) }"
    assert reason(neg_top, text, k=np.array([1])) == "operand 0 of n is output 1 of t, expected output 0"


def test_operands_in_any_number() -> None:
    def _relus(xs: list[Tensor], a: Attr[int]) -> Tensor:
        return op.Concat(*many(xs, each=op.Relu), axis=a)

    @rule(_relus)
    def relus(xs: list[Tensor], a: int) -> Tensor:
        """Concatenated Relus."""
        return op.Relu(op.Concat(*xs, axis=a))

    text = "g (float[4] x) => (float[8] y) { [r] a = Relu(x) [n] b = Neg(x) [c] y = Concat <axis = 0>(a, b) }"
    found = miss(relus, model(text))
    assert found.reason == "operand 1 of c comes from Neg (n), expected Relu"
    assert found.matched == ("c", "r"), "what an earlier operand matched counts"

    @rule(lambda x, xs: op.Max(x, *many(xs)))
    def longer(x: Tensor, xs: list[Tensor]) -> Tensor:
        """The largest of two or more."""
        return x

    single = "g (float[4] x) => (float[4] y) { [m] y = Max(x) }"
    assert reason(longer, single) == "m has 1 operand, expected at least 2"


def test_a_further_output() -> None:
    @rule(lambda x: (op.Sin(x), op.Cos(x)))
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        """Sine and cosine of one angle."""
        return x, x

    found = reason(both, "g (float[4] x) => (float[4] y) { [s] y = Sin(x) }")
    assert found == "'x' is the input 'x' of the model, and nothing that reads it leads to the pattern's further Cos"


# -- which mismatch --------------------------------------------------------------------------------


def test_the_deepest_match_wins() -> None:
    @rule(lambda x: op.Sqrt(op.Neg(op.Exp(x)) | op.Abs(x) * 2))
    def deep(x: Tensor) -> Tensor:
        """A root of something."""
        return x

    found = miss(deep, model("g (float[4] x) => (float[4] y) { [s] a = Sin(x) [n] b = Neg(a) [q] y = Sqrt(b) }"))
    assert found == Miss(
        ("q", "n"), "operand 0 of n comes from Sin (s), expected Exp", "operand 0 of Neg comes from Sin, expected Exp", 0
    )


def test_another_number_is_nearer_than_another_operator() -> None:
    @rule(lambda x: product(x, 0.5, op.Tanh(x)))
    def half(x: Tensor) -> Tensor:
        """Half of x times its tanh."""
        return x

    text = """g (float[4] x) => (float[4] y) { [t] a = Tanh(x) [m] b = Mul(x, a) [h] y = Mul(c, b) }"""
    assert reason(half, text, c=F(0.25)) == "operand 0 of h is 0.25, expected 0.5"


def test_all_left_sides_are_tried() -> None:
    @rule(lambda x: op.Neg(op.Exp(x)), lambda x: op.Neg(op.Sin(op.Cos(x))))
    def two(x: Tensor) -> Tensor:
        """One of two left sides."""
        return x

    found = miss(two, model("g (float[4] x) => (float[4] y) { [s] a = Sin(x) [n] y = Neg(a) }"))
    assert (found.left, found.reason) == (1, "operand 0 of s is the input 'x' of the model, expected Cos")


def test_too_many_ways_to_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.rules.closures._MAX_STEPS", 1)
    found = reason(half_tanh, f"g (float[4] x) => (float[4] y) {{ {BODY} }}", c=F(0.5))
    assert found == "the search was given up at n_tanh, for there are too many ways to match"
