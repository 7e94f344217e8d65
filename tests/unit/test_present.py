"""Models that are quantized already: what is read of them, and what they are in floats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from graphopt_passes.dequant import Dequant
from graphopt_passes.quant import Quant

import graphopt
from graphopt import Editor, Model, UsageError
from graphopt.ir.save import to_bytes
from graphopt.quant.present import Encoding, encoding_of, read_present
from graphopt.quant.strip import dequantize_graph
from tests.unit.engine import model, ops

FIXTURES = Path(__file__).parents[2] / "fixtures"
DATA = FIXTURES / "data" / "digits_calib.npz"

SCALE = np.array(0.05, np.float32)
U8 = np.array(0, np.uint8)
MIDDLE = np.array(128, np.uint8)
S8 = np.array(0, np.int8)


def run(found: Model, **feeds: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(to_bytes(found.ir), options).run(None, feeds)  # type: ignore[no-any-return]


def stripped(found: Model) -> tuple[Any, list[str]]:
    """What was undone, and why the rest was not."""
    reasons: list[str] = []
    given = dequantize_graph(found, Editor(found), lambda _, __, reason: reasons.append(reason))
    return given, reasons


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


PAIR = """g (float[2,3,4,4] x) => (float[2,3,4,4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    y = Abs(d)
}"""


def test_a_pair_is_read_and_taken_out() -> None:
    found = model(PAIR, s=SCALE, z=MIDDLE)
    assert str(read_present(found)) == "1 Q/DQ pair on activations (uint8)"
    given, reasons = stripped(found)
    assert (ops(found), given.pairs, reasons) == (["Abs"], 1, [])
    ((value, encodings),) = given.activations.items()
    assert value.name == "x"
    assert encodings[0].range.low == pytest.approx(-6.4) and encodings[0].range.high == pytest.approx(6.35)
    assert not read_present(found)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int8", -128, 127), ("int16", -32768, 32767), ("int4", -8, 7),
     (ml_dtypes.float8_e4m3fn, -448, 448), (ml_dtypes.float8_e5m2, -57344, 57344)],
)  # fmt: skip
def test_the_range_of_each_type(dtype: Any, low: float, high: float) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype)) if dtype == "int4" else np.dtype(dtype)
    encoding = Encoding(np.array(0.5, np.float32), np.array(0, kind))
    assert (encoding.range.low, encoding.range.high) == (low / 2, high / 2)


def test_a_pair_with_another_scale_is_no_pair() -> None:
    found = model(PAIR.replace("(q, s, z)", "(q, t, z)"), s=SCALE, t=SCALE * 2, z=U8)
    given, reasons = stripped(found)
    assert ops(found) == ["QuantizeLinear", "DequantizeLinear", "Abs"]
    assert (given.pairs, reasons) == (0, ["the QuantizeLinear in front of it has another scale"])


def test_scales_that_are_computed_stay() -> None:
    text = """g (float[2,3] x, float s) => (float[2,3] y) {
        q = QuantizeLinear(x, s)
        y = DequantizeLinear(q, s)
    }"""
    found = model(text)
    given, reasons = stripped(found)
    assert given.pairs == 0 and len(reasons) == 1 and "run time" in reasons[0]


def test_what_comes_in_as_integers_is_only_read() -> None:
    found = model("g (uint8[2,3] x) => (float[2,3] y) { y = DequantizeLinear(x, s) }", s=SCALE)
    assert not read_present(found)
    assert stripped(found)[1] == ["what it reads comes from no QuantizeLinear"]
    assert ops(found) == ["DequantizeLinear"]


CONV = """g (float[1,3,6,6] x) => (float[1,4,4,4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs)
    c = Conv(d, wd, bd)
    cq = QuantizeLinear(c, s, zc)
    y = DequantizeLinear(cq, s, zc)
}"""


def conv(zero: np.ndarray, text: str = CONV) -> Model:
    rng = np.random.default_rng(0)
    scales = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    return model(
        text, s=SCALE, z=MIDDLE, zc=zero, w=rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), ws=scales,
        wz=np.zeros(4, np.int8), b=rng.integers(-999, 999, 4).astype(np.int32), bs=SCALE * scales,
    )  # fmt: skip


def test_weights_become_the_floats_that_they_stand_for() -> None:
    found = conv(MIDDLE)
    assert str(read_present(found)) == "2 Q/DQ pairs on activations (uint8), 1 weight (int8), 1 bias"
    x = image(1, 3, 6, 6)
    before = run(found, x=x)
    given, reasons = stripped(found)
    assert (ops(found), reasons) == (["Conv"], [])
    node = next(iter(found.main.nodes))
    weight = node.inputs[1]
    assert weight is not None
    stored = given.weights[weight]
    np.testing.assert_array_equal(stored.encoding.decode(stored.integers), weight.array())
    assert np.abs(before[0] - run(found, x=x)[0].clip(-6.4, 6.35)).max() < 0.5


def test_the_relu_that_the_rounding_did_comes_back() -> None:
    """A tool drops the Relu in front of a QuantizeLinear with nothing below zero; without that it is needed."""
    found = conv(U8)
    x = image(1, 3, 6, 6)
    before = run(found, x=x)[0]
    stripped(found)
    assert ops(found) == ["Conv", "Relu"]
    after = run(found, x=x)[0].clip(None, 12.75)
    assert (before.min(), after.min()) == (0.0, 0.0)
    assert np.abs(before - after).max() < 0.5


def test_no_relu_comes_where_none_can_have_been() -> None:
    found = model(PAIR, s=SCALE, z=U8)  # an input of the model, which is an image, say
    stripped(found)
    assert ops(found) == ["Abs"]


def test_a_clip_at_six_comes_back_as_such() -> None:
    found = conv(U8, CONV.replace("cq = QuantizeLinear(c, s, zc)", "cq = QuantizeLinear(c, six, zc)")
                 .replace("y = DequantizeLinear(cq, s, zc)", "y = DequantizeLinear(cq, six, zc)")
                 .replace("{", "<float six = {0.023529412}> {", 1))  # fmt: skip
    stripped(found)
    assert ops(found) == ["Conv", "Clip"]
    assert run(found, x=100 * image(1, 3, 6, 6))[0].max() == 6.0


FLOAT_WEIGHT = """g (float[2,3] x) => (float[2,5] y) {
    q = QuantizeLinear<axis=1>(w, ws, wz)
    d = DequantizeLinear<axis=1>(q, ws, wz)
    y = MatMul(x, d)
}"""
STEPS = np.linspace(0.01, 0.05, 5).astype(np.float32)


def test_weights_stored_as_floats_with_a_pair() -> None:
    found = model(FLOAT_WEIGHT, w=image(3, 5), ws=STEPS, wz=np.zeros(5, np.int8))
    x = image(2, 3)
    before = run(found, x=x)
    assert str(read_present(found)) == "1 weight (int8)"
    given, _ = stripped(found)
    assert ops(found) == ["MatMul"]
    np.testing.assert_allclose(before[0], run(found, x=x)[0], rtol=1e-6)
    (stored,) = given.weights.values()
    assert stored.integers.dtype == np.int8 and stored.encoding.axis == 1


def test_blocks_of_four_bits() -> None:
    text = """g (float[2,32] x) => (float[2,5] y) {
        d = DequantizeLinear<axis=0, block_size=16>(w, ws)
        y = MatMul(x, d)
    }"""
    rng = np.random.default_rng(0)
    stored = rng.integers(-8, 8, (32, 5)).astype(ml_dtypes.int4)
    scales = rng.random((2, 5)).astype(np.float32) + 0.1
    found = model(text, opset=21, w=stored, ws=scales)
    given, _ = stripped(found)
    weight = next(iter(found.main.nodes)).inputs[1]
    assert weight is not None and ops(found) == ["MatMul"] and len(given.weights) == 1
    np.testing.assert_array_equal(weight.array(), stored.astype(np.float32) * np.repeat(scales, 16, 0))


def test_integers_that_move_between_the_two() -> None:
    text = """g (float[2,3,4] x) => (float[2,12] y) {
        q = QuantizeLinear(x, s, z)
        t = Transpose<perm=[0,2,1]>(q)
        r = Reshape(t, shape)
        y = DequantizeLinear(r, s, z)
    }"""
    found = model(text, s=SCALE, z=MIDDLE, shape=np.array([2, 12], np.int64))
    x = image(2, 3, 4)
    before = run(found, x=x)[0]
    stripped(found)
    assert ops(found) == ["Transpose", "Reshape"]
    np.testing.assert_allclose(before, run(found, x=x)[0], atol=0.026)


QOPERATOR = """g (float[1,3,6,6] x) => (float[1,4] y) {
    q = QuantizeLinear(x, s, z)
    c = QLinearConv(q, s, z, w, ws, wz, cs, z, b)
    p = MaxPool<kernel_shape=[4,4]>(c)
    f = Flatten(p)
    m = QLinearMatMul(f, cs, z, v, vs, vz, cs, z)
    y = DequantizeLinear(m, cs, z)
}"""


def test_operators_on_integers_become_floats() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    found = model(
        QOPERATOR, opset=12, s=SCALE, z=MIDDLE, cs=np.array(0.03, np.float32), ws=scales / 10, wz=np.zeros(4, np.int8),
        w=rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), b=rng.integers(-999, 999, 4).astype(np.int32),
        v=rng.integers(-127, 128, (4, 4)).astype(np.int8), vs=np.array(0.003, np.float32), vz=S8,
    )  # fmt: skip
    x = image(1, 3, 6, 6)
    before = run(found, x=x)[0]
    assert read_present(found).operators == Counter(QLinearConv=1, QLinearMatMul=1)
    given, reasons = stripped(found)
    assert (ops(found), given.operators, reasons) == (["Conv", "MaxPool", "Flatten", "MatMul"], 2, [])
    assert len(given.weights) == 3 and not read_present(found)
    after = run(found, x=x)[0]
    assert np.abs(before - after).max() < 0.1 < np.abs(before).max()


def test_an_operator_whose_integers_come_and_go() -> None:
    # Before opset 11, ONNX Runtime's optimizations put a Round into the model that there is not yet, and refuse it.
    text = """g (uint8[1,3,6] x) => (uint8[1,4,6] y) {
        a = Squeeze<axes=[0]>(x)  c = Unsqueeze<axes=[0]>(a)  y = QLinearConv<pads=[1,1]>(c, s, z, w, ws, wz, s, z, b)
    }"""
    rng = np.random.default_rng(0)
    constants = {
        "s": SCALE, "z": MIDDLE, "ws": np.array(0.01, np.float32), "wz": S8,
        "w": rng.integers(-127, 128, (4, 3, 3)).astype(np.int8), "b": rng.integers(-999, 999, 4).astype(np.int32),
    }  # fmt: skip
    for opset, left in ((10, 1), (11, 0)):
        found = model(text, opset=opset, **constants)
        given, reasons = stripped(found)
        assert given.operators == 1 - left and ops(found).count("QLinearConv") == left
        assert sum("between before opset 11" in reason for reason in reasons) == left
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(to_bytes(found.ir), options)


def test_an_output_that_is_an_input_keeps_both_names() -> None:
    text = "g (float[2] x) => (float[2] y) { q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z) }"
    found = model(text, s=SCALE, z=MIDDLE)
    stripped(found)
    assert ops(found) == ["Identity"]
    assert [v.name for v in found.main.outputs] == ["y"]


def test_scales_that_make_no_sense_are_not_understood() -> None:
    for scale in (0.0, -1.0, np.nan, np.inf):
        found = model(PAIR, s=np.array(scale, np.float32), z=U8)
        assert encoding_of(next(iter(found.main.nodes))) is None
        assert stripped(found)[0].pairs == 0


def quantized(
    target: str = "ort-cpu", existing: str = "keep", source: Any = None, rest: str = "auto"
) -> graphopt.Result:
    given = FIXTURES / "models" / "residual_cnn.onnx" if source is None else source
    item = Quant(existing=existing, rest=rest)  # type: ignore[arg-type]
    return graphopt.optimize(given, [item], target=target, data=DATA, as_="proto")


def test_an_int8_model_given_to_quant_again_is_kept_as_it_is() -> None:
    first = quantized().model
    again = quantized(source=first)
    assert again.journal.records["quant"].rewrites == 0
    notes = [note for note in again.report.notes if "already quantized" in note] + [
        note for item in again.report.passes for note in item.notes if "already quantized" in note
    ]
    assert notes and "15 Q/DQ pairs on activations (uint8), 10 weights (int8), 10 biases; kept as they are" in notes[0]
    assert Counter(n.op_type for n in again.model.graph.node) == Counter(n.op_type for n in first.graph.node)


def test_begun_anew_it_gets_the_scales_of_the_target() -> None:
    result = quantized("tensorrt-rtx", "strip", quantized().model)
    assert any("the rest stays as it is" in note for item in result.report.passes for note in item.notes)
    anew, direct = result.model, quantized("tensorrt-rtx", rest="float32").model
    assert Counter(n.op_type for n in anew.graph.node) == Counter(n.op_type for n in direct.graph.node)


def test_the_pass_gives_the_float_network() -> None:
    floats = graphopt.optimize(quantized().model, [Dequant()], as_="proto")
    assert floats.verification is not None and floats.verification.status == "ok"
    known = {n.op_type for n in floats.model.graph.node}
    assert known == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}


@pytest.mark.parametrize(
    ("passes", "guess"),
    [("dequant", False), ("quant{existing=strip,kind=weights}", False), ("quant{existing=strip,skip=*}", False),
     ("quant", True), ("quant{existing=retarget}", True), ("quant{existing=strip}", False)],
)  # fmt: skip
def test_the_metadata_say_that_ranges_are_guesses_as_long_as_there_are_such(passes: str, guess: bool) -> None:
    source = FIXTURES / "models" / "residual_cnn.onnx"
    guessed = graphopt.optimize(source, "quant", target="ort-cpu", as_="proto", force=True).model
    done = graphopt.optimize(guessed, passes, target="ort-cpu", data=DATA, as_="proto", force=True, verify=False).model
    assert ("graphopt.calibration" in {p.key for p in done.metadata_props}) is guess


def test_another_word_for_existing() -> None:
    with pytest.raises(UsageError, match=r"quant\.existing cannot be 'keeep'"):
        quantized(existing="keeep")


def test_pairs_that_are_there_twice_are_one() -> None:
    """Next to each other on one value, or one behind the other."""
    text = """g (float[2,3] x) => (float[2,3] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        p = QuantizeLinear(x, s, z)
        e = DequantizeLinear(p, s, z)
        r = QuantizeLinear(e, s, z)
        f = DequantizeLinear(r, s, z)
        y = Add(d, f)
    }"""
    found = graphopt.optimize(model(text, s=SCALE, z=MIDDLE), "O1", as_="model").model
    assert ops(found) == ["QuantizeLinear", "DequantizeLinear", "Add"]


def test_a_float_weight_with_a_pair_is_stored_in_integers() -> None:
    weight = image(3, 5)
    given = model(FLOAT_WEIGHT, w=weight, ws=STEPS, wz=np.zeros(5, np.int8))
    found = graphopt.optimize(given, "O2", as_="model").model
    assert ops(found) == ["DequantizeLinear", "MatMul"]
    stored = next(iter(found.main.nodes)).inputs[0]
    assert stored is not None
    np.testing.assert_array_equal(stored.array(), np.clip(np.rint(weight / STEPS), -128, 127).astype(np.int8))
