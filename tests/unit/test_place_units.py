"""Each row of the placement for QNN: every operator stands between integers, and ONNX Runtime computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import TargetError
from graphopt.ir.model import Model
from graphopt.quant import plan
from graphopt.targets.target import load_target
from tests.unit.placing import net, pairs, placed, quantized, reasons, run, samples, snr

W = {"w": (16, 8, 3, 3), "b": (16,), "t": (8, 16, 2, 2), "m": (16, 16), "s": (16,)}
IMAGE = "float[1,8,6,6] x"


def model(body: str, inputs: str = IMAGE, **more: object) -> Model:
    known = {**W, **more}
    used = {n: w for n, w in known.items() if f" {n})" in body or f" {n}," in body}
    return net(body, inputs, "y", used)  # type: ignore[arg-type]


def close(m: Model, least: float = 25.0) -> Model:
    """Quantize and compare, without and with ONNX Runtime's own optimizations."""
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "qnn")
    assert snr(exact, run(m, feeds)) > least and snr(exact, run(m, feeds, optimized=True)) > least
    return m


def units(m: Model) -> None:
    """Each float operator reads from DQ and is read by Q alone."""
    for node in m.main.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for value in node.inputs:
            if value is not None and value.dtype is not None and value.dtype.name == "FLOAT":
                assert value.producer is not None and value.producer.op == "DequantizeLinear", (node, value)
        for value in node.outputs:
            assert {reader.op for reader, _ in value.uses()} == {"QuantizeLinear"} and not value.is_output, node


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, m, b)", IMAGE),
        ("c = ConvTranspose(x, t, b) h = HardSwish(c) y = MaxPool<kernel_shape=[2,2]>(h)", IMAGE),
        ("q = MatMul(x, m) a = Add(q, b) n = LayerNormalization(a, s, b) g = Gelu(n) y = Mul(g, x)", "float[2,4,16] x"),
        ("s1 = MatMul(x, m) k = Transpose<perm=[0,2,1]>(x) z = MatMul(s1, k) p = Softmax(z) y = MatMul(p, x)",
         "float[2,4,16] x"),
        ("c = Conv(x, w) i = InstanceNormalization(c, s, b) g = Sigmoid(i) d = Mul(i, g) y = Concat<axis=1>(d, i)", IMAGE),
        ("l, r = Split<num_outputs=2>(x) a = Tanh(l) d = Sub(a, r) e = Clip(d, lo, hi) y = PRelu(e, slope)",
         "float[4,16] x"),
    ],
)  # fmt: skip
def test_every_operator_is_a_unit_and_computes_nearly_the_same(body: str, inputs: str) -> None:
    more = {"lo": np.array(0, np.float32), "hi": np.array(2, np.float32), "slope": np.full(16, 0.1, np.float32)}
    m = net(body, inputs, "y", {n: w for n, w in {**W, **more}.items() if f" {n})" in body or f" {n}," in body}, opset=20)
    clips = "Clip(" in body
    m = close(m)
    if not clips:  # the bounds of a Clip are attributes in all but name
        units(m)


def test_data_movement_keeps_the_scale() -> None:
    m = close(model("c = Conv(x, w, b) t = Transpose<perm=[0,2,3,1]>(c) f = Flatten(t) y = Relu(f)"))
    quants = [n for n in m.main.nodes if n.op == "QuantizeLinear"]
    assert len(quants) == 5 and len({n.inputs[1] for n in quants[1:4]}) == 1
    assert "Transpose moves integers: the scale of 'c' stays" in {p.reason for p in placed(model(
        "c = Conv(x, w, b) t = Transpose<perm=[0,2,3,1]>(c) y = Exp(t)"), "qnn").pairs}  # fmt: skip


