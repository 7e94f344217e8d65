"""Statistics of values inside the bodies of If, Loop and Scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant.calibrate import Calibration, calibrate
from graphopt.quant.collect import Watch

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def model(text: str) -> Model:
    return Model(*read_model(onnx.parser.parse_model(HEAD + text).SerializeToString()))


def seen(text: str, watches: list[Watch | str], *feeds: dict[str, object]) -> Calibration:
    arrays = [{k: np.asarray(v, np.bool_ if k == "c" else np.int64 if k == "n" else np.float32) for k, v in f.items()} for f in feeds]
    m = model(text)
    before = [n.op for g in m.graphs() for n in g.nodes]
    found = calibrate(m, watches, arrays)
    assert [n.op for g in m.graphs() for n in g.nodes] == before, "the model itself stays as it is"
    return found


BRANCHES = (
    "g (float[N,2] x, bool c) => (float[N,2] y) { y = If(c) "
    "<then_branch = t () => (float[N,2] p) { q = Neg(x)  r = Abs(q)  p = Add(q, r) },"
    " else_branch = e () => (float[N,2] s) { s = Exp(x) }> }"
)


def test_a_branch_is_seen_when_it_is_taken() -> None:
    found = seen(BRANCHES, ["x", Watch("q", 1), "s", "p", "y"], {"x": [[1, 2]], "c": True}, {"x": [[3, 0]], "c": False})
    s = found.statistics
    assert not found.missing and found.warnings == ()
    assert (s["q"].minimum, s["q"].maximum, s["q"].count, s["q"].batches) == (-2, -1, 2, 1)
    assert found.channels["q"].minimum.tolist() == [-1, -2]
    assert (s["s"].minimum, s["p"].maximum, s["y"].count) == (1, 0, 4)


def test_a_branch_that_is_never_taken_is_missing() -> None:
    found = seen(BRANCHES, ["s"], {"x": [[1, 2]], "c": True})
    assert dict(found.missing) == {"s": "no sample reached it"} and not found.statistics
    assert found.warnings[1:] == ()


def test_branches_within_branches() -> None:
    text = (
        "g (float[N] x, bool c) => (float[N] y) { d = Not(c)  y = If(c) <then_branch = t () => (float[N] p) {"
        " p = If(d) <then_branch = u () => (float[N] a) { b = Neg(x)  a = Abs(b) },"
        " else_branch = v () => (float[N] f) { h = Exp(x)  f = Neg(h) }> },"
        " else_branch = e () => (float[N] s) { s = Identity(x) }> }"
    )
    found = seen(text, ["h", "b"], {"x": [0, 0], "c": True}, {"x": [0, 0], "c": False})
    assert found.statistics["h"].count == 2 and found.statistics["h"].maximum == 1
    assert dict(found.missing) == {"b": "no sample reached it"}


LOOP = (
    "g (float[3] x, int64 n) => (float[3] y) { t = Constant<value = bool {1}>()  y = Loop(n, t, x) "
    "<body = b (int64 i, bool go, float[3] a) => (bool go2, float[3] a2) { go2 = Identity(go)  d = Add(a, a)  a2 = Neg(d) }> }"
)


def test_all_iterations_of_a_loop() -> None:
    found = seen(LOOP, [Watch("d", 0), Watch("a", gram=-1)], {"x": [1, 2, 3], "n": 3}, {"x": [0, 0, 0], "n": 0})
    s = found.statistics["d"]
    assert (s.count, s.minimum, s.maximum) == (9, -12, 24)
    assert found.channels["d"].axis == 0 and found.channels["d"].maximum.tolist() == [8, 16, 24]
    x = np.array([[1, 2, 3], [-2, -4, -6], [4, 8, 12]])
    assert found.grams["a"].tolist() == (x.T @ x).tolist() and found.along["a", -1].count.tolist() == [3] * 3


def test_a_loop_whose_values_change_their_size_is_declined() -> None:
    text = (
        "g (float[2] x, int64 n) => (float[M] y) { t = Constant<value = bool {1}>()  y = Loop(n, t, x) "
        "<body = b (int64 i, bool go, float[K] a) => (bool go2, float[L] a2) { go2 = Identity(go)  a2 = Concat<axis=0>(a, a) }> }"
    )
    found = seen(text, ["a2", "x"], {"x": [1, 2], "n": 2})
    assert dict(found.missing) == {"a2": "its size changes from one iteration to the next"}
    assert list(found.statistics) == ["x"]


def test_scan() -> None:
    text = (
        "g (float[2] h, float[T,2] x) => (float[2] y, float[T,2] z) { y, z = Scan<num_scan_inputs=1, scan_output_axes=[0], "
        "body = b (float[2] s, float[2] v) => (float[2] s2, float[2] w) { s2 = Add(s, v)  w = Neg(s2) }>(h, x) }"
    )
    found = seen(text, ["s2", "v"], {"h": [0, 0], "x": [[1, 2], [3, 4], [5, 6]]})
    assert not found.missing
    assert (found.statistics["s2"].count, found.statistics["s2"].maximum, found.statistics["v"].minimum) == (6, 12, 1)


def test_a_branch_within_a_loop_and_integers_and_names_that_are_not_there() -> None:
    text = (
        "g (float[3] x, int64 n, bool c) => (float[3] y) { t = Constant<value = bool {1}>()  y = Loop(n, t, x) "
        "<body = b (int64 i, bool go, float[3] a) => (bool go2, float[3] a2) { go2 = Identity(go)  a2 = If(c) "
        "<then_branch = p () => (float[3] q) { q = Neg(a) }, else_branch = r () => (float[3] s) { s = Exp(a) }> }> }"
    )
    found = seen(text, ["q", "i", "nothing", "a2"], {"x": [1, 2, 3], "n": 1, "c": True})
    assert dict(found.missing) == {
        "q": "it stands in a branch within a Loop",
        "i": "it is no tensor of floating-point numbers",
        "nothing": "it is not there",
    }
    assert found.statistics["a2"].minimum == -3


def test_values_in_functions_and_names_that_several_have() -> None:
    text = (
        "g (float[N] x, bool c) => (float[N] y) { z = local.f(x)  y = If(c) "
        "<then_branch = t () => (float[N] p) { q = Neg(z)  p = Abs(q) },"
        " else_branch = e () => (float[N] s) { q = Exp(z)  s = Neg(q) }> } "
        '<opset_import: ["" : 17], domain: "local"> f (a) => (b) { inner = Neg(a)  b = Abs(inner) }'
    )
    proto = onnx.parser.parse_model(HEAD.replace("17]", '17, "local" : 1]') + text)
    m = Model(*read_model(proto.SerializeToString()))
    found = calibrate(m, ["inner", "q", "z"], [{"x": np.ones(2, np.float32), "c": np.array(True)}])
    assert found.missing["inner"] == "it stands in a function: -p inline puts its body in place"
    assert found.missing.get("q", "2 values in different bodies have this name") == "2 values in different bodies have this name"
    assert found.statistics["z"].maximum == 1


def test_half_precision_in_a_branch() -> None:
    text = BRANCHES.replace("float[", "float16[")
    feeds = [{"x": np.array([[1, 2]], np.float16), "c": np.array(True)}]
    assert calibrate(model(text), ["q", "s"], feeds).statistics["q"].minimum == -2


@pytest.mark.parametrize("name", ["bilstm", "vit"])
def test_the_fixtures_have_no_bodies_and_lose_nothing(name: str) -> None:
    path = Path(__file__).parents[2] / "fixtures" / "models" / f"{name}.onnx"
    m = Model(*read_model(path))
    names = [o.name for n in m.main.nodes for o in n.outputs if o.dtype is not None and o.dtype.name == "FLOAT" and not o.is_const]
    from graphopt.verify.validate import made_up_feeds

    found = calibrate(m, names, made_up_feeds(m.ir, facts=m.facts))
    assert list(found.statistics) == names and not found.missing
