"""If, Loop and Scan that are not needed, or do in each iteration what can be done once."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.cleanup import Cleanup

from tests.rules.exact import fires, stays
from tests.rules.helpers import assert_same, build, rewrite, weight

X = "(float[N] x, bool c) => (float[N] y)"
IF = "y = If(c) <then_branch = t () => (float[N] p) {{ {} }}, else_branch = e () => (float[N] q) {{ {} }}>"


@pytest.mark.parametrize(
    ("then", "other", "left"),
    [
        ("a = Neg(x) p = Exp(a)", "b = Neg(x) q = Exp(b)", "Neg Exp"),
        (
            "s = Constant<value_float=2.0>() a = Mul(x, s) b = Sin(x) p = Add(a, b)",
            "d = Sin(x) s = Constant<value_float=2.0>() a2 = Mul(x, s) q = Add(a2, d)",
            "Mul Sin Add",
        ),
        ("p = LeakyRelu<alpha=0.01>(x)", "q = LeakyRelu(x)", "LeakyRelu"),
    ],
)
def test_branches_that_do_the_same(then: str, other: str, left: str) -> None:
    fires("if_same", X, IF.format(then, other.replace("s =", "s2 =").replace("x, s)", "x, s2)")), left)


NESTED = "{0} = If(d) <then_branch = t{0} () => (float[N] u{0}) {{ u{0} = Exp({1}) }}, else_branch = e{0} () => (float[N] v{0}) {{ v{0} = Sin({1}) }}>"


def test_branches_with_control_flow() -> None:
    signature = "(float[N] x, bool c, bool d) => (float[N] y)"
    fires("if_same", signature, IF.format(NESTED.format("p", "x"), NESTED.format("q", "x")), "If")
    inner = "a = Neg(x) " + NESTED.format("p", "a"), "b = Abs(x) " + NESTED.format("q", "b")
    stays("if_same", "differ", signature, IF.format(*inner))


@pytest.mark.parametrize(
    ("then", "other"),
    [
        ("p = Neg(x)", "q = Abs(x)"),
        ("p = LeakyRelu<alpha=0.02>(x)", "q = LeakyRelu(x)"),
        ("p = RandomNormalLike(x)", "z = RandomNormalLike(x) q = Neg(z)"),
        ("s = Constant<value_float=0.0>() p = Mul(x, s)", "u = Constant<value_float=-0.0>() q = Mul(x, u)"),
        ("a = RandomNormalLike(x) p = Add(a, a)", "b = RandomNormalLike(x) d = RandomNormalLike(x) q = Add(b, d)"),
        ("a, b = TopK(x, k) p = Identity(a)", "d, e = TopK(x, k) f = Cast<to=1>(e) q = Identity(f)"),
    ],
)
def test_branches_that_differ(then: str, other: str) -> None:
    stays("if_same", "differ", X, IF.format(then, other), k=np.array([1]))


def test_what_both_branches_hand_on() -> None:
    body = (
        "v = Sin(x) y, z = If(c) <then_branch = t () => (float[N] p, float[N] r) { p = Neg(x) r = Identity(v) }, "
        "else_branch = e () => (float[N] q, float[N] s) { q = Abs(x) s = Identity(v) }>"
    )
    fires("if_passes", "(float[N] x, bool c) => (float[N] y, float[N] z)", body, "If Sin")


SMALL = "(float[4] x, float[4] w, bool c) => (float[4] y)"


def test_choice_between_small_tensors() -> None:
    fires("if_where", SMALL, IF.format("p = Identity(x)", "q = Identity(w)").replace("[N]", "[4]"), "Where")
    constants = "p = Constant<value_ints=[1,2]>()", "q = Constant<value_ints=[3,4]>()"
    body = IF.format(*constants).replace("float[N]", "int64[2]")
    fires("if_where", "(bool c) => (int64[2] y)", body, "Where")


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        ("(float[N] x, float[N] w, bool c) => (float[N] y)", IF, "may be large"),
        ("(float[N] x, float[M] w, bool c) => (float[K] y)", IF.replace("q)", "q)").replace("[N] q", "[M] q"), "differ"),
        (SMALL.replace("bool c", "bool[1] c").replace("[4]", ""), IF.replace("[N]", ""), "change the shape"),
        (SMALL.replace("[4]", "[99,99]"), IF.replace("[N]", "[99,99]"), "may be large"),
        (SMALL.replace("float[4]", "uint16[4]"), IF.replace("float[N]", "uint16[4]"), "no kernel"),
    ],
)
def test_choice_that_stays(signature: str, body: str, reason: str) -> None:
    stays("if_where", reason, signature, body.format("p = Identity(x)", "q = Identity(w)"))


def test_negated_condition() -> None:
    body = IF.replace("If(c)", "If(n)").format("p = Neg(x)", "q = Abs(x)")
    fires("if_not", X, "n = Not(c) " + body, "If")
    two = "(float[N] x, bool c) => (float[N] y, bool n)"
    stays("if_not", "other readers", two, "n = Not(c) " + body)


def test_output_of_if_that_nobody_reads() -> None:
    body = (
        "y, z = If(c) <then_branch = t () => (float[N] p, float[N] r) { p = Neg(x) r = Sin(x) }, "
        "else_branch = e () => (float[N] q, float[N] s) { q = Abs(x) s = Cos(x) }>"
    )
    outcome = fires("if_dead_output", X, body, "If")
    assert [len(a.g.node) for a in outcome.node("If").attribute] == [1, 1]


LOOP = "y{2} = Loop({0}, x) <body = b (int64 i, bool d, float[N] a) => (bool e, float[N] f{3}) {{ {1} }}>"
ON = "e = Identity(d)"


def loop(head: str, body: str, out: str = "", gives: str = "") -> str:
    return LOOP.format(head, body, out, gives)


M = "(float[N] x) => (float[N] y)"


@pytest.mark.parametrize("condition", ["e = Identity(d)", "e = Constant<value=bool {1}>()", "e = Identity(on)"])
@pytest.mark.parametrize("head", ["n, ", "n, on"])
def test_loop_of_three_is_unrolled(condition: str, head: str) -> None:
    fires("loop_unrolled", M, loop(head, f"{condition} f = Exp(a)"), "Exp Exp Exp", n=np.array(3), on=np.array(True))


def test_loop_with_iteration_number_and_collected() -> None:
    body = "e = Identity(d) k = Cast<to=1>(i) f = Add(a, k) g = Mul(f, x)"
    outcome = fires(
        "loop_unrolled", "(float[N] x) => (float[N] y, float[2,N] z)", loop("n, ", body, ", z", ", float[N] g"),
        "Add Add Mul Mul Cast Cast Unsqueeze Unsqueeze Concat", n=np.array(2), dims=({"N": 3}, {"N": 0}),
    )  # fmt: skip
    assert outcome.after.graph.output[1].name == "z"


def test_loop_that_runs_once_whatever_it_finds() -> None:
    body = "z = Constant<value_float=1.0>() s = ReduceSum<keepdims=0>(a) e = Less(s, z) f = Exp(a)"
    fires("loop_unrolled", M, loop("n, ", body), "Exp", n=np.array(1))
    body = "e = Constant<value=bool {0}>() f = Exp(a)"
    fires("loop_unrolled", M, loop("n, ", body), "Exp", n=np.array(9))


def test_loop_with_control_flow_inside() -> None:
    inner = (
        "k = Cast<to=9>(i) e = Identity(d) f = If(k) <then_branch = t () => (float[N] p) { h = Neg(a) p = Exp(h) }, "
        "else_branch = o () => (float[N] q) { q = Sin(a) }>"
    )
    fires("loop_unrolled", M, loop("n, ", inner), "If If Cast Cast", n=np.array(2))


@pytest.mark.parametrize(
    ("head", "body", "constants", "reason"),
    [
        ("m, on", "e = Identity(d) f = Exp(a)", {"on": np.array(True)}, "not fixed"),
        ("n, d0", "e = Identity(d) f = Exp(a)", {"n": np.array(2)}, "not fixed"),
        (
            "n, on",
            "z = Constant<value_float=1.0>() s = ReduceSum<keepdims=0>(a) e = Less(s, z) f = Exp(a)",
            {"n": np.array(2), "on": np.array(True)},
            "not fixed",
        ),
        ("n, on", "e = Identity(d) f = Exp(a)", {"n": np.array(40), "on": np.array(True)}, "too many nodes"),
        ("n, on", "e = Identity(d) f = Exp(a)", {"n": np.array(1 << 62), "on": np.array(True)}, "many iterations"),
        (
            "n, on",
            "e = Identity(d) r = RandomNormalLike<seed=1.0>(a) f = Add(a, r)",
            {"n": np.array(2), "on": np.array(True)},
            "at random",
        ),
    ],
)
def test_loop_that_stays(head: str, body: str, constants: dict[str, np.ndarray], reason: str) -> None:
    stays("loop_unrolled", reason, "(float[N] x, int64 m, bool d0) => (float[N] y)", loop(head, body), **constants)


@pytest.mark.parametrize(
    ("head", "constants"),
    [
        ("n, ", {"n": np.array(0)}),
        ("n, ", {"n": np.array(-3)}),
        ("m, off", {"off": np.array(False)}),
        (", off", {"off": np.array(False)}),
    ],
)
def test_loop_that_never_runs(head: str, constants: dict[str, np.ndarray]) -> None:
    body = "e = Identity(d) f = Exp(a) g = Gather(pair, one)"
    signature = "(float[N] x, int64 m) => (float[N] y, int64[K,1] z)"
    fires("loop_never", signature, loop(head, body, ", z", ", int64[1] g"), "", pair=np.array([4, 5]), one=np.array([1]), **constants)
    unknown = signature.replace("int64[K,1]", "float[K,L]"), loop(head, "e = Identity(d) f = Exp(a) g = Sin(a)", ", z", ", float[N] g")
    stays("loop_never", "not fixed", *unknown, **constants)


TWO = (
    "y, z = Loop(m, on, x, x) <body = b (int64 i, bool d, float[N] a, float[N] h) => "
    "(bool e, float[N] f, float[N] k) {{ e = Identity(d) {} }}>"
)


def test_state_that_never_changes() -> None:
    outcome = fires(
        "loop_carried", "(float[N] x, int64 m) => (float[N] y, float[N] z)",
        TWO.format("f = Add(a, h) k = Identity(h)"), "Loop", on=np.array(True),
    )  # fmt: skip
    assert len(outcome.node("Loop").output) == 1
    outcome = fires(
        "loop_carried", "(float[N] x, int64 m) => (float[N] y, float[N] z)",
        TWO.format("f = Identity(h) k = Identity(h)"), "Loop", on=np.array(True),
    )  # fmt: skip
    assert len(outcome.node("Loop").input) == 3


def test_states_that_nobody_needs() -> None:
    outcome = fires(
        "loop_carried", "(float[N] x, int64 m) => (float[N] y)", TWO.format("f = Exp(a) k = Sin(h)"), "Loop",
        on=np.array(True),
    )  # fmt: skip
    assert len(outcome.node("Loop").input) == 3
    swapped = TWO.format("f = Exp(h) k = Sin(a)")
    stays("loop_carried", "changes and is needed", "(float[N] x, int64 m) => (float[N] y)", swapped, on=np.array(True))
    ends = TWO.replace("e = Identity(d)", "s = ReduceMax<keepdims=0>(h) e = Less(s, three)").format("f = Exp(a) k = Sin(h)")
    stays("loop_carried", "changes and is needed", "(float[N] x, int64 m) => (float[N] y)", ends, on=np.array(True),
          three=np.float32(3))  # fmt: skip


def test_collected_that_nobody_reads() -> None:
    body = "e = Identity(d) f = Exp(a) g = Sin(a)"
    outcome = fires("loop_carried", "(float[N] x, int64 m) => (float[N] y)",
                    loop("m, ", body, ", z", ", float[N] g"), "Loop")  # fmt: skip
    assert len(outcome.node("Loop").output) == 1 and len(outcome.node("Loop").attribute[0].g.node) == 2


SCAN = (
    "y, z = Scan<num_scan_inputs=1>(s, t, x) <body = b (float[3] a, float[3] h, float[3] v) => "
    "(float[3] f, float[3] k, float[3] g, float[3] g2) { f = Add(a, v) k = Identity(h) g = Mul(f, h) g2 = Neg(f) }>"
).replace("y, z", "y, u, z, w")


def test_scan() -> None:
    signature = "(float[3] s, float[3] t, float[5,3] x) => (float[3] y, float[5,3] z)"
    body = SCAN.replace("<num_scan_inputs=1>", "").replace("<body", "<num_scan_inputs=1, scan_output_axes=[0,1], body")
    outcome = fires("loop_carried", signature, body, "Scan")
    assert len(outcome.node("Scan").output) == 2
    assert [list(a.ints) for a in outcome.node("Scan").attribute if a.name == "scan_output_axes"] == [[0]]


def test_invariant_of_loop() -> None:
    body = "e = Identity(d) w2 = MatMul(w, w) v = Neg(w2) u = MatMul(v, x) f = Add(a, u)"
    outcome = fires("loop_invariant", "(float[3] x, float[3,3] w) => (float[3] y)",
                    loop("n, ", body).replace("[N]", "[3]"), "Loop MatMul MatMul Neg", n=np.array(20))  # fmt: skip
    assert len(outcome.node("Loop").attribute[0].g.node) == 2


def test_invariant_when_the_loop_may_not_run() -> None:
    signature = "(float[3] x, int64 m, float[3] w) => (float[3] y)"
    cheap = "e = Identity(d) s = Neg(w) v = Mul(s, x) f = Add(a, v)"
    fires("loop_invariant", signature, loop("m, ", cheap).replace("[N]", "[3]"), "Loop Neg Mul")
    for dear in ("v = MatMul(w, x) f = Add(a, v)", "k = Cast<to=7>(w) v = Gather(x, k) f = Add(a, v)",
                 "v = RandomNormalLike(w) f = Add(a, v)"):  # fmt: skip
        text = loop("m, ", f"e = Identity(d) {dear}").replace("[N]", "[3]")
        if "Cast" in dear:
            outcome = fires("loop_invariant", signature, text, "Loop Cast", accuracy="close", by="none")
            assert [n.op_type for n in outcome.node("Loop").attribute[0].g.node].count("Gather") == 1
        else:
            stays("loop_invariant", "depends on something that changes", signature, text)
    other = "(float[N] x, int64 m, float[K] w, float[L] q) => (float[N] y)"
    text = loop("m, ", "e = Identity(d) v = Mul(w, q) s = ReduceSum<keepdims=0>(v) f = Add(a, s)")
    stays("loop_invariant", "depends on something that changes", other, text)


def test_invariant_of_scan() -> None:
    body = (
        "y = Scan<num_scan_inputs=1, body = b (float[3] v) => (float[3] g) "
        "{ q = Constant<value_float=2.0>() u = Mul(w, q) k = MatMul(u, v) g = Neg(k) }>(x)"
    )
    text = "(float[5,3] x, float[3,3] w) => (float[5,3] y)"
    fires("loop_invariant", text, body, "Mul Scan")


def test_invariant_of_a_loop_in_a_loop() -> None:
    inner = (
        "f0 = Loop(m, , a0) <body = b (int64 i, bool d, float[3] a) => (bool e, float[3] f) "
        "{ e = Identity(d) t = Tanh(x) s = Mul(t, w) f = Add(a, s) }>"
    )
    outer = ("y = Loop(m, , x) <body = o (int64 i0, bool d0, float[3] a0) => (bool e0, float[3] f0) "
             f"{{ e0 = Identity(d0) {inner} }}>")  # fmt: skip
    outcome = fires("loop_invariant", "(float[3] x, int64 m) => (float[3] y)", outer, "Loop Mul Tanh",
                    accuracy="close", w=weight(3))  # fmt: skip
    assert outcome.fired["loop_invariant"] == 2


def test_a_body_reads_what_is_computed_around_it() -> None:
    body = "s = Sin(x) " + IF.format("a = Sin(x) p = Exp(a)", "b = Sin(x) d = Cos(b) q = Mul(d, s)")
    model = build("(float[N] x, bool c) => (float[N] y)", body)
    outcome = rewrite(model, Cleanup(), "exact")
    assert outcome.fired == {"common_subexpression": 2}
    (node,) = [n for n in outcome.after.graph.node if n.op_type == "If"]
    assert sorted(op for a in node.attribute for op in (n.op_type for n in a.g.node)) == ["Cos", "Exp", "Mul"]
    assert_same(outcome)
    drawn = "s = RandomNormalLike(x) " + IF.format("a = RandomNormalLike(x) p = Exp(a)", "q = Mul(x, s)")
    assert not rewrite(build("(float[N] x, bool c) => (float[N] y)", drawn), Cleanup(), "exact").fired


def test_branches_do_not_read_from_each_other() -> None:
    body = IF.format("a = Sin(x) p = Exp(a)", "b = Sin(x) q = Cos(b)") + " z = Sin(x)"
    model = build("(float[N] x, bool c) => (float[N] y, float[N] z)", body)
    assert not rewrite(model, Cleanup(), "exact").fired