def test_scales_per_channel_for_convolutions_alone() -> None:
    m = close(model("c = Conv(x, w, b) d = ConvTranspose(c, u, b) f = Reshape(d, sh) y = MatMul(f, m)", u=(16, 16, 3, 3),
                    sh=np.array([-1, 16], np.int64)))  # fmt: skip
    found = {v.name: v.shape for v in m.main.initializers}
    assert found["w_scale"] == (16,) and found["u_scale"] == (16,) and found["m_scale"] == ()
    assert found["b_int32"] == (16,)


def test_relu_has_nothing_left_to_cut() -> None:
    p = placed(model("c = Conv(x, w, b) r = Relu(c) y = Exp(r)"), "qnn")
    assert pairs(p) == {"x": "*", "c": "*", "r": "*", "y": "*"}
    c = next(pair for pair in p.pairs if pair.value.name == "c")
    assert c.like.name == "r" and c.floor_zero
    m = close(model("c = Conv(x, w, b) r = Relu(c) y = Exp(r)"))
    quants = {n.inputs[0].name: n.inputs[1] for n in m.main.nodes if n.op == "QuantizeLinear"}
    assert quants["c"] == quants["r"]


@pytest.mark.parametrize(
    ("op", "scale", "zero_point"), [("Sigmoid", 1 / 256, 0), ("Softmax", 1 / 256, 0), ("Tanh", 1 / 128, 128)]
)
def test_fixed_scales(op: str, scale: float, zero_point: int) -> None:
    m = close(model(f"c = MatMul(x, m) s1 = {op}(c) y = Exp(s1)", "float[4,16] x"))
    quant = next(n for n in m.main.nodes if n.op == "QuantizeLinear" and n.inputs[0].name == "s1")
    assert quant.inputs[1].array() == np.float32(scale) and quant.inputs[2].array() == zero_point


def test_ranges_are_not_smaller_than_the_least() -> None:
    m = model("c = Mul(x, tiny) y = Exp(c)", tiny=np.array(1e-9, np.float32))
    quantized(m, "qnn")
    quant = next(n for n in m.main.nodes if n.op == "QuantizeLinear" and n.inputs[0].name == "c")
    assert quant.inputs[1].array() == pytest.approx(1e-4 / 255)


def test_constant_operands_are_stored_as_integers_and_weights_as_weights() -> None:
    m = close(model("a = Add(x, k) b1 = Mul(a, k) y = Concat<axis=1>(b1, k)", k=np.ones((1, 8, 6, 6), np.float32) * 3))
    stored = [v for v in m.main.initializers if v.name.startswith("k_uint8")]
    assert stored and all(v.array().dtype == np.uint8 for v in stored)
    assert "k" not in [v.name for v in m.main.initializers]


def test_recurrent_layers_and_casts_stay_float() -> None:
    body = "r = Relu(x) h, l = LSTM<hidden_size=4>(r, wi, wr) y = Relu(h)"
    m = net(body, "float[3,1,8] x", "y", {"wi": (1, 16, 8), "wr": (1, 16, 4)})
    p = placed(m, "qnn")
    assert reasons(p) == {"h": "recurrent layers run in float"} and pairs(p) == {"x": "*", "r": "*", "y": "*"}


def test_what_is_protected_stays_as_it_is() -> None:
    m = model("c = Conv(x, w, b) y = Relu(c)")
    table = load_target("qnn").require_quant()
    p = plan(m, table, protects=lambda part: getattr(part, "op", "") == "Conv")
    assert "x" not in pairs(p) and reasons(p) == {"c": "it is protected"}


def test_a_model_without_weights_is_quantized_too() -> None:
    m = close(model("r = Relu(x) y = Add(r, x)"))
    units(m)


def test_integers_in_the_model_are_left_alone() -> None:
    m = net("s1 = Shape(x) r = Reshape(x, s1) y = Relu(r)", "float[2,8] x", "y", {})
    units_before = [n.op for n in m.main.nodes]
    close(m)
    assert units_before == ["Shape", "Reshape", "Relu"]
    assert all(v.dtype.name == "INT64" for n in m.main.nodes if n.op == "Shape" for v in n.outputs)


