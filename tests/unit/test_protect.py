"""What is protected stays as it is, whatever wants to change it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

import graphopt
from graphopt import op, rule
from graphopt.errors import UsageError
from graphopt.ir.edit import Decline, Editor
from graphopt.ir.protect import protect
from tests.unit.engine import check_uses, drive, model, ops, reasons

ROOT = Path(__file__).parents[2]


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def neg_neg(x):
    """Twice the opposite is the number itself."""
    return x


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact", single_use=False)
def neg_neg_shared(x):
    """The same, where others read the inner one."""
    return x


@rule(lambda x: op.Identity(x), accuracy="exact", single_use=False)
def identity(x):
    """An Identity passes its input on."""
    return x


@rule(lambda x, w: op.Relu(op.MatMul(x, w)), bounded=True)
def without_weight(x, w):
    """Not true, but it drops a weight."""
    return op.Exp(x)


@rule(lambda x: op.Relu(x), bounded=True, once=True)
def relu_to_abs(x):
    """Not true, but it makes another node with the same output."""
    return op.Abs(x)


CHAIN = """g (float[4] x) => (float[4] y) {
    [first] a = Neg (x)
    [second] b = Neg (a)
    [third] c = Relu (b)
    [last] y = Identity (c)
}"""


def editor(found: graphopt.Model, *patterns: str) -> Editor:
    return Editor(found, protection=protect(found, patterns))


def names(found: graphopt.Model) -> list[str]:
    return [n.name for n in found.main.nodes]


@pytest.mark.parametrize("pattern", ["first", "second", "fir*", "op:Neg", "op:N?g", "[fs]*", "a", "b"])
def test_a_rule_does_not_touch_what_is_protected(pattern: str) -> None:
    found = model(CHAIN)
    count, stats = drive(found, neg_neg, editor=editor(found, pattern))
    assert count == 0
    assert names(found) == ["first", "second", "third", "last"]
    assert reasons(stats) == [f"{pattern!r} is protected"]
    assert stats.declined["neg_neg"].total() == 1
    check_uses(found)


def test_a_name_is_taken_literally_before_it_is_taken_for_a_pattern() -> None:
    found = model(CHAIN)
    nodes = list(found.main.nodes)
    nodes[0]._raw.name, nodes[1]._raw.name = "w[0]", "w0"
    kept = protect(found, ["w[0]"])
    assert kept is not None
    assert {node.name for node in kept.nodes} == {"w[0]", "w0"}
    nodes[1]._raw.name = "w1"
    kept = protect(found, ["w[0]"])
    assert kept is not None
    assert {node.name for node in kept.nodes} == {"w[0]"}


def test_a_node_that_is_not_part_of_the_rewrite_does_not_hold_it_up() -> None:
    found = model(CHAIN)
    count, _ = drive(found, neg_neg, editor=editor(found, "last"))
    assert count == 1
    assert names(found) == ["third", "last"]


def test_what_a_protected_node_reads_keeps_its_name() -> None:
    found = model(CHAIN)  # x would be what `third` reads, in the place of b
    count, stats = drive(found, neg_neg, editor=editor(found, "third"))
    assert count == 0
    assert reasons(stats) == ["'third' is protected"]


def test_what_a_protected_node_reads_may_be_computed_otherwise() -> None:
    found = model(CHAIN)
    count, _ = drive(found, relu_to_abs, editor=editor(found, "last"))
    assert count == 1
    assert ops(found) == ["Neg", "Neg", "Abs", "Identity"]
    (last,) = [n for n in found.main.nodes if n.name == "last"]
    assert last.inputs[0] is not None and last.inputs[0].name == "c"


def test_a_value_does_not_lose_its_last_reader() -> None:
    text = "g (float[4, 4] x) => (float[4, 4] y) { a = MatMul (x, w) y = Relu (a) }"
    found = model(text, w=np.eye(4, dtype=np.float32))
    count, stats = drive(found, without_weight, editor=editor(found, "w"))
    assert (count, reasons(stats)) == (0, ["'w' is protected"])
    count, _ = drive(found, without_weight)
    assert (count, ops(found)) == (1, ["Exp"])


def test_a_value_may_lose_a_reader_while_there_are_others() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] y, float[4, 4] z) {
        a = MatMul (x, w)
        y = Relu (a)
        z = Add (x, w)
    }"""
    found = model(text, w=np.eye(4, dtype=np.float32))
    count, _ = drive(found, without_weight, editor=editor(found, "w"))
    assert count == 1
    assert [v.name for v in found.main.initializers] == ["w"]


def test_a_protected_node_does_not_lose_its_last_reader() -> None:
    found = model("g (float[4] x) => (float[4] y) { [keep] a = Abs (x) b = Neg (a) y = Neg (b) }")

    @rule(lambda x: op.Neg(op.Neg(op.Abs(x))), single_use=False, bounded=True)
    def over_it(x):
        """Not true, but it reads past `keep`."""
        return op.Exp(x)

    count, stats = drive(found, over_it, editor=editor(found, "keep"))
    assert (count, reasons(stats)) == (0, ["'keep' is protected"])


