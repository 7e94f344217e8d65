"""What is known behind a value that was replaced by one of which more is known."""

from __future__ import annotations

import numpy as np
import onnx_ir as oir
import pytest

from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from tests.unit.engine import model

OPEN = """g (float[2,4] x, float[N,M] z, bool c) => (float[P,Q] y, int64[2] n) {
    r = If (c) <then_branch = t () => (float[A,B] q) { q = Neg(x) }, else_branch = e () => (float[D,E] s) { s = Relu(z) }>
    a = Tanh(r)
    n = Shape(a)
    k = Reshape(a, flat)
    y = Reshape(k, n)
}"""


def value(found: Model, name: str) -> oir.Value:
    return next(v for node in found.ir.graph for v in node.outputs if v.name == name)


def replace(found: Model, name: str, by: str) -> None:
    """Let who reads the value `name` read the graph input `by`, of whatever type."""
    node = next(n for n in found.main.nodes if n.outputs[0].name == name)
    with Editor(found).rewrite("test", at=node, same_type=False) as rewrite:
        rewrite.replace(node.outputs[0], next(v for v in found.main.inputs if v.name == by))


def test_sizes_are_inferred_again_behind_it() -> None:
    found = model(OPEN, flat=np.array([-1], np.int64))
    facts = found.facts
    assert facts.shape(value(found, "a")) != (2, 4)
    replace(found, "r", "x")
    assert facts.shape(value(found, "a")) == (2, 4)
    assert facts.shape(value(found, "k")) == (8,)
    assert facts.symbolic(value(found, "n")) == (2, 4)
    assert facts.shape(value(found, "y")) == (2, 4)


def test_within_bodies_and_out_of_them() -> None:
    text = """g (float[2,4] x, float[N,M] z, bool c, bool d) => (float[P,Q] y) {
        r = If (c) <then_branch = t () => (float[A,B] q) { q = Neg(x) }, else_branch = e () => (float[D,E] s) { s = Relu(z) }>
        o = If (d) <then_branch = u () => (float[F,G] v) { v = Tanh(r) }, else_branch = w () => (float[H,I] m) { m = Abs(x) }>
        y = Exp(o)
    }"""
    found = model(text)
    replace(found, "r", "x")
    assert found.facts.shape(value(found, "o")) == (2, 4)
    assert found.facts.shape(value(found, "y")) == (2, 4)


def test_what_was_known_is_not_forgotten() -> None:
    text = "g (float[N,M] x, float[2,4] z) => (float[2,4] y) { r = Relu(z) y = Tanh(r) }"
    found = model(text)
    replace(found, "r", "x")
    assert found.facts.shape(value(found, "y")) == (2, 4)


def test_equal_constants_that_become_one_tell_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 40
    body = " ".join(f"y{i} = Add(x, c{i})" for i in range(count))
    outputs = ", ".join(f"float[N] y{i}" for i in range(count))
    found = model(f"g (float[N] x) => ({outputs}) {{ {body} }}", **{f"c{i}": np.ones(1, np.float32) for i in range(count)})
    inferred: list[oir.Node] = []
    monkeypatch.setattr(found.facts, "outputs", lambda node, *_: inferred.append(node) or [])
    first, *others = found.main.initializers
    with Editor(found).rewrite("test", at=next(found.main.nodes)) as rewrite:
        for other in others:
            rewrite.replace(other, first)
    assert len(first.uses()) == count
    assert not inferred
