"""What is said of a rule that does not match: the deepest partial match, and the first mismatch in plain words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import Attr, Const, Domain, Node, Rule, Tensor, UsageError, approx, many, op, product, require, rule
from graphopt.engine.explain import Outcome, explain, nodes_named, obstacles
from graphopt.rules.explain import Miss, Prober, roots
from graphopt.targets.target import load_target
from tests.unit.engine import model, ops

F = np.float32


def miss(r: Rule[Any], found: Any, root: str | None = None) -> Miss:
    """What is said of the root of that name, or of the last one."""
    nodes = list(roots(r, found))
    node = nodes[-1] if root is None else next(n for n in nodes if n.name == root)
    result = Prober(r, found).miss(node)
    assert result is not None, "the rule matches"
    return result


def reason(r: Rule[Any], text: str, opset: int = 20, **constants: Any) -> str:
    return miss(r, model(text, opset, **constants)).reason


# -- operands --------------------------------------------------------------------------------------


@rule(lambda x: 0.5 * op.Tanh(x))
def half_tanh(x: Tensor) -> Tensor:
    """Half of tanh."""
    return x


BODY = "[n_tanh] t = Tanh(x) [n_mul] y = Mul(t, c)"


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


# -- attributes and nodes --------------------------------------------------------------------------


@rule(lambda x: op.Softmax(x, axis=-1))
def last_softmax(x: Tensor) -> Tensor:
    """A softmax over the last axis."""
    return x


def test_an_attribute() -> None:
    text = "g (float[4,4] x) => (float[4,4] y) { [/x/Softmax] y = Softmax <axis = 1>(x) }"
    assert reason(last_softmax, text.replace("[/x/Softmax]", "[sm]")) == "sm: axis is 1, expected -1"

    @rule(lambda x: op.Transpose(x, perm=[1, 0]))
    def swap(x: Tensor) -> Tensor:
        """A transposed matrix."""
        return x

    unset = "g (float[4,4] x) => (float[4,4] y) { [t] y = Transpose(x) }"
    assert reason(swap, unset) == "t: perm is not set, expected [1, 0]"

    @rule(lambda x: op.LeakyRelu(x, alpha=0.1))
    def leaky(x: Tensor) -> Tensor:
        """A LeakyRelu with a certain slope."""
        return x

    other = "g (float[4] x) => (float[4] y) { [l] y = LeakyRelu <alpha = 0.2>(x) }"
    assert reason(leaky, other) == "l: alpha is 0.2, expected 0.1"


def test_an_attribute_that_the_pattern_does_not_mention() -> None:
    @rule(lambda x, s: op.Reshape(x, s))
    def reshape(x: Tensor, s: Const) -> Tensor:
        """A Reshape."""
        return x

    text = "g (float[4] x) => (float[2,2] y) { [r] y = Reshape <allowzero = 1>(x, s) }"
    assert reason(reshape, text, s=np.array([2, 2])) == (
        "attribute allowzero = 1 of r is not mentioned by the pattern, and not the default 0"
    )

    @rule(lambda x, w: op.Conv(x, w))
    def conv(x: Tensor, w: Tensor) -> Tensor:
        """A plain Conv."""
        return x

    text = "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,6,6] y) { [c] y = Conv <pads = [1,1,1,1]>(x, w) }"
    assert reason(conv, text) == (
        "attribute pads = [1, 1, 1, 1] of c is not mentioned by the pattern, and has no default"
    )


FUNCTION = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[4,4] x) => (float[4,4] y) { y = own.F <a = 1>(x) }
    <opset_import: ["" : 20], domain: "own">
    F <a> (p) => (q) { [inner] q = Softmax <axis: int = @a>(p) }
"""


def test_parameters_of_functions() -> None:
    from onnx import parser

    import graphopt

    found = graphopt.load(parser.parse_model(FUNCTION))
    assert miss(last_softmax, found).reason == (
        "attribute axis of inner is a parameter of the function that it is in"
    )

    @rule(lambda x: op.Softmax(x))
    def softmax(x: Tensor) -> Tensor:
        """Any softmax."""
        return x

    assert miss(softmax, found).reason == "attribute axis of inner is a parameter of the function that it is in"