def test_an_output_does_not_take_the_name_of_a_protected_value() -> None:
    found = model(CHAIN)
    count, stats = drive(found, identity, editor=editor(found, "third"))
    assert (count, reasons(stats)) == (0, ["'third' is protected"])
    found = model(CHAIN)
    count, stats = drive(found, identity, editor=editor(found, "c"))
    assert (count, reasons(stats)) == (0, ["'c' is protected"])


def test_a_protected_reader_keeps_the_name_when_its_input_becomes_an_output() -> None:
    text = """g (float[4] x) => (float[4] y, float[4] z) {
        a = Neg (x)
        y = Identity (a)
        [keep] z = Relu (a)
    }"""
    found = model(text)
    count, stats = drive(found, identity, editor=editor(found, "keep"))
    assert (count, reasons(stats)) == (0, ["'keep' is protected"])


def test_dead_nodes_and_weights_stay_if_they_are_protected() -> None:
    text = "g (float[4] x) => (float[4] y) { [dead] d = Neg (x) [gone] e = Abs (d) [used] y = Add (x, x) }"
    found = model(text, w=np.eye(4, dtype=np.float32))
    edit = editor(found, "dead", "w")
    assert edit.remove_dead("cleanup.dead", found.main.unread()) == 1
    assert names(found) == ["dead", "used"]
    assert edit.remove_dead("cleanup.dead", found.main.unread()) == 0
    edit.drop_initializer(found.main.initializers[0])
    assert [v.name for v in found.main.initializers] == ["w"]
    assert edit.ordinal == 1


def test_inputs_of_a_protected_node_are_not_set() -> None:
    found = model(CHAIN)
    edit = editor(found, "third")
    node = next(n for n in found.main.nodes if n.name == "third")
    rewrite = edit.rewrite("mine", at=node)
    rewrite.set_input(node, 0, found.main.inputs[0])
    with pytest.raises(Decline, match="'third' is protected"):
        rewrite.commit()
    assert node.inputs[0] is not None and node.inputs[0].name == "b"


BRANCHES = """g (bool c, float[4] x) => (float[4] y) {
    [choice] y = If (c) <
        then_branch = yes () => (float[4] t) { [inner] n = Neg (x) [outer] t = Neg (n) },
        else_branch = no () => (float[4] e) { [else] e = Neg (x) }
    >
}"""


def test_bodies_of_a_protected_node_are_protected() -> None:
    found = model(BRANCHES)
    count, stats = drive(found, neg_neg, editor=editor(found, "choice"))
    assert (count, reasons(stats)) == (0, ["'choice' is protected"])


def test_a_node_around_a_protected_one_stays() -> None:
    found = model(BRANCHES.replace("bool c, ", ""), c=np.array(True))
    edit = editor(found, "inner")
    (node,) = found.main.nodes
    rewrite = edit.rewrite("mine", at=node)
    rewrite.replace(node.outputs[0], found.main.inputs[0])
    with pytest.raises(Decline, match="'inner' is protected"):
        rewrite.commit()


CALLS = """
<ir_version: 10, opset_import: ["" : 20, "mine" : 1]>
g (float[4] x) => (float[4] y) { a = mine.twice (x) y = Neg (x) }
<domain: "mine", opset_import: ["" : 20]>
twice (p) => (q) { [inside] q = Add (p, p) }
"""


@pytest.mark.parametrize(("patterns", "kept"), [((), 0), (("inside",), 1), (("op:Neg",), 0)])
def test_functions_with_something_protected_stay(patterns: tuple[str, ...], kept: int) -> None:
    found = graphopt.load(parser.parse_model(CALLS))
    edit = editor(found, *patterns)
    edit.remove_dead("cleanup.dead", found.main.unread())
    edit.drop_unused_functions()
    assert len(found.ir.functions) == kept