def test_every_pair_names_its_rule() -> None:
    for pair in placed(model("c = Conv(x, w, b) g = Sigmoid(c) d = Mul(c, g) y = Flatten(d)"), "qnn").pairs:
        assert len(pair.reason.split()) > 5


def test_sizes_that_are_computed_in_float_stay_exact() -> None:
    """A size as float, cut at 512 and doubled: rounded to 8 bits, it would be another size."""
    body = """z = Shape<start=1, end=2>(x) f = Cast<to=1>(z) t = Min(f, most) u = Mul(t, two) k = Cast<to=7>(u)
              e = Expand(v, k) q = MatMul(x, m) l = Div(q, t) y = Mul(l, l) """
    more = {"most": np.array(512, np.float32), "two": np.array([1], np.float32), "v": np.ones(1, np.float32)}
    m = net(body + " o = Add(e, e)", "float[N,16] x", "y", {"m": W["m"], **more})
    quantized_values = {pair.value.name for pair in plan(m, load_target("qnn").require_quant()).pairs}
    assert quantized_values >= {"x", "q", "l"} and not quantized_values & {"f", "t", "u", "most", "two"}


def test_a_size_that_is_only_data_is_an_operand_as_any_other() -> None:
    m = model("z = Size(x) f = Cast<to=1>(z) u = Sqrt(f) q = MatMul(x, m) y = Div(q, u)", "float[N,16] x")
    assert "u" in {pair.value.name for pair in plan(m, load_target("qnn").require_quant()).pairs}


# 16-bit activations

WIDE = "a = Conv(x, w, b) s = Sigmoid(a) t = Tanh(a) y = Mul(s, t)"
SIZES = {"w": (16, 16, 3, 3), "b": (16,)}


def wide(body: str = WIDE, opset: int = 19, **options: object) -> tuple[Model, dict[str, np.ndarray], float]:
    """The model with 16-bit activations, its initializers, and its signal over noise in dB."""
    m = net(body, "float[1,16,8,8] x", "y", {n: v for n, v in SIZES.items() if f"{n}," in body or f"{n})" in body}, opset=opset)
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "qnn", **options)
    return m, {v.name: v.array() for v in m.main.initializers}, snr(exact, run(m, feeds))  # type: ignore[misc]


def test_sixteen_bit_activations_with_eight_bit_weights() -> None:
    m, found, fine = wide(activation="uint16")
    assert {n.outputs[0].dtype.name for n in m.main.find("QuantizeLinear")} == {"UINT16"}  # type: ignore[union-attr]
    assert found["w_int8"].dtype == np.int8 and found["w_scale"].shape == (16,)
    scales = {n.inputs[0].name: n.inputs[1].splat for n in m.main.find("QuantizeLinear")}  # type: ignore[union-attr]
    assert scales["s"] == 2.0**-16 and scales["t"] == 2.0**-15
    coarse = wide(activation="uint8")[2]
    assert fine > coarse + 6, "what is left is the error of the weights"


def test_products_of_activations_have_sixteen_bits_on_both_sides() -> None:
    m, _, fine = wide("t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)", activation="uint16")
    assert {n.outputs[0].dtype.name for n in m.main.find("QuantizeLinear")} == {"UINT16"}  # type: ignore[union-attr]
    assert fine > 70


@pytest.mark.parametrize("opset", [13, 17])
def test_sixteen_bits_lift_an_older_model_to_opset_21(opset: int, tmp_path: Path) -> None:
    assert wide(opset=opset, activation="uint16")[0].opset() == 21
    assert wide(opset=opset)[0].opset() == opset, "8 bits do not"
    path = tmp_path / "old.toml"
    path.write_text('extends = "qnn"\nname = "old"\ntitle = "t"\n[domains]\n"" = 19\n')
    m = net(WIDE, "float[1,16,8,8] x", "y", SIZES, opset=opset)
    with pytest.raises(TargetError, match=f"uint16 needs opset 21, and the model has {opset}"):
        quantized(m, str(path), activation="uint16")