def test_functions_that_take_the_name_of_an_operator() -> None:
    from onnx import parser

    import graphopt

    found = graphopt.load(
        parser.parse_model("""
            <ir_version: 10, opset_import: ["" : 20]>
            g (float[4] x) => (float[4] y) { [t] u = Tanh(x) [s] y = Sub(u, x) }
            <opset_import: ["" : 20], domain: "">
            Tanh (p) => (q) { q = Neg(p) }
        """)
    )

    @rule(lambda x: op.Tanh(x) - x)
    def tanh_minus(x: Tensor) -> Tensor:
        """tanh of x minus x."""
        return x

    assert miss(tanh_minus, found).reason == "t calls a function of the model named Tanh, and is not the operator"


def test_nodes_that_onnx_does_not_allow() -> None:
    @rule(lambda x: op.Gelu(x))
    def gelu(x: Tensor) -> Tensor:
        """A Gelu."""
        return x

    found = reason(gelu, "g (float[4] x) => (float[4] y) { [n] y = Gelu(x) }", opset=13)
    assert found == "n is no valid Gelu at opset 13"
    found = reason(half_tanh, f"g (float[4] x) => (float[4] y) {{ {BODY} }}", c=np.zeros(3, F))
    assert found == "n_mul is not valid: Mul is refused: sizes 4 and 3 do not broadcast"


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


# -- what became of each root ----------------------------------------------------------------------


@rule(lambda x: op.Relu(op.Relu(x)))
def relu_twice(x: Tensor) -> Tensor:
    """A Relu of a Relu is a Relu."""
    return op.Relu(x)


def outcomes(r: Rule[Any], found: Any, **options: Any) -> dict[str, Outcome]:
    return {o.root: o for o in explain(r, found, **options).outcomes}


def test_fired_consumed_and_missed() -> None:
    found = model("g (float[4] x) => (float[4] y) { [a] u = Relu(x) [b] v = Relu(u) [c] w = Neg(v) [d] y = Relu(w) }")
    result = explain(relu_twice, found)
    assert result.operators == ("Relu",) and result.again == 0
    assert [(o.root, o.status, o.reason) for o in result.outcomes] == [
        ("a", "consumed", "it was part of the match at b"),
        ("b", "fired", ""),
        ("d", "missed", "operand 0 of d comes from Neg (c), expected Relu"),
    ]
    assert ops(found) == ["Relu", "Neg", "Relu"], "the rule was really applied"


def test_firing_again_at_its_own_nodes() -> None:
    @rule(lambda x: op.Abs(op.Neg(x)))
    def abs_neg(x: Tensor) -> Tensor:
        """The absolute value does not depend on the sign."""
        return op.Abs(x)

    found = model("g (float[4] x) => (float[4] y) { [a] u = Neg(x) [b] v = Neg(u) [c] y = Abs(v) }")
    result = explain(abs_neg, found)
    assert [(o.root, o.status) for o in result.outcomes] == [("c", "fired")]
    assert (result.again, ops(found)) == (1, ["Abs"])


def test_a_require_is_told_in_its_words() -> None:
    @rule(lambda x: op.Abs(op.Neg(x)))
    def guarded(x: Tensor) -> Tensor:
        """The absolute value of a matrix."""
        require(x.rank == 2, "it is no matrix")
        return op.Abs(x)

    found = model("g (float[4] x) => (float[4] y) { n = Neg(x) [a] y = Abs(n) }")
    assert outcomes(guarded, found)["a"] == Outcome("a", "Abs", "declined", "it is no matrix", "it is no matrix")