@pytest.mark.parametrize(
    ("patterns", "declined"),
    [
        (("first",), "'first' is protected"),
        (("b",), "'b' is protected"),
        (("w",), "'w' is protected"),
        (("last", "v"), None),
        (("op:Identity",), None),
    ],
)
def test_another_graph_must_have_what_is_protected(patterns: tuple[str, ...], declined: str | None) -> None:
    weights = {"w": np.ones(4, np.float32), "v": np.zeros(4, np.float32)}
    text = CHAIN.replace("(b)", "(b2)").replace("[third]", "b1 = Add (b, w) b2 = Mul (b1, v) [third]")
    other = CHAIN.replace("[first] a = Neg (x)", "").replace("[second] b = Neg (a)", "b2 = Mul (x, v)")
    found = model(text, **weights)
    edit = editor(found, *patterns)
    changed = model(other.replace("(b)", "(b2)"), w=weights["w"] * 2, v=weights["v"]).ir
    if declined is not None:
        with pytest.raises(Decline, match=declined):
            edit.replace_all("theirs", lambda _: changed)
        assert names(found)[:2] == ["first", "second"]
        return
    assert edit.replace_all("theirs", lambda _: changed) is not None
    assert ops(found) == ["Mul", "Relu", "Identity"]
    (last,) = [n for n in found.main.nodes if n.op == "Identity"]
    assert edit.protects(last)
    assert edit.protects(last.outputs[0])
    assert not edit.protects(next(iter(found.main.nodes)))
    _, stats = drive(found, identity, editor=edit)
    assert reasons(stats) == [f"{patterns[0]!r} is protected"]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("frist", "did you mean 'first'?"),
        ("op:Nge", "did you mean 'op:Neg'?"),
        ("zzz", "there is, for example, 'a', 'b', 'c', 'first'"),
        ("op:neg", "did you mean 'op:Neg'?"),
    ],
)
def test_a_pattern_that_names_nothing_is_an_error(pattern: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        protect(model(CHAIN), ["first", pattern])
    assert str(raised.value) == f"there is nothing to protect that is called {pattern!r}\n  {hint}"


def test_folders_are_near_too() -> None:
    found = model("g (float[4] x) => (float[4] y) { [a] y = Neg (x) }")
    next(iter(found.main.nodes))._raw.name = "/model/head/fc/Neg"
    with pytest.raises(UsageError, match="did you mean '/model/head/\\*'"):
        protect(found, ["/model/haed/*"])


def test_without_patterns_nothing_is_protected() -> None:
    assert protect(model(CHAIN), []) is None


def weights(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes}


LAYERS = """g (float[1, 8] x) => (float[1, 8] y) {
    [fc1] a = MatMul (x, w1)
    [bias1] b = Add (a, b1)
    [act] c = Relu (b)
    [fc2] d = MatMul (c, w2)
    [bias2] e = Add (d, b2)
    [norm] y = Softmax (e)
}"""


def layers() -> graphopt.Model:
    return model(LAYERS, 17, **weights(("w1", (8, 8)), ("b1", (8,)), ("w2", (8, 8)), ("b2", (8,))))


def written(found: graphopt.Model, name: str) -> tuple[object, ...]:
    """A node as it stands in the file."""
    (node,) = [n for n in found.main.nodes if n.name == name]
    return node.op, [v and v.name for v in node.inputs], [v.name for v in node.outputs], repr(node.attrs)


@pytest.mark.parametrize("pattern", ["fc1", "bias1", "act", "fc2", "norm", "w1", "b2", "c", "y", "op:MatMul", "*1", "*"])
def test_nothing_that_is_protected_is_quantized(pattern: str) -> None:
    before, given = layers(), layers()
    kept = protect(before, [pattern])
    assert kept is not None
    result = graphopt.optimize(given, "quant", target="ort-cpu", protect=[pattern])
    for node in kept.nodes:
        assert written(result.model, node.name or "") == written(before, node.name or "")
    constants = {v.name: v.array() for v in result.model.main.initializers}
    for value in kept.values:
        if value.name in ("w1", "b1", "w2", "b2"):
            assert np.array_equal(constants[value.name], value.const_value.numpy())
    quantized = [n.op for n in result.model.main.nodes].count("QuantizeLinear")
    assert (quantized == 0) == (pattern in ("op:MatMul", "*"))
    assert result.verification is not None
    assert result.verification.status != "failed"


def test_what_is_protected_is_counted() -> None:
    result = graphopt.optimize(layers(), "fuse,quant", target="ort-cpu", protect=["fc1"], verify=False)
    reasons_given = {reason for item in result.report.passes for counts in item.declined.values() for reason in counts}
    assert reasons_given >= {"'fc1' is protected", "it is protected"}


def test_a_text_alone_is_no_list_of_patterns() -> None:
    with pytest.raises(UsageError) as raised:
        graphopt.optimize(layers(), protect="/head/*")
    assert str(raised.value) == "protect cannot be '/head/*'\n  give a list of texts: protect=['…']"


@pytest.mark.parametrize("passes", ["O3", "fuse,quant"])
@pytest.mark.parametrize("name", ["residual_cnn", "depthwise_se", "bilstm", "vit"])
def test_trained_networks_keep_what_is_protected(name: str, passes: str) -> None:
    path = ROOT / "fixtures" / "models" / f"{name}.onnx"
    before = graphopt.load(path)
    rng = random.Random(name + passes)
    found = [n for n in before.main.nodes if n._raw.name]
    chosen = [n.name for n in rng.sample(found, 6)] + [v.name for v in rng.sample(before.main.initializers, 2)]
    result = graphopt.optimize(path, passes, target="ort-cpu", protect=chosen, verify=False)
    kept = {v.name: v for v in result.model.main.initializers}
    for item in chosen[:6]:
        assert written(result.model, item) == written(before, item)
    for item in chosen[6:]:
        (value,) = [v for v in before.main.initializers if v.name == item]
        assert np.array_equal(kept[item].array(), value.array())
    assert result.report.rewrites > 0
