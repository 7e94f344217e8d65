"""Quantization inside the bodies of If, Loop and Scan: the pairs, the kernels that they become, and the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from graphopt.engine.goals import Goals
from graphopt.interop.clone import clone
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.value import Graph
from graphopt.quant import QuantOptions, coverage, quantize_graph, quantize_to_goals
from graphopt.quant.quantized import Quantized
from graphopt.quant.sound import _first, _pairs, place_around
from graphopt.quant.strip import dequantize_graph
from graphopt.targets.target import load_target
from tests.unit.placing import net, pairs, placed, plain, reasons, run, snr

Feeds = dict[str, np.ndarray]

CONV = "Conv<pads=[1,1]>"
BRANCHES = (
    f"y = If(c) <then_branch = t () => (float[1,8,16] p) {{ p = {CONV}(x, w, b) }},"
    f" else_branch = e () => (float[1,8,16] q) {{ h = Neg(x)  g = {CONV}(h, w, b)  q = Relu(g) }}>"
)
INPUTS = "float[1,8,16] x, bool c"
WEIGHTS = {"w": (8, 8, 3), "b": (8,)}


def feeds(m: Model, taken: Sequence[bool | int] = (True, False, True, False)) -> list[Feeds]:
    """Normal numbers, with what steers the model as in `taken`."""
    rng = np.random.default_rng(3)
    made = []
    for choice in taken:
        found: Feeds = {}
        for v in m.main.inputs:
            shape = [d if isinstance(d, int) else 4 for d in v.shape or ()]
            kind = "" if v.dtype is None else v.dtype.name
            steers = {"BOOL": np.bool_, "INT64": np.int64}.get(kind)
            found[v.name] = np.array(choice, steers) if steers else rng.normal(size=shape).astype(np.float32)
        made.append(found)
    return made


def quantize(m: Model, data: list[Feeds], target: str = "ort-cpu", **options: object) -> tuple[Quantized, Model]:
    """Quantize in place; also the model before."""
    before = Model(clone(m.ir))
    done = quantize_graph(m, Editor(m), load_target(target), QuantOptions(**options), data)  # type: ignore[arg-type]
    return done, before


def worst(before: Model, after: Model, data: list[Feeds]) -> float:
    return min(snr(run(before, f), run(after, f, optimized=True)) for f in data)


def inside(graph: Graph) -> Counter[str]:
    """What stands in a graph itself."""
    return Counter(node.op for node in graph.nodes)


def body(m: Model, name: str) -> Graph:
    return next(graph for graph in m.graphs() if graph.name == name)


def test_both_branches_read_one_weight() -> None:
    m = net(BRANCHES, INPUTS, "y", WEIGHTS)
    found = placed(m, "ort-cpu")
    assert pairs(found) == {"x": "Conv of 'p'", "p": "*", "h": "Conv of 'g'", "q": "*"} and not found.declined
    data = feeds(m)
    done, before = quantize(m, data)
    assert done.operators == 2 and not done.declined
    assert coverage(m).kernels == {"QLinearConv": 2}
    # The input is rounded where it is read, and the weight is stored once.
    assert inside(m.main) == {"If": 1}
    assert inside(body(m, "t")) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1}
    assert inside(body(m, "e")) == {"Neg": 1, "QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1, "Relu": 1}
    assert [v.shape for v in m.main.initializers if v.dtype is not None and v.dtype.name == "INT8" and v.rank == 3] == [(8, 8, 3)]
    assert not any(v.dtype is not None and v.dtype.name == "FLOAT" and v.rank == 3 for v in m.main.initializers)
    assert worst(before, m, data) > 30


def test_a_branch_that_no_sample_takes_stays_float() -> None:
    m = net(BRANCHES, INPUTS, "y", WEIGHTS)
    data = feeds(m, [True, True])
    done, before = quantize(m, data)
    assert [(op, why) for _, op, why in done.declined] == [("Conv", "no sample reached it")]
    found = coverage(m, done.reasons)
    assert found.kernels == {"QLinearConv": 1, "FusedConv": 1}
    assert [op.reason for op in found.left] == ["no sample reached it"]
    assert worst(before, m, data) > 30
    other = feeds(m, [False])
    assert snr(run(before, other[0]), run(m, other[0], optimized=True)) > 100
    assert sum(v.rank == 3 for v in m.main.initializers) == 2, "the float weight is still there for the other branch"


def test_a_branch_that_only_reads_from_outside_and_is_not_taken_stays_float() -> None:
    # MatMul needs no range of its own output, and that of its input is known: the branch was not run all the same.
    text = (
        "y = If(c) <then_branch = t () => (float[4,16] p) { p = MatMul(x, w) },"
        " else_branch = e () => (float[4,16] q) { q = Neg(x) }>"
    )
    m = net(text, "float[4,16] x, bool c", "y", {"w": (16, 16)})
    done, _ = quantize(m, feeds(m, [False, False]))
    assert [why for *_, why in done.declined] == ["no sample reached it"] and not done.operators
    assert inside(body(m, "t")) == {"MatMul": 1}


def test_what_is_rounded_outside_is_dequantized_inside() -> None:
    text = f"v = {CONV}(x, w, b)  n = Neg(v)  " + BRANCHES.replace("(x, w, b)", "(v, w2, b)")
    m = net(text, INPUTS, "y n", WEIGHTS | {"w2": (8, 8, 3)})
    data = feeds(m)
    _, before = quantize(m, data)
    # The branch reads the integers of the main graph; whoever reads it in float there has a DQ there.
    assert inside(m.main) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1, "Neg": 1, "If": 1}
    assert inside(body(m, "t")) == {"QuantizeLinear": 1, "DequantizeLinear": 4, "Conv": 1}
    assert coverage(m).kernels == {"QLinearConv": 3}
    assert worst(before, m, data) > 25


LOOP = (
    "go = Constant<value = bool {1}>()  y, s = Loop(n, go, x) <body = body (int64 i, bool on, float[1,8,16] a) =>"
    f" (bool on2, float[1,8,16] a2, float[1,8,16] k) {{ on2 = Identity(on)  a2 = {CONV}(a, w, b)  k = {CONV}(x, w, b) }}>"
)


def test_a_loop() -> None:
    m = net(LOOP, "float[1,8,16] x, int64 n", "y s", WEIGHTS)
    data = feeds(m, [3, 2, 1])
    found = placed(m, "ort-cpu")
    assert pairs(found) == {"a": "Conv of 'a2'", "a2": "*", "x": "Conv of 'k'", "k": "*"}
    done, before = quantize(m, data)
    assert done.operators == 2 and coverage(m).kernels == {"QLinearConv": 2}
    # What all iterations read is rounded once, in front of the loop; the state in each.
    assert inside(m.main)["QuantizeLinear"] == 1 and inside(m.main)["DequantizeLinear"] == 0
    assert inside(body(m, "body"))["QuantizeLinear"] == 3
    assert worst(before, m, data) > 25


def test_a_loop_that_never_runs_stays_float() -> None:
    m = net(LOOP, "float[1,8,16] x, int64 n", "y s", WEIGHTS)
    done, _ = quantize(m, feeds(m, [0, 0]))
    assert [why for *_, why in done.declined] == ["no sample reached it"] * 2 and not done.operators


def test_a_scan() -> None:
    text = (
        "y, z = Scan<num_scan_inputs=1, body = body (float[4,16] s, float[4,16] v) => (float[4,16] s2, float[4,16] o)"
        " { t = Add(s, v)  u = MatMul(t, w)  s2 = Tanh(u)  o = MatMul(s2, w) }>(h, x)"
    )
    m = net(text, "float[4,16] h, float[5,4,16] x", "y z", {"w": (16, 16)})
    data = feeds(m, [0, 0])
    done, before = quantize(m, data)
    assert done.operators == 2 and coverage(m).integer == 2
    assert worst(before, m, data) > 25


def test_bodies_within_bodies() -> None:
    text = (
        "d = Not(c)  y = If(c) <then_branch = t () => (float[1,8,16] p) { p = If(c2) <then_branch = u () =>"
        f" (float[1,8,16] a) {{ a = {CONV}(x, w, b) }}, else_branch = v () => (float[1,8,16] f) {{ f = Neg(x) }}> }},"
        " else_branch = e () => (float[1,8,16] s) { s = Abs(x) }>"
    )
    m = net(text.replace("If(c2)", "If(c)"), INPUTS, "y", WEIGHTS)
    data = feeds(m)
    _, before = quantize(m, data)
    assert coverage(m).kernels == {"QLinearConv": 1} and inside(body(m, "u"))["QuantizeLinear"] == 2
    assert worst(before, m, data) > 30


def test_a_branch_within_a_loop_cannot_be_calibrated() -> None:
    text = (
        "go = Constant<value = bool {1}>()  y = Loop(n, go, x) <body = body (int64 i, bool on, float[1,8,16] a) =>"
        " (bool on2, float[1,8,16] a2) { on2 = Identity(on)  a2 = If(on) <then_branch = t () => (float[1,8,16] p) {"
        f" p = {CONV}(a, w, b) }}, else_branch = e () => (float[1,8,16] q) {{ q = Neg(a) }}> }}>"
    )
    m = net(text, "float[1,8,16] x, int64 n", "y", WEIGHTS)
    done, _ = quantize(m, feeds(m, [1, 2]))
    assert [why for *_, why in done.declined] == ["'p' cannot be calibrated: it stands in a branch within a Loop"]


def test_the_same_names_in_two_branches() -> None:
    text = (
        f"y = If(c) <then_branch = t () => (float[1,8,16] p) {{ g = Neg(x)  p = {CONV}(g, w, b) }},"
        f" else_branch = e () => (float[1,8,16] p) {{ d = Add(x, x)  g = Add(d, d)  p = {CONV}(g, w, b) }}>"
    )
    m = net(text, INPUTS, "y", WEIGHTS)
    data = feeds(m)
    done, before = quantize(m, data)
    names = [o.name for graph in m.graphs() for node in graph.nodes for o in node.outputs]
    assert len(names) == len(set(names)) and coverage(m).kernels == {"QLinearConv": 2} and not done.declined
    scales = {p.name: p.scale for p in done.placed if p.kind == "activation"}
    assert scales["g_1"] > 3 * scales["g"], "each has the range of its own values"
    assert worst(before, m, data) > 30


def test_weights_that_are_constants_in_the_body() -> None:
    values = np.random.default_rng(0).normal(size=256).astype(np.float32)
    text = (
        "y = If(c) <then_branch = t () => (float[4,16] p) { w = Constant<value = float[16,16] {"
        + ", ".join(f"{v:.6f}" for v in values)
        + "}>()  p = MatMul(x, w) }, else_branch = e () => (float[4,16] q) { q = Neg(x) }>"
    )
    m = net(text, "float[4,16] x, bool c", "y")
    data = feeds(m)
    _, before = quantize(m, data)
    assert coverage(m).integer == 1 and "Constant" not in inside(body(m, "t"))
    assert worst(before, m, data) > 30


def test_functions_and_targets_that_were_not_measured() -> None:
    m = net(BRANCHES, INPUTS, "y", WEIGHTS)
    unknown = "it stands in a body of If, and the target is not known to have integer kernels there"
    assert set(reasons(placed(m, "tensorrt")).values()) == {unknown}
    text = "y = If(c) <then_branch = t () => (float[4,16] p) { p = local.f(x, w) }, else_branch = e () => (float[4,16] q) { q = Neg(x) }>"
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 19, "local" : 1]> g (float[4,16] x, bool c) => (float[4,16] y) '
        f"<float[16,16] w> {{ {text} }} "
        '<opset_import: ["" : 19], domain: "local"> f (a, v) => (b) { k = Constant<value_floats=[1.0]>()  b = MatMul(a, v) }'
    )
    proto.graph.ClearField("initializer")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 16), np.float32), "w"))
    found = reasons(placed(Model(*read_model(proto.SerializeToString())), "ort-cpu"))
    assert [plain(why) for why in found.values()] == [
        "it stands in a function, which several callers share: -p inline puts its body in place"
    ]


@pytest.mark.parametrize("text", [BRANCHES, LOOP], ids=["branches", "loop"])
def test_there_and_back(text: str) -> None:
    m = net(text, INPUTS if text is BRANCHES else "float[1,8,16] x, int64 n", "y" if text is BRANCHES else "y s", WEIGHTS)
    data = feeds(m, [True, False] if text is BRANCHES else [2, 1])
    _, before = quantize(m, data)
    dequantize_graph(m, Editor(m))
    assert not any(node.op.endswith("QuantizeLinear") or node.op == "DequantizeLinear" for g in m.graphs() for node in g.nodes)
    assert worst(before, m, data) > 30


def test_a_layer_in_a_branch_that_breaks_is_found() -> None:
    text = (
        f"y = If(c) <then_branch = t () => (float[1,8,16] p) {{ f = {CONV}(x, w, b)  g = Relu(f)  h = {CONV}(g, v, b) "
        f" k = Relu(h)  p = {CONV}(k, w, b) }}, else_branch = e () => (float[1,8,16] q) {{ q = {CONV}(x, w, b) }}>"
    )
    rng = np.random.default_rng(0)
    w, v = (rng.normal(size=(8, 8, 3)).astype(np.float32) / 4 for _ in range(2))
    w[0], v[:, 0] = 0.0, 1e4  # a channel that is always zero, and is multiplied by large numbers
    b = np.full(8, -0.1, np.float32)
    m = net(text, INPUTS, "y", {"w": w, "v": v, "b": b})
    goals = Goals(max_drop=5.0, sensitivity=True, timed=False)
    options = QuantOptions(corrections=("bias",))
    done = quantize_to_goals(m, Editor(m), load_target("ort-cpu"), options, feeds(m), goals)
    assert done.ranking is not None and done.budget is not None
    assert {op.key for op in done.ranking.operators} == {"f", "h", "p", "q"} and done.ranking.worst()[0].key == "h"
    assert [kept.name for kept in done.budget.kept] == ["Conv of 'h'"] and done.budget.met
    assert coverage(m).kernels["QLinearConv"] == 3


def test_a_pair_in_a_body_that_the_runtime_breaks_is_taken_out() -> None:
    m = net(BRANCHES, INPUTS, "y", WEIGHTS)
    data = feeds(m)
    quantize(m, data)
    edit = Editor(m)
    assert place_around(m, edit, data[0]) == []
    assert len(_pairs(m)) == 4
    assert not any(node.op == "QuantizeLinear" for g in _first(m, 0).graphs() for node in g.nodes)
    assert run(_first(m, 0), data[0], optimized=True)["y"].shape == (1, 8, 16)


def test_layers_in_a_body_are_equalized() -> None:
    text = (
        f"y = If(c) <then_branch = t () => (float[1,8,16] p) {{ f = {CONV}(x, w, b)  g = Relu(f)  p = {CONV}(g, v, b) }},"
        " else_branch = e () => (float[1,8,16] q) { q = Neg(x) }>"
    )
    rng = np.random.default_rng(0)
    w, v = (rng.normal(size=(8, 8, 3)).astype(np.float32) / 4 for _ in range(2))
    steps = np.logspace(-2, 2, 8).astype(np.float32)
    m = net(text, INPUTS, "y", {"w": w * steps[:, None, None], "v": v / steps[:, None], "b": (8,)})
    data = feeds(m)
    done, before = quantize(m, data)
    assert [gain.name for gain in done.gains if gain.name == "cle"] == ["cle"]
    assert worst(before, m, data) > 28


def test_from_one_runtime_to_another_with_the_scales_kept() -> None:
    m = net(BRANCHES, INPUTS, "y", WEIGHTS)
    data = feeds(m)
    first, before = quantize(m, data)
    second, _ = quantize(m, [], "ort-arm", existing="retarget")
    scales = [[p.scale for p in done.placed if p.kind == "activation"] for done in (first, second)]
    assert scales[0] == pytest.approx(scales[1]) and second.operators == 2
    kinds = Counter(node.inputs[2].dtype.name for g in m.graphs() for node in g.find("QuantizeLinear"))  # type: ignore[union-attr]
    assert kinds == {"INT8": 4} and coverage(m).kernels == {"QLinearConv": 2}
    assert worst(before, m, data) > 30


@pytest.mark.parametrize(
    ("options", "kernels"),
    [
        ({"kind": "dynamic"}, {"DynamicQuantizeMatMul": 2}),
        ({"kind": "weights"}, {"MatMulNBits": 2}),
    ],
    ids=["dynamic", "weights"],
)
def test_other_kinds_store_a_shared_weight_once_too(options: dict[str, str], kernels: dict[str, int]) -> None:
    text = (
        "y = If(c) <then_branch = t () => (float[4,64] p) { p = MatMul(x, w) },"
        " else_branch = e () => (float[4,64] q) { h = Neg(x)  q = MatMul(h, w) }>"
    )
    m = net(text, "float[4,64] x, bool c", "y", {"w": (64, 64)})
    data = feeds(m)
    _, before = quantize(m, data, **options)
    assert coverage(m).kernels == kernels and worst(before, m, data) > 30
    stored = [v for g in m.graphs() for v in g.initializers if (v.nbytes or 0) >= 64 * 64]
    assert [v.nbytes for v in stored] == [64 * 64] and stored[0].graph == m.main


@pytest.mark.parametrize(("target", "options"), [("ort-cpu", {"format": "qoperator"}), ("onnx", {"kind": "weights"})])
def test_products_read_weights_of_their_own_body(target: str, options: dict[str, str]) -> None:
    # ONNX Runtime 1.31 does not load a model whose MatMulNBits would have to be made of a captured weight.
    text = (
        "y = If(c) <then_branch = t () => (float[4,64] p) { p = MatMul(x, w) },"
        " else_branch = e () => (float[4,64] q) { h = Neg(x)  q = MatMul(h, w) }>"
    )
    m = net(text, "float[4,64] x, bool c", "y", {"w": (64, 64)})
    data = feeds(m)
    _, before = quantize(m, data, target, **options)
    kernel = "MatMulNBits" if target == "onnx" else "MatMulIntegerToFloat"
    assert coverage(m).kernels == {kernel: 2} and worst(before, m, data) > 30
    assert all(v.graph != m.main for g in m.graphs() for v in g.initializers if (v.nbytes or 0) >= 64 * 64)
