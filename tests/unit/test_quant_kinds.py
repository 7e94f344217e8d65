"""Dynamic and weight-only quantization of products with constant matrices, and of embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.ir.protect import protect
from graphopt.ir.save import to_bytes
from graphopt.quant import QuantOptions, coverage, quantize_graph
from graphopt.quant.blocks import in_blocks, packed
from graphopt.quant.dynamic import int8_columns
from graphopt.quant.saturation import EXACT, neighbours
from graphopt.targets.target import load_target
from tests.unit.kinds import decibels, feeds_of, ops, proto, quantized, reasons, run, weight

W = {"w": weight(64, 48)}
LINEAR = "(float[M, 64] x) => (float[M, 48] y)"
CASES = {
    "matmul": (LINEAR, "y = MatMul(x, w)", W),
    "bias": ("(float[2, M, 64] x) => (float[2, M, 48] y)", "p = MatMul(x, w) y = Add(p, b)", {**W, "b": weight(48)}),
    "gemm": (LINEAR, "y = Gemm(x, w, b)", {**W, "b": weight(48)}),
    "gemm with everything": (
        "(float[64, M] x) => (float[M, 48] y)",
        "y = Gemm<alpha = 0.5, beta = 2.0, transA = 1, transB = 1>(x, w, b)",
        {"w": weight(48, 64), "b": weight(48)},
    ),
    "gemm with a bias for each row": ("(float[4, 64] x) => (float[4, 48] y)", "y = Gemm(x, w, b)", {**W, "b": weight(4, 1)}),
    "gemm with a computed bias": (
        "(float[4, 64] x, float[1, 48] c) => (float[4, 48] y)", "y = Gemm<beta = -0.5>(x, w, c)", W,
    ),
    "gemm without its bias": (LINEAR, "y = Gemm<beta = 0.0>(x, w, b)", {**W, "b": weight(48)}),
    "two that share an input": (LINEAR, "p = MatMul(x, w) q = MatMul(x, v) y = Mul(p, q)", {**W, "v": weight(64, 48, seed=1)}),
    "two that share a weight": (LINEAR, "h = MatMul(x, u) s = Relu(h) p = MatMul(s, u) y = MatMul(p, w)", {**W, "u": weight(64, 64)}),
    "behind a transpose": (LINEAR, "t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": weight(48, 64)}),
    "one column": ("(float[M, 70] x) => (float[M, 1] y)", "y = MatMul(x, w)", {"w": weight(70, 1)}),
    "few rows": ("(float[M, 5] x) => (float[M, 3] y)", "y = MatMul(x, w)", {"w": weight(5, 3)}),
    "a tail of a block": ("(float[M, 90] x) => (float[M, 8] y)", "y = MatMul(x, w)", {"w": weight(90, 8)}),
}  # fmt: skip
KINDS = {
    "dynamic": ({"kind": "dynamic"}, 34.0),
    "dynamic, one scale": ({"kind": "dynamic", "per_channel": False}, 30.0),
    "int8": ({"kind": "weights"}, 34.0),
    "uint8, columns": ({"kind": "weights", "weight": "uint8", "block": 0}, 34.0),
    "int4": ({"kind": "weights", "weight": "int4"}, 14.0),
    "uint4, 16": ({"kind": "weights", "weight": "uint4", "block": 16}, 17.0),
}


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_products_stay_near(case: str, kind: str, target: str) -> None:
    signature, body, constants = CASES[case]
    options, bound = KINDS[kind]
    source = proto(signature, body, **constants)
    m, done = quantized(source, target, **options)
    products = sum(n.op_type in ("MatMul", "Gemm") for n in source.graph.node)
    assert done.kinds == {options["kind"]: products} and not done.declined
    assert decibels(source, m) > bound
    assert not any(v.dtype is not None and v.dtype.name == "FLOAT" and v.rank == 2 and min(v.shape) > 1  # type: ignore[operator,type-var]
                   and v.shape in ((64, 48), (48, 64), (64, 64), (90, 8)) for v in m.main.initializers)  # fmt: skip
    for rows in (1, 0):
        if any(d.dim_param for i in source.graph.input for d in i.type.tensor_type.shape.dim):
            feeds = feeds_of(source, {"M": rows})
            assert [a.shape for a in run(to_bytes(m.ir), feeds)] == [a.shape for a in run(source, feeds)]


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize(
    ("case", "kind", "kernels"),
    [
        ("matmul", "dynamic", {"DynamicQuantizeMatMul": 1}),
        ("bias", "dynamic", {"DynamicQuantizeMatMul": 1}),
        ("gemm with everything", "dynamic", {"DynamicQuantizeMatMul": 1}),
        ("two that share an input", "dynamic", {"MatMulIntegerToFloat": 2}),
        ("matmul", "int8", {"MatMulNBits": 1}),
        ("gemm", "int8", {"MatMulNBits": 1}),
        ("behind a transpose", "int4", {"MatMulNBits": 1}),
        ("a tail of a block", "uint4, 16", {"MatMulNBits": 1}),
        ("one column", "uint8, columns", {"MatMulNBits": 1}),
    ],
)
def test_the_runtime_has_integer_kernels_for_them(case: str, kind: str, kernels: dict[str, int], target: str) -> None:
    m, _ = quantized(proto(CASES[case][0], CASES[case][1], **CASES[case][2]), target, **KINDS[kind][0])
    found = coverage(m)
    assert (dict(found.kernels), found.float) == (kernels, 0)


def test_an_input_that_several_read_is_quantized_once() -> None:
    m, _ = quantized(proto(*CASES["two that share an input"][:2], **CASES["two that share an input"][2]), "onnx", kind="dynamic")
    assert ops(m).count("DynamicQuantizeLinear") == 1


def test_a_shared_weight_is_stored_once() -> None:
    signature, body, constants = CASES["two that share a weight"]
    for target in ("onnx", "ort-cpu"):
        for kind in ("dynamic", "weights"):
            m, _ = quantized(proto(signature, body, **constants), target, kind=kind)
            assert sum(v.nbytes or 0 for v in m.main.initializers) < 64 * (64 + 48) * 1.3


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_what_stays_float_says_why(kind: str) -> None:
    def why(body: str, signature: str = LINEAR, **constants: np.ndarray) -> str:
        _, done = quantized(proto(signature, body, **(constants or W)), "onnx", kind=kind)
        assert not done.placed and not done.kinds
        return next(reason for _, op, reason in done.declined if op in ("MatMul", "Gemm"))

    assert "NaN or Inf" in why("y = MatMul(x, w)", w=np.full((64, 48), np.inf, np.float32))
    assert "activations" in why("t = Transpose(x) y = MatMul(x, t)", "(float[8, 64] x) => (float[8, 8] y)")
    assert "left operand" in why("y = MatMul(w, x)", "(float[48, M] x) => (float[64, M] y)")
    assert "no matrix" in why("y = MatMul(x, w)", "(float[2, 4, 8] x) => (float[2, 4, 3] y)", w=weight(2, 8, 3))
    assert "vector" in why("y = MatMul(x, w)", "(float[64] x) => (float[48] y)")
    assert "double" in why("y = MatMul(x, w)", "(double[4, 64] x) => (double[4, 48] y)", w=weight(64, 48).astype(np.float64))
    assert "empty" in why("y = MatMul(x, w)", "(float[4, 0] x) => (float[4, 3] y)", w=np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_a_weight_that_a_caller_may_set_stays(kind: str) -> None:
    source = proto("(float[4, 64] x, float[64, 48] w) => (float[4, 48] y)", "y = MatMul(x, w)", **W)
    m, done = quantized(source, "ort-cpu", kind=kind)
    assert ops(m) == ["MatMul"] and "a caller may set it" in reasons(done)["MatMul"]


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_a_weight_that_is_an_output_stays_one(kind: str) -> None:
    source = proto("(float[4, 64] x) => (float[4, 48] y, float[64, 48] w)", "y = MatMul(x, w)", **W)
    m, done = quantized(source, "ort-cpu", kind=kind)
    feeds = feeds_of(source)
    assert np.array_equal(run(source, feeds)[1], run(to_bytes(m.ir), feeds)[1]) and done.placed


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_what_is_protected_stays(kind: str) -> None:
    source = proto(LINEAR, "y = MatMul(x, w)", **W)
    source.graph.node[0].name = "fixed"
    m = graphopt.load(source)
    edit = Editor(m, protection=protect(m, ["fixed"]))
    done = quantize_graph(m, edit, load_target("ort-cpu"), QuantOptions(kind=kind), None)
    assert ops(m) == ["MatMul"] and reasons(done) == {"MatMul": "it is protected"}


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_selection_by_operator_and_name(kind: str) -> None:
    source = proto(LINEAR, "h = MatMul(x, u) y = Gemm(h, w)", **W, u=weight(64, 64))
    for node in source.graph.node:
        node.name = f"/{node.op_type}"
    some = graphopt.QuantSelection(ops=("Gemm",))
    assert quantized(source, "ort-cpu", kind=kind, selection=some)[1].kinds == {kind: 1}
    skipped = graphopt.QuantSelection(skip=("/Mat*",))
    assert "skipped" in reasons(quantized(source, "ort-cpu", kind=kind, selection=skipped)[1])["MatMul"]
    ends = graphopt.QuantSelection(ends=False)
    assert not quantized(source, "ort-cpu", kind=kind, selection=ends)[1].placed
    with pytest.raises(graphopt.UsageError, match="Conv"):
        quantized(source, "ort-cpu", kind=kind, selection=graphopt.QuantSelection(ops=("Conv",)))


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_products_in_bodies(kind: str) -> None:
    then = "then () => (float[M, 48] a) { a = MatMul(x, w) }"
    other = "other () => (float[M, 48] b) { b = MatMul(x, v) }"
    source = proto(
        "(bool c, float[M, 64] x) => (float[M, 48] y)",
        f"y = If(c) <then_branch = {then}, else_branch = {other}>", **W, v=weight(64, 48, seed=2),
    )  # fmt: skip
    for target in ("onnx", "ort-cpu"):
        m, done = quantized(source, target, kind=kind)
        assert done.kinds == {kind: 2}
        feeds = {"x": weight(3, 64)}
        for c in (True, False):
            a, b = (run(d, {**feeds, "c": np.array(c)})[0] for d in (source, to_bytes(m.ir)))
            assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_convolutions_are_never_dynamic() -> None:
    source = proto("(float[1, 8, 6, 6] x) => (float[1, 8, 4, 4] y)", "y = Conv(x, w)", w=weight(8, 8, 3, 3))
    for target in ("onnx", "ort-cpu"):
        m, done = quantized(source, target, kind="dynamic")
        assert ops(m) == ["Conv"] and "5 to 30 times" in reasons(done)["Conv"]


def test_an_opset_that_is_too_old_is_lifted() -> None:
    for opset, options, needed in (
        (12, {"kind": "weights"}, 13), (17, {"kind": "weights", "weight": "int4"}, 21),
        (17, {"kind": "weights", "block": 32}, 21), (10, {"kind": "dynamic"}, 11),
    ):  # fmt: skip
        source = proto(LINEAR, "y = MatMul(x, w)", opset, **W)
        m, done = quantized(source, "onnx", **options)
        assert done.placed and m.opset() == needed and any(str(needed) in note for note in done.notes)
        assert decibels(source, m) > 14


def test_a_target_that_takes_no_newer_opset() -> None:
    m = graphopt.load(proto(LINEAR, "y = MatMul(x, w)", 12, **W))
    old = replace(load_target("onnx"), domains={"": 12})
    done = quantize_graph(m, Editor(m), old, QuantOptions(kind="weights"), None)
    assert ops(m) == ["MatMul"] and "opset{to=13}" in reasons(done)["MatMul"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"weight": "int4"}, "int4"),
        ({"weight": "uint4", "block": 16}, "uint4 in blocks of 16"),
        ({"block": 32}, "int8 in blocks of 32"),
    ],
)
def test_what_was_asked_for_and_needs_a_newer_opset_is_an_error(options: dict[str, Any], what: str) -> None:
    m = graphopt.load(proto(LINEAR, "y = MatMul(x, w)", 17, **W))
    old = replace(load_target("onnx"), domains={"": 17})
    with pytest.raises(graphopt.TargetError) as caught:
        quantize_graph(m, Editor(m), old, QuantOptions(kind="weights", **options), None)
    assert str(caught.value) == (
        f"{what} needs opset 21, and the model has 17\n"
        "  opset 17 stays, though 21 is better: the target does not take opset 21"
    )
    none = graphopt.load(proto("(float[2, 3] x) => (float[2, 3] y)", "y = Relu(x)", 17))
    assert not quantize_graph(none, Editor(none), old, QuantOptions(kind="weights", **options), None).placed


def test_onnx_runtimes_own_operators_need_no_opset() -> None:
    old = proto(LINEAR, "y = MatMul(x, w)", 10, **W)
    for options in ({"kind": "weights"}, {"kind": "weights", "weight": "uint4"}):
        m, done = quantized(old, "ort-cpu", **options)
        assert done.placed and decibels(old, m) > 14 and m.opset() == 10


@pytest.mark.parametrize(("target", "options"), [
    ("tensorrt", {"kind": "dynamic"}), ("tensorrt-rtx", {"kind": "dynamic"}), ("openvino", {"kind": "dynamic"}),
    ("ort-cuda", {"kind": "dynamic"}),
])  # fmt: skip
def test_targets_that_have_no_such_kind(target: str, options: dict[str, str]) -> None:
    with pytest.raises(graphopt.TargetError) as caught:
        quantized(proto(LINEAR, "y = MatMul(x, w)", **W), target, **options)
    assert caught.value.hint and target in str(caught.value.where)


@pytest.mark.parametrize("options", [{"kind": "static8"}, {"weight": "int3"}, {"block": 48}, {"block": -4}, {"format": "x"}])
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(graphopt.UsageError):
        QuantOptions(**options).check()  # type: ignore[arg-type]


def test_half_precision_keeps_its_type() -> None:
    source = proto("(float16[4, 64] x) => (float16[4, 48] y)", "y = MatMul(x, w)", w=weight(64, 48).astype(np.float16))
    for target in ("onnx", "ort-cpu"):
        m, done = quantized(source, target, kind="weights")
        assert done.placed and decibels(source, m) > 34
        assert "float16" in reasons(quantized(source, target, kind="dynamic")[1])["MatMul"]


TABLE = {"t": weight(200, 48)}


def test_rows_of_an_embedding_have_scales_of_their_own() -> None:
    table = TABLE["t"] * np.logspace(-3, 1, 200)[:, None].astype(np.float32)  # one scale would lose the small rows
    source = proto("(int64[B, 5] i) => (float[B, 5, 48] y)", "y = Gather(t, i)", t=table)
    m, done = quantized(source, "onnx", kind="weights")
    assert ops(m) == ["Gather", "Cast", "Gather", "Mul"] and done.kinds == {"weights": 1}
    indices = np.array([[0, 1, 50, -1, 199]])
    a, b = run(source, {"i": indices})[0], run(to_bytes(m.ir), {"i": indices})[0]
    assert (np.abs(a - b).max(axis=-1) <= np.abs(a).max(axis=-1) / 127 * 0.51).all()


def test_what_is_no_embedding_is_left_alone() -> None:
    for text, table in (
        ("y = Gather(t, i)", weight(8, 8)),
        ("y = Gather<axis = 1>(t, i)", weight(200, 48)),
        ("y = Gather(t, i)", weight(20, 20, 48)),
    ):
        source = proto("(int64[2] i) => (float[a, b] y)" if table.ndim == 2 else "(int64[2] i) => (float[a, b, c] y)", text, t=table)
        m, done = quantized(source, "onnx", kind="weights")
        assert ops(m) == ["Gather"] and reasons(done)["Gather"]


def test_a_table_that_is_tied_to_the_last_layer() -> None:
    body = "e = Gather(t, i) u = Transpose<perm = [1, 0]>(t) y = MatMul(e, u)"
    source = proto("(int64[3] i) => (float[3, 200] y)", body, **TABLE)
    for target in ("onnx", "ort-cpu"):
        m, done = quantized(source, target, kind="weights")
        assert done.kinds == {"weights": 2} and decibels(source, m) > 34
        assert sum(v.nbytes or 0 for v in m.main.initializers) < 0.6 * TABLE["t"].nbytes


def test_blocks_round_to_the_nearest() -> None:
    matrix = weight(70, 6) * np.logspace(-2, 2, 6).astype(np.float32)
    matrix[:16, 0] = 0
    for dtype in ("int8", "uint8", "int4", "uint4"):
        for block in (0, 16, 32, 128):
            found = in_blocks(matrix, dtype, block)
            k = found.block
            steps = np.repeat(found.scale, k, axis=0)[:70]
            assert (np.abs(found.reals() - matrix) <= steps * (0.5001 if found.zero is None else 1.01)).all()
            assert (found.reals()[:16, 0] == 0).all()
            assert found.scale.shape == (-(-70 // k), 6)


def test_packed_is_what_the_operator_documents() -> None:
    matrix = np.arange(-8, 8, dtype=np.float32).reshape(16, 1)
    stored, scale, zero = packed(in_blocks(matrix, "uint4", 16), 16)
    assert stored.shape == (1, 1, 8) and zero is not None
    first = stored[0, 0]
    integers = np.stack([first & 15, first >> 4], axis=-1).reshape(-1).astype(int)
    assert np.allclose((integers - int(zero[0, 0] & 15)) * scale[0, 0], matrix[:, 0])


def test_only_columns_that_may_overflow_lose_a_bit() -> None:
    matrix = np.zeros((4, 3), np.float32)
    matrix[:, 0] = [1.0, 0.9, 0.0, 0.0]  # neighbours of one sign: 127 + 114 times 255 is more than 16 bits
    matrix[:, 1] = [1.0, -0.9, 1.0, 0.0]  # of different signs
    matrix[:, 2] = [0.0, 1.0, 1.0, 0.0]  # in different pairs
    integers, scale = int8_columns(matrix, bits=7)
    assert [int(np.abs(integers[:, i]).max()) for i in range(3)] == [63, 127, 127]
    assert (neighbours(integers.astype(np.float32), "MatMul", 1) <= EXACT).all()
    assert np.allclose(integers * scale, matrix, atol=0.01)
    whole, one = int8_columns(matrix, per_channel=False, bits=7)
    assert one.shape == () and int(np.abs(whole).max()) == 63


def test_the_pass_takes_the_options() -> None:
    source = proto(LINEAR, "y = MatMul(x, w)", **W)
    result = graphopt.optimize(source, "quant{kind=weights,weight=int4,block=16}", target="ort-cpu", verify=False)
    assert [n.op_type for n in result.model.graph.node] == ["MatMulNBits"]
    assert result.model.graph.node[0].attribute
    assert "without calibration: weights" in str(result.report)
    shapes = {t.name: numpy_helper.to_array(t).shape for t in result.model.graph.initializer}
    assert (48, 4, 8) in shapes.values()
    dynamic = graphopt.optimize(source, "quant{kind=dynamic}", verify=False)
    assert "DynamicQuantizeLinear" in {n.op_type for n in onnx.load_from_string(dynamic.model.SerializeToString()).graph.node}


def test_weights_alone_are_for_the_size_so_they_need_not_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(*_: object, **__: object) -> object:
        raise AssertionError("timed")

    monkeypatch.setattr("graphopt.quant.goals.judge", slower)
    source = proto(LINEAR, "y = MatMul(x, w)", **W)
    done = graphopt.optimize(source, "quant{kind=weights}", target="ort-cpu", verify=False)
    assert [n.op_type for n in done.model.graph.node] == ["MatMulNBits"]
    for options in ({"passes": "quant{kind=dynamic}"}, {"passes": "quant{kind=weights}", "min_speedup": 1.1}):
        with pytest.raises(AssertionError, match="timed"):
            graphopt.optimize(source, **options, target="ort-cpu", verify=False)  # type: ignore[arg-type]


def test_a_model_without_products_stays_as_it_is() -> None:
    source = proto("(float[4] x) => (float[4] y)", "y = Relu(x)")
    m, done = quantized(source, "ort-cpu", kind="dynamic")
    assert isinstance(m, Model) and ops(m) == ["Relu"] and not done.placed and not done.declined
