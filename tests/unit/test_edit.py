"""The Editor: names, order, uses, what dies, and that a declined change leaves no trace."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.ir.edit import Decline, Editor, StopRewriting
from graphopt.ir.ranks import Ranks
from tests.unit.engine import check_uses, model, ops

F = np.float32


def nodes(m: graphopt.Model) -> dict[str, graphopt.Node]:
    return {o.name: n for n in m.main.nodes for o in n.outputs}


def test_a_graph_output_keeps_its_name() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Identity(a) }")
    found = nodes(m)
    with Editor(m).rewrite("test", at=found["y"]) as rewrite:
        rewrite.replace(found["y"].outputs[0], found["a"].outputs[0])
    assert ops(m) == ["Neg"]
    assert [o.name for o in m.main.outputs] == ["y"]


def test_a_graph_input_as_output_needs_an_identity() -> None:
    m = model("g (float[4] x) => (float[4] y) { y = Abs(x) }")
    (node,) = m.main.nodes
    with Editor(m).rewrite("test", at=node) as rewrite:
        rewrite.replace(node.outputs[0], m.main.inputs[0])
    assert ops(m) == ["Identity"]
    (node,) = m.main.nodes
    with pytest.raises(Decline, match="a graph output keeps its name"):
        with Editor(m).rewrite("test", at=node) as rewrite:
            rewrite.replace(node.outputs[0], m.main.inputs[0])


def test_two_outputs_of_one_value_keep_both_names() -> None:
    m = model("g (float[4] x) => (float[4] y, float[4] z) { y = Neg(x) z = Neg(x) }")
    found = nodes(m)
    with Editor(m).rewrite("test", at=found["z"]) as rewrite:
        rewrite.replace(found["z"].outputs[0], found["y"].outputs[0])
    assert ops(m) == ["Neg", "Identity"]
    assert [o.name for o in m.main.outputs] == ["y", "z"]
    check_uses(m)


def test_a_replacement_may_read_what_it_replaces() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Exp(a) }")
    found = nodes(m)
    value = found["a"].outputs[0]
    with Editor(m).rewrite("test", at=found["a"]) as rewrite:
        (new,) = rewrite.node("Relu", [value])
        rewrite.replace(value, new)
    assert ops(m) == ["Neg", "Relu", "Abs", "Exp"]
    check_uses(m)


def test_one_input_of_one_node() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Add(a, b) }")
    found = nodes(m)
    with Editor(m).rewrite("test", at=found["y"]) as rewrite:
        (new,) = rewrite.node("Relu", [found["a"].outputs[0]])
        rewrite.set_input(found["y"], 0, new)
    assert ops(m) == ["Neg", "Abs", "Relu", "Add"]
    check_uses(m)


def test_dead_constants_go_with_their_last_reader() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Mul(x, c) b = Add(a, d) y = Neg(x) }", c=F(2), d=F(3))
    editor = Editor(m)
    assert editor.remove_dead("test", [nodes(m)["b"]]) == 2
    assert ops(m) == ["Neg"]
    assert m.main.initializers == ()


def test_an_initializer_that_a_caller_can_override_stays() -> None:
    m = model("g (float[4] x, float[4] c) => (float[4] y) { a = Mul(x, c) y = Neg(x) }", c=np.ones(4, F))
    Editor(m).remove_dead("test", [nodes(m)["a"]])
    assert [v.name for v in m.main.initializers] == ["c"]


def test_a_decline_leaves_no_trace() -> None:
    m = model("g (float[2,4] x) => (float[2,4] y) { a = Neg(x) y = Abs(a) }")
    found = nodes(m)
    before = [(n.op, n.inputs, n.outputs) for n in m.main.nodes]
    editor = Editor(m)
    with pytest.raises(Decline, match="the shape of the replacement is not provably the same"):
        with editor.rewrite("test", at=found["a"]) as rewrite:
            (new,) = rewrite.node("Transpose", [m.main.inputs[0]])
            rewrite.replace(found["a"].outputs[0], new)
    assert [(n.op, n.inputs, n.outputs) for n in m.main.nodes] == before
    assert len(m.main.inputs[0].uses()) == 1
    assert editor.ordinal == 0


def test_what_comes_later_cannot_be_read() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) b = Abs(a) y = Exp(b) }")
    found = nodes(m)
    with pytest.raises(Decline, match="computed after what reads the replacement"):
        with Editor(m).rewrite("test", at=found["a"]) as rewrite:
            (new,) = rewrite.node("Sin", [found["y"].outputs[0]])
            rewrite.replace(found["a"].outputs[0], new)
    check_uses(m)


def test_the_last_ordinal() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Identity(x) b = Identity(a) y = Neg(b) }")
    found = nodes(m)
    editor = Editor(m, stop_after=1)
    with editor.rewrite("test", at=found["a"]) as rewrite:
        rewrite.replace(found["a"].outputs[0], m.main.inputs[0])
    with pytest.raises(StopRewriting):
        editor.rewrite("test", at=found["b"])


def test_bodies_die_with_their_node() -> None:
    text = """g (bool c, float[4] x) => (float[4] y) {
        a = Neg(x)
        dead = If(c) <then_branch = t () => (float[4] p) { p = Abs(a) }, else_branch = e () => (float[4] q) { q = Exp(a) }>
        y = Relu(x) }"""
    m = model(text)
    assert Editor(m).remove_dead("test", [nodes(m)["dead"]]) == 2
    assert ops(m) == ["Relu"]
    assert [g.name for g in m.graphs()] == ["g"]


def test_a_reader_in_a_body_counts() -> None:
    text = """g (bool c, float[4] x) => (float[4] y) {
        a = Identity(x)
        y = If(c) <then_branch = t () => (float[4] p) { p = Abs(a) }, else_branch = e () => (float[4] q) { q = Exp(a) }>
    }"""
    m = model(text)
    found = nodes(m)
    with Editor(m).rewrite("test", at=found["a"]) as rewrite:
        (new,) = rewrite.node("Neg", [m.main.inputs[1]])
        rewrite.replace(found["a"].outputs[0], new)
    assert ops(m) == ["Neg", "If"]
    then, other = found["y"].bodies
    assert [n.inputs[0].name for g in (then, other) for n in g.nodes if n.inputs[0]] == ["a", "a"]


def test_names_are_never_used_twice() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Abs(a) }")
    editor = Editor(m)
    assert [editor.fresh_name("a"), editor.fresh_name("new"), editor.fresh_name("new"), editor.fresh_name("a")] == [
        "a_1", "new", "new_1", "a_2",
    ]  # fmt: skip


def test_ranks_survive_many_insertions() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Abs(a) }")
    editor = Editor(m)
    for _ in range(100):
        last = nodes(m)["y"]
        with editor.rewrite("test", at=last) as rewrite:
            source = last.inputs[0]
            assert source is not None
            (new,) = rewrite.node("Relu", [source])
            rewrite.set_input(last, 0, new)
    assert len(ops(m)) == 102
    check_uses(m)
    ranks = [editor.ranks.of(n._raw) for n in m.main.nodes]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 102


def test_ranks_number_a_graph_when_first_asked() -> None:
    m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Abs(a) }")
    ranks = Ranks()
    first, second = (n._raw for n in m.main.nodes)
    assert ranks.of(first) < ranks.of(second)


def test_in_a_function_constants_are_nodes() -> None:
    from onnx import parser

    text = """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
    g (float[4] x) => (float[4] y) { y = local.f(x) }
    <opset_import: ["" : 20], domain: "local"> f (a) => (b) { c = Neg(a) b = Neg(c) }"""
    m = graphopt.load(parser.parse_model(text))
    body = list(m.graphs())[1]
    first = next(iter(body.nodes))
    with Editor(m).rewrite("test", at=first, same_type=False) as rewrite:
        (new,) = rewrite.node("Mul", [first.inputs[0], rewrite.constant(np.array(-1, F), "minus")])
        rewrite.replace(first.outputs[0], new)
    assert [n.op for n in body.nodes] == ["Constant", "Mul", "Neg"]
    assert body.initializers == ()


def test_an_operand_that_must_be_given_is_not_left_out() -> None:
    """Clip has one, Loop two: a Loop has its condition, be it empty, even where it carries nothing."""
    m = model("g (int64 n) => (float[N,2] y) { y = Loop(n, ) "
              "<body = b (int64 k, bool c) => (bool d, float[2] p) { d = Identity(c) p = Constant<value = float[2] {1, 2}>() }> }")
    (node,) = m.main.nodes
    with Editor(m).rewrite("test", at=node, same_type=False) as rewrite:
        (again,) = rewrite.node("Loop", [m.main.inputs[0], None], {"body": rewrite.body(node.attr("body"), {})})
        (clipped,) = rewrite.node("Clip", [again, None, None])
        made = [value.producer for value in (again, clipped)]
        assert [len(n.inputs) for n in made if n is not None] == [2, 1]
        rewrite.replace(node.outputs[0], clipped)


def test_an_attribute_that_callers_set_declines() -> None:
    text = """g (float[2,3] x) => (float[2,3] y) { y = local.f<axis = 0>(x) }
      <opset_import: ["" : 18], domain: "local"> f <axis> (p) => (q) { q = Softmax<axis : int = @axis>(p) }"""
    m = graphopt.load(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18, "local" : 1]> {text}'))
    (softmax,) = [n for graph in m.graphs() for n in graph.nodes if n.op == "Softmax"]
    with pytest.raises(Decline, match="whoever calls the function"):
        softmax.attr("axis")