def test_other_readers_are_named() -> None:
    found = model("""g (float[4] x) => (float[4] y, float[4] u, float[4] z) {
        [a] u = Relu(x) [b] y = Relu(u) [n1] n = Neg(u) [n2] z = Exp(n) }""")
    assert outcomes(relu_twice, found)["b"].reason == (
        "an interior value has other readers: 'u' is read by n1 and is an output of the graph"
    )
    five = " ".join(f"[n{i}] v{i} = Neg(u)" for i in range(5))
    found = model(f"g (float[4] x) => (float[4] y, float[4] z) {{ [a] u = Relu(x) [b] y = Relu(u) {five} "
                  "z = Sum(v0, v1, v2, v3, v4) }")
    told = outcomes(relu_twice, found)["b"]
    assert told.reason == "an interior value has other readers: 'u' is read by n0, n1, n2, 2 more"
    assert told.kind == "an interior value has other readers"


def test_domains_of_the_target() -> None:
    @rule(lambda x: x * op.Sigmoid(x))
    def quick(x: Tensor) -> Tensor:
        """An operator of another domain."""
        return Domain("com.microsoft").QuickGelu(x, alpha=1.0)

    text = "g (float[4] x) => (float[4] y) { s = Sigmoid(x) [m] y = Mul(x, s) }"
    onnx = frozenset(load_target("onnx").domains)
    assert outcomes(quick, model(text), domains=onnx)["m"].reason == (
        "the target does not take operators of 'com.microsoft'"
    )
    assert obstacles(quick, model(text), load_target("onnx")) == [
        "the target onnx does not take operators of com.microsoft: ort-arm, ort-avx2, ort-cpu or ort-cuda does"
    ]
    assert obstacles(quick, model(text), load_target("ort-cpu")) == []


def test_accuracy_and_opset_that_are_in_the_way() -> None:
    @rule(lambda x: x * op.Tanh(op.Softplus(x)), accuracy="fast")
    def mish(x: Tensor) -> Tensor:
        """Mish."""
        return op.Mish(x)

    text = "g (float[4] x) => (float[4] y) { y = Neg(x) }"
    assert obstacles(mish, model(text, opset=13), load_target("onnx")) == [
        "its accuracy is fast: only -O3 applies it",
        "it makes Mish, which came with opset 18; the model has 13",
    ]
    assert obstacles(relu_twice, model(text), load_target("onnx")) == []


# -- near ------------------------------------------------------------------------------------------

CHAIN = "g (float[4] x) => (float[4] y) { [a] p = Relu(x) [b] q = Neg(p) [c] r = Relu(q) [d] s = Exp(r) [e] y = Relu(s) }"


@pytest.mark.parametrize(
    ("near", "roots"),
    [("c", "c"), ("b", "c"), ("q", "c"), ("x", "a"), ("d", "e"), ("[ce]", "ce"), ("*", "ace"), ("Relu*", None)],
)
def test_near(near: str, roots: str | None) -> None:
    """The root itself, or one that a match of this depth could reach from there."""
    if roots is None:
        with pytest.raises(UsageError, match=r"there is no node or value 'Relu\*'"):
            explain(relu_twice, model(CHAIN), near=near)
    else:
        assert "".join(outcomes(relu_twice, model(CHAIN), near=near)) == roots


def test_near_names_the_nearest_name() -> None:
    found = model("g (float[4] x) => (float[4] y) { [block_mul] y = Neg(x) }")
    with pytest.raises(UsageError, match="did you mean 'block_mul'"):
        nodes_named(found, "block_mull")


def test_names_of_nodes_without_a_name() -> None:
    found = model("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert list(outcomes(relu_twice, found, near="Relu of 'y'")) == ["Relu of 'y'"]


def test_nodes_are_captured_without_harm() -> None:
    def _bound(x: Tensor, n: Node) -> Tensor:
        return n.bind(op.Relu(op.Exp(x)))

    @rule(_bound)
    def bound(x: Tensor, n: Node) -> Tensor:
        """A captured node."""
        return op.Exp(x)

    assert reason(bound, "g (float[4] x) => (float[4] y) { [r] y = Relu(x) }") == (
        "operand 0 of r is the input 'x' of the model, expected Exp"
    )
