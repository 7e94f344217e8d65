"""Models that quantizers stumble over, from end to end: each is quantized, or left float with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import QuantOptions, quantize_graph
from graphopt.ir.edit import Editor
from graphopt.quant import batches
from graphopt.targets.target import load_target
from tests.unit.outcome import GEMM, TARGETS, Array, Outcome, classifier, floats, model, quantized, snr


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(8,), (1, 8), (), (1,), (1, 1)])
def test_gemm_biases_of_every_shape(shape: tuple[int, ...], target: str) -> None:
    done = Outcome(model(GEMM, w=floats(16, 8), b=floats(*shape)), target)
    assert done.integer == 1 and done.snr > 30


@pytest.mark.parametrize("shape", [(4, 8), (4, 1)])
def test_a_gemm_that_adds_something_else_to_each_row_stays_float(shape: tuple[int, ...]) -> None:
    text = "g (float[4,16] x) => (float[4,8] y) { y = Gemm(x, w, b) }"
    done = Outcome(model(text, w=floats(16, 8), b=floats(*shape)), "ort-cpu")
    assert done.integer == 0 and done.noted("no constant bias with one value per channel")


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_without_operators_to_quantize_says_so(target: str) -> None:
    done = Outcome(model("g (float[4,8] x) => (float[4,8] y) { a = Sin(x)  y = Mul(a, x) }"), target)
    assert done.integer == 0 and done.noted("nothing to quantize")


@pytest.mark.parametrize(("activations", "count"), [(1 << 30, 8), (10_000, 6), (1, 2)])
def test_large_activations_are_looked_at_in_fewer_made_up_batches(
    monkeypatch: pytest.MonkeyPatch, activations: int, count: int
) -> None:
    monkeypatch.setattr(batches, "_SYNTHETIC_BYTES", activations)
    found = graphopt.load(model("g (float[4,16] x) => (float[4,100] y) { y = MatMul(x, w) }", w=floats(16, 100)))
    done = quantize_graph(found, Editor(found), load_target("onnx"), QuantOptions(), None)
    assert done.calibration is not None and done.calibration.batches == count


INTEGERS = """g (int64[N,4] i, bool[N,4] m) => (float[N,8] y) {
    e = Gather(t, i)  k = Cast<to=1>(m)  a = Constant<value_ints=[2]>()  u = Unsqueeze(k, a)  z = Mul(e, u)
    h = ReduceMean<axes=[1],keepdims=0>(z)  y = Gemm(h, w, b) }"""


@pytest.mark.parametrize("target", TARGETS)
def test_integer_and_boolean_inputs(target: str) -> None:
    done = Outcome(model(INTEGERS, t=floats(100, 16), w=floats(16, 8), b=floats(8)), target)
    assert done.integer == 1 and done.snr > 30


def test_a_product_of_integers_stays_one() -> None:
    text = "g (int32[N,16] i) => (int32[N,8] y) { y = MatMul(i, w) }"
    done = Outcome(model(text, w=np.arange(128, dtype=np.int32).reshape(16, 8)), "ort-cpu")
    assert done.integer == 0 and done.noted("its input is int32, and static int8 starts from float32")


OUTPUTS = {
    "several, one of them boolean": (
        "g (float[N,16] x) => (float[N,8] y, bool[N,8] z, float[N,8] r) "
        "{ y = Gemm(x, w, b) r = Relu(y) s = Sub(x, x) k = ReduceSum(s) z = Less(y, k) }"
    ),
    "a constant": "g (float[N,16] x) => (float[N,8] y, float[2] k) { y = Gemm(x, w, b) k = Constant<value_floats=[1., 2.]>() }",
    "of constants": "g (float[N,16] x) => (float[N,8] y, float[8,8] k) { y = Gemm(x, w, b) k = Gemm<transA=1>(w, w, b) }",
    "an input": "g (float[N,16] x) => (float[N,8] y, float[N,16] x) { y = Gemm(x, w, b) }",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_every_kind(name: str, target: str) -> None:
    done = Outcome(model(OUTPUTS[name], w=floats(16, 8), b=floats(8)), target, x=floats(9, 16))
    assert done.integer == 1 and done.snr > 30


def test_a_weight_that_is_an_output_stays_there() -> None:
    proto = model(GEMM, w=floats(16, 8), b=floats(8))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [16, 8]))
    done = Outcome(proto, "ort-cpu")
    assert done.integer == 1 and done.snr > 30


def one(value: float) -> Array:
    """Ones, but for one channel."""
    found = np.ones(16, np.float32)
    found[3] = value
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("factor", "weight", "reason"),
    [
        pytest.param(np.zeros(16, np.float32), 1.0, None, id="all zero"),
        pytest.param(np.full(16, 1e12, np.float32), 1.0, None, id="all huge"),
        pytest.param(one(1e30), 1.0, "many of its elements would be less", id="a mark"),
        pytest.param(np.full(16, 1e20, np.float32), 1e17, "leave float32", id="products beyond float32"),
    ],
)
def test_activations_of_every_range(factor: Array, weight: float, reason: str | None, target: str) -> None:
    proto = model(GEMM, w=floats(16, 8, scale=weight), b=floats(8))
    with np.errstate(over="ignore", invalid="ignore"):
        done = Outcome(proto, target, x=floats(9, 16) * factor)
    assert done.integer == (reason is None)
    if reason is None:
        assert done.snr > 30
    else:
        assert done.noted(reason)


def test_infinities_that_arise_inside() -> None:
    text = "g (float[N,16] x) => (float[N,8] y) { h = Exp(x) y = Gemm(h, w, b) }"
    found, done, _ = quantized(model(text, w=floats(16, 8), b=floats(8)), x=floats(9, 16) * one(1e3))
    assert done.operators == 0 and "held infinities" in done.declined[0][2]
    assert [n.op for n in found.main.nodes] == ["Exp", "Gemm"]


def test_what_surrounds_an_operator_that_cannot_be_quantized_still_is() -> None:
    text = """g (float[N,16] x) => (float[N,8] y) {
        c = Clip(x, lo, hi)  a = Gemm(c, v, p)  r = Reshape(a, s)  h = Tanh(r)  d = Gemm(x, w, b)  e = Gemm(h, w, b)
        y = Add(d, e) }"""
    weights = {"v": floats(16, 16), "p": floats(16), "w": floats(16, 8), "b": floats(8)}
    bounds = {"lo": np.float32(-4), "hi": np.float32(4), "s": np.array([-1, 16])}
    done = Outcome(model(text, **weights, **bounds), "ort-cpu", x=floats(9, 16) * one(1e30))
    assert done.integer == 2 and done.noted("reaches")


WEIGHTS = {
    "a channel of zeros": (lambda w: w * (np.arange(8) != 3), 1.0),
    "zeros": (lambda w: w * 0, 1.0),
    "zeros and a large bias": (lambda w: w * (np.arange(8) != 3), 1e6),
    "huge": (lambda w: w * 1e25, 1.0),
    "tiny": (lambda w: w * 1e-30, 1.0),
    "subnormal": (lambda w: w * 1e-38 * 1e-3, 1.0),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_every_range(name: str, target: str) -> None:
    change, bias = WEIGHTS[name]
    weight = np.asarray(change(floats(16, 8).astype(np.float64))).astype(np.float32)
    done = Outcome(model(GEMM, w=weight, b=floats(8) * np.float32(bias)), target)
    assert done.integer == 1 and done.snr > 30


@pytest.mark.parametrize(("name", "index", "words"), [("w", 0, "its weight holds NaN or Inf"), ("b", 1, "third input")])
def test_constants_that_are_not_finite(name: str, index: int, words: str) -> None:
    weights = {"w": floats(16, 8), "b": floats(8)}
    weights[name].flat[index] = np.inf
    found, done, _ = quantized(model(GEMM, **weights), "ort-cpu")
    assert done.operators == 0 and words in done.declined[0][2]
    assert [n.op for n in found.main.nodes] == ["Gemm"]


SHARED = {
    "an embedding and the product with it": (
        "g (int64[N] i) => (float[N,50] y) { e = Gather(t, i) y = Gemm<transB=1>(e, t) }", {"t": floats(50, 16)}, 1,
    ),
    "an embedding that is turned": (
        "g (int64[N,4] i) => (float[N,4,50] y) { e = Gather(t, i) h = MatMul(e, w) q = Tanh(h) "
        "u = Transpose<perm=[1,0]>(t) y = MatMul(q, u) }", {"t": floats(50, 16), "w": floats(16, 16)}, 2,
    ),
    "both ways round": (
        "g (float[N,16] x) => (float[N,16] y) { h = Gemm(x, w, b) q = Tanh(h) y = Gemm<transB=1>(q, w, b) }",
        {"w": floats(16, 16), "b": floats(16)}, 2,
    ),
    "two convolutions": (
        "g (float[1,4,6,6] x) => (float[1,4,4,4] y) { h = Conv<pads=[1,1,1,1]>(x, w) q = Sigmoid(h) y = Conv(q, w) }",
        {"w": floats(4, 4, 3, 3)}, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SHARED)
def test_weights_that_are_shared(name: str, target: str) -> None:
    text, weights, operators = SHARED[name]
    done = Outcome(model(text, **weights), target)
    assert done.integer == operators and done.snr > 28


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "an embedding and the product with it",
            "'t' is stored 2 times: as integers for Gemm of 'y' along axis 0, in float for Gather of 'e'",
        ),
        (
            "both ways round",
            "'w' is stored 2 times: as integers for Gemm of 'h' along axis 1, as integers for Gemm of 'y' along axis 0",
        ),
        ("two convolutions", None),
    ],
)
def test_weights_that_are_stored_more_than_once_are_told(name: str, told: str | None) -> None:
    text, weights, _ = SHARED[name]
    _, done, _ = quantized(model(text, **weights), "ort-cpu")
    assert [note for note in done.notes if "is stored" in note] == ([] if told is None else [told])


def test_inputs_with_a_default_stay_with_the_caller() -> None:
    text = "g (float[N,16] x, float[{}] {}) => (float[N,8] y) {{ y = Gemm(x, w, b) }}"
    for name, size, words in (("w", "16,8", "its weight is also an input"), ("b", "8", "third input")):
        proto = model(text.format(size, name), w=floats(16, 8), b=floats(8))
        done = Outcome(proto, "ort-cpu", x=floats(9, 16))
        assert done.integer == 0 and done.noted(words)


@pytest.mark.parametrize("kind", ["value", "initializer"])
def test_names_that_are_there_twice_are_refused_by_name(kind: str) -> None:
    proto = model(GEMM, w=floats(16, 8), b=floats(8))
    if kind == "value":
        proto.graph.node.add(op_type="Relu", input=["x"], output=["y"])
    else:
        proto.graph.initializer.append(numpy_helper.from_array(floats(8) + 1, "b"))
    with pytest.raises(graphopt.ModelError, match=r"'y' is defined twice|two initializers are named 'b'"):
        graphopt.optimize(proto, "fuse,quant", target="ort-cpu")


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_floats_stay_with_a_reason(dtype: str) -> None:
    kind = np.dtype(np.float64 if dtype == "double" else dtype)
    text = GEMM.replace("float[", f"{dtype}[")
    done = Outcome(model(text, w=floats(16, 8).astype(kind), b=floats(8).astype(kind)), "ort-cpu")
    assert done.integer == 0 and done.noted("static int8 starts from float32")


def test_rows_that_are_not_there() -> None:
    text = "g (float[0,16] x) => (float[0,8] y) { y = Gemm(x, w, b) }"
    found, done, _ = quantized(model(text, w=floats(16, 8), b=floats(8)), "ort-cpu")
    assert done.operators == 1 and found.opset() == 17
    assert "no finite element" in done.calibration.warnings[0]


def test_a_quantized_model_is_not_quantized_again() -> None:
    first = Outcome(classifier(13), "ort-cpu")
    again = Outcome(first.model, "ort-cpu")
    assert again.noted("quantized") and [n.op_type for n in again.model.graph.node] == [
        n.op_type for n in first.model.graph.node
    ]


@pytest.mark.parametrize("options", ["", "{format=qoperator}"])
@pytest.mark.parametrize("body", ["y = MatMul(x, w)", "a = MatMul(x, w) y = Relu(a)"])
def test_a_stack_of_weights_has_one_scale(body: str, options: str) -> None:
    """ONNX Runtime refuses a zero point for each column of a stack of matrices."""
    source = model(f"g (float[2,5,16] x) => (float[2,5,8] y) {{ {body} }}", w=floats(2, 16, 8))
    data = [{"x": floats(2, 5, 16)}]
    done = graphopt.optimize(source, f"quant{options}", target="ort-cpu", data=data, force=True)
    assert done.report.coverage.integer == 1
    assert not any("left float" in note for item in done.report.passes for note in item.notes)
    assert snr(source, done.model, data[0]) > 30


def test_infinities_in_an_output_are_compared_without_a_warning() -> None:
    from graphopt.quant.sound import _distance

    inf = {"y": np.array([np.inf, 1.0], np.float32)}
    with np.errstate(all="raise"):
        assert _distance(inf, inf, ["y"]) == 0
        assert _distance({"y": np.array([0.0, 1.0], np.float32)}, inf, ["y"]) == pytest.approx(1)


@pytest.mark.parametrize("mark", [-1e4, -1e9, -np.inf])
@pytest.mark.parametrize("move", ["a", "r"])
def test_a_mask_stays_float_where_all_operators_run_on_integers(mark: float, move: str) -> None:
    """With -1e9 in the range, all that is not masked is one step; so it is behind data movement."""
    source = model(
        "g (float[1,6,16] x) => (float[1,6,16] y) { q = MatMul(x, w) t = Transpose<perm=[0,2,1]>(q) s = MatMul(q, t) "
        f"a = Add(s, m) r = Reshape(a, same) p = Softmax({move}) y = MatMul(p, q) }}",
        w=floats(16, 16, scale=0.3), m=np.triu(np.full((6, 6), mark, np.float32), 1), same=np.array([1, 6, 6]),
    )  # fmt: skip
    data = [{"x": floats(1, 6, 16)}]
    done = graphopt.optimize(source, "quant", target="qnn", data=data, force=True)
    pairs = {n.input[0] for n in done.model.graph.node if n.op_type == "QuantizeLinear"}
    assert {"x", "q", "p"} <= pairs and not {"a", "r"} & pairs
    assert any("'a' is left float: its range" in note for item in done.report.passes for note in item.notes)
    assert snr(source, done.model, data[0]) > 25
