"""What became of a rule at each node of a model: it fired, its node was consumed, or why not."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt import Domain, Node, Rule, Tensor, UsageError, op, require, rule
from graphopt.engine.explain import Outcome, explain, nodes_named, obstacles
from graphopt.targets.target import load_target
from tests.unit.engine import model, ops
from tests.unit.explaining import reason

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
