"""Where Q and DQ go, and that the result computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant.place import QuantSelection, plan
from graphopt.targets.target import load_target
from tests.unit.flow import CONV, IMAGE, ONNX, ORT, ROWS, W, applied, model, shown
from tests.unit.placing import reasons


def test_conv_behind_relu_is_quantized_behind_the_relu() -> None:
    m = model([CONV, "r = Relu(c)", "y = Sqrt(r)"], inputs={"x": IMAGE}, outputs=["y"], weights=W)
    p = plan(m, ORT)
    assert shown(p) == {("x", "c"), ("r", "*")}
    assert [q.floor_zero for q in p.pairs if q.value.name == "r"] == [True]
    assert [q.reason for q in p.pairs] == ["input of Conv", "output of Conv"]


def test_conv_behind_another_activation_is_quantized_directly() -> None:
    m = model([CONV, "s = Sigmoid(c)", "y = Sqrt(s)"], inputs={"x": IMAGE}, outputs=["y"], weights=W)
    assert shown(plan(m, ORT)) == {("x", "c"), ("c", "*")}


def test_clip_counts_as_redundant_only_from_zero() -> None:
    for low, where in [(0.0, "k"), (-1.0, "c")]:
        m = model(
            [CONV, "k = Clip(c, lo, hi)", "y = Exp(k)"],
            inputs={"x": IMAGE},
            outputs=["y"],
            weights={**W, "lo": np.array(low, np.float32), "hi": np.array(6, np.float32)},
        )
        p = plan(m, ORT)
        assert shown(p) == {("x", "c"), (where, "*")}
        assert p.pairs[1].ceiling == (6.0 if where == "k" else None)


def test_relu_is_not_redundant_when_somebody_else_reads_the_conv() -> None:
    m = model([CONV, "r = Relu(c)", "y = Sqrt(r)", "z = Exp(c)"], inputs={"x": IMAGE}, outputs=["y", "z"], weights=W)
    assert shown(plan(m, ORT)) == {("x", "c"), ("c", "*")}


RESIDUAL = [
    CONV,
    "r = Relu(c)",
    "d = Conv(r, v, b) pads=[1,1,1,1]",
    "s = Add(d, r)",
    "t = Relu(s)",
    "e = Conv(t, v, b) pads=[1,1,1,1]",
    "g = GlobalAveragePool(e)",
    "f = Flatten(g)",
    "y = Gemm(f, m, n) transB=1",
]
RESIDUAL_W = {**W, "v": (8, 8, 3, 3), "m": (10, 8), "n": (10,)}


def residual(**options: int) -> Model:
    return model(RESIDUAL, inputs={"x": IMAGE}, outputs=["y"], weights=RESIDUAL_W, **options)


def test_a_residual_network_runs_on_integers_throughout() -> None:
    p = plan(residual(), ORT)
    assert shown(p) == {("x", "c"), ("r", "*"), ("d", "*"), ("t", "*"), ("e", "*"), ("g", "*"), ("f", "*")}
    flat = next(q for q in p.pairs if q.value.name == "f")
    assert flat.like.name == "g" and flat.reason == "Flatten moves integers: the scale of 'g' stays"
    assert p.declined == []


def test_shared_weights_are_stored_once() -> None:
    m, snr = applied(residual())
    names = [v.name for v in m.main.initializers]
    assert names.count("v_int8") == 1 and "v" not in names and "w" not in names
    assert snr > 25


def test_layers_that_share_everything_share_the_integers_too() -> None:
    m = model(
        [CONV, "d = Conv(x, w, b) pads=[1,1,1,1] dilations=[1,1]", "y = Max(c, d)"],
        inputs={"x": IMAGE},
        outputs=["y"],
        weights=W,
    )
    m, _ = applied(m)
    assert sum(n.op == "DequantizeLinear" and n.inputs[0].name in ("w_int8", "b_int32") for n in m.main.nodes) == 2


def test_data_movement_has_one_scale_before_and_after() -> None:
    m, _ = applied(residual())
    scales = {n.inputs[1].name for n in m.main.nodes if n.op == "QuantizeLinear" and n.inputs[0].name in ("g", "f")}
    assert scales == {"g_scale"}


def test_add_of_a_float_input_stays_float() -> None:
    m = model(
        [CONV, "s = Add(c, z)", "y = Conv(s, w, b) pads=[1,1,1,1]"],
        inputs={"x": IMAGE, "z": IMAGE},
        outputs=["y"],
        weights=W,
    )
    assert shown(plan(m, ORT)) == {("x", "c"), ("c", "*"), ("s", "y"), ("y", "*")}


def test_a_small_gate_is_quantized_for_its_mul() -> None:
    m = model(
        [
            CONV,
            "g = GlobalAveragePool(c)",
            "h = HardSigmoid(g)",
            "s = Mul(c, h)",
            "y = Conv(s, w, b) pads=[1,1,1,1]",
        ],
        inputs={"x": IMAGE},
        outputs=["y"],
        weights=W,
    )
    assert shown(plan(m, ORT)) == {("x", "c"), ("c", "*"), ("h", "s"), ("s", "*"), ("y", "*")}


def test_a_graph_output_of_conv_keeps_its_name() -> None:
    m, snr = applied(model([CONV], inputs={"x": IMAGE}, outputs=["c"], weights=W))
    assert [v.name for v in m.main.outputs] == ["c"] and snr > 25
    assert m.main.outputs[0].producer is not None and m.main.outputs[0].producer.op == "DequantizeLinear"


MATMUL_W = {"w": (16, 24), "b": (24,)}


def test_matmul_with_added_bias_has_an_integer_bias_and_float_output() -> None:
    m = model(
        ["a = MatMul(x, w)", "s = Add(b, a)", "y = Erf(s)"], inputs={"x": "N,4,16"}, outputs=["y"], weights=MATMUL_W
    )
    p = plan(m, ORT)
    assert shown(p) == {("x", "a")}
    assert p.heavy[0].axis == 1 and p.heavy[0].bias is not None and p.heavy[0].bias.index == 0
    m, snr = applied(m)
    add = next(n for n in m.main.nodes if n.op == "Add")
    dq = add.inputs[0].producer
    assert dq is not None and dq.op == "DequantizeLinear" and dq.inputs[0].dtype.name == "INT32" and snr > 35


def test_gemm_before_relu_would_fall_back_to_float() -> None:
    m = model(["a = Gemm(x, w, b)", "r = Relu(a)", "y = Exp(r)"], inputs={"x": ROWS}, outputs=["y"], weights=MATMUL_W)
    p = plan(m, ORT)
    assert shown(p) == {("x", "a"), ("r", "*")}
    assert p.pairs[1].reason == "output of Gemm, which would fall back to float without"


def test_three_dimensional_matmul_with_bias_may_stand_before_relu() -> None:
    text = ["a = MatMul(x, w)", "s = Add(a, b)", "r = Relu(s)", "y = Exp(r)"]
    m = model(text, inputs={"x": "2,4,16"}, outputs=["y"], weights=MATMUL_W)
    assert shown(plan(m, ORT)) == {("x", "a")}
    flat = model(text, inputs={"x": ROWS}, outputs=["y"], weights=MATMUL_W)
    assert shown(plan(flat, ORT)) == {("x", "a"), ("r", "*")}


def test_flat_matmul_before_a_residual_add_is_quantized_directly() -> None:
    m = model(["a = MatMul(x, w)", "y = Add(a, x)"], inputs={"x": ROWS}, outputs=["y"], weights={"w": (16, 16)})
    assert shown(plan(m, ORT)) == {("x", "a"), ("a", "*")}
    m = model(["a = MatMul(x, w)", "y = Add(a, x)"], inputs={"x": "2,4,16"}, outputs=["y"], weights={"w": (16, 16)})
    assert shown(plan(m, ORT)) == {("x", "a")}


def test_opset_11_has_one_scale_per_weight_unless_the_target_has_another_operator() -> None:
    m, standard = applied(residual(opset=11), ONNX)
    assert all(n.domain == "" for n in m.main.nodes)
    m, contributed = applied(residual(opset=11), ORT)
    weights = [n for n in m.main.nodes if n.domain == "com.microsoft"]
    assert {n.op for n in weights} == {"DequantizeLinear"} and all(n.attr("axis") in (0, 1) for n in weights)
    assert m.opset("com.microsoft") == 1 and contributed >= standard
    note = plan(residual(opset=11), ONNX).notes
    assert note == [
        "opset 11 has one scale per weight only: accuracy is better from opset 13 on, convert the model to it"
    ]


def test_opset_9_is_declined() -> None:
    p = plan(residual(opset=9), ORT)
    assert not p.pairs and set(reasons(p).values()) == {
        "QuantizeLinear needs opset 10, and the model has 9: convert it first"
    }


@pytest.mark.parametrize(
    ("text", "weights", "inputs", "reason"),
    [
        (
            "y = MatMul(w, x)",
            {"w": (5, 4)},
            ROWS,
            "its constant is the left operand, and integer kernels want it on the right",
        ),
        ("y = MatMul(x, x)", {}, "4,4", "both operands are activations, and sums of 4 products are too short for integers to pay"),
        (
            "y = Gemm(x, w, b) alpha=0.5",
            MATMUL_W,
            ROWS,
            "alpha or beta is not 1; fold them into the weight and the bias first",
        ),
        (
            "y = Gemm(x, w, b)",
            {"w": (16, 24), "b": (4, 24)},
            ROWS,
            "its third input is no constant bias with one value per channel",
        ),
        ("y = ConvTranspose(x, w)", {"w": (8, 8, 2, 2)}, IMAGE, "there is no integer kernel for ConvTranspose"),
        ("y = MatMul(x, w)", {"w": np.full((16, 4), np.nan, np.float32)}, ROWS, "its weight holds NaN or Inf"),
        (
            "y = Gemm(x, w, x)",
            {"w": (16, 16)},
            "4,16",
            "its third input is no constant bias with one value per channel",
        ),
    ],
)
def test_operators_that_stay_float_say_why(text: str, weights: dict[str, object], inputs: str, reason: str) -> None:
    m = model([text], inputs={"x": inputs}, outputs=["y"], weights=weights)  # type: ignore[arg-type]
    p = plan(m, ORT)
    assert reasons(p) == {"y": reason} and not p.pairs


def test_a_weight_that_is_an_input_is_not_constant() -> None:
    m = model(["y = MatMul(x, w)"], inputs={"x": ROWS, "w": "16,4"}, outputs=["y"], weights={"w": (16, 4)})
    assert reasons(plan(m, ORT)) == {
        "y": "its weight is also an input of the model, so a caller may set it; --freeze makes it a constant"
    }


def test_half_precision_is_declined() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float16[4,2] x) => (float16[4,2] y) '
        "<float16[2,2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
    )
    m = Model(*read_model(proto.SerializeToString()))
    assert list(reasons(plan(m, ORT)).values()) == ["its input is float16, and static int8 starts from float32"]


def test_a_second_run_finds_nothing_to_do() -> None:
    m, _ = applied(residual())
    p = plan(m, ORT)
    assert not p.pairs and set(reasons(p).values()) == {"it is quantized already"}


def test_selection_by_operator_name_and_end() -> None:
    p = plan(residual(), ORT, QuantSelection(ops=("Conv",)))
    assert reasons(p) == {"y": "Gemm is not among the operators asked for"}
    p = plan(residual(), ORT, QuantSelection(skip=("d*",)))
    assert reasons(p) == {"d": "its name was to be skipped"}
    p = plan(residual(), ORT, QuantSelection(ends=False))
    assert reasons(p) == dict.fromkeys("cy", "the first and the last layer were to stay float")


def test_a_weight_read_elsewhere_stays_for_the_others() -> None:
    m = model(
        ["a = MatMul(x, w)", "y = Exp(a)", "z = Exp(w)"], inputs={"x": ROWS}, outputs=["y", "z"], weights={"w": (16, 4)}
    )
    m, _ = applied(m)
    assert {"w", "w_int8"} <= {v.name for v in m.main.initializers}


def test_activation_pairs_when_the_target_has_them() -> None:
    m = model(["y = MatMul(x, z)"], inputs={"x": "2,4,16", "z": "2,16,4"}, outputs=["y"], weights={})
    p = plan(m, ORT)
    assert [(q.value.name, q.dtype) for q in p.pairs] == [("x", "uint8"), ("z", "int8")]
    assert applied(m)[1] > 30


def test_zero_channels_and_huge_biases_survive() -> None:
    w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    w[:, 1] = 0
    w[:, 2] = 1e-20
    m = model(
        ["a = MatMul(x, w)", "y = Add(a, b)"],
        inputs={"x": ROWS},
        outputs=["y"],
        weights={"w": w, "b": np.array([0.1, 0.7, 1e5], np.float32)},
    )
    assert applied(m)[1] > 60


def test_existing_names_are_not_taken() -> None:
    m = model(["x_scale = MatMul(x, w)"], inputs={"x": ROWS}, outputs=["x_scale"], weights={"w": (16, 4)})
    m, snr = applied(m)
    assert snr > 30 and m.main.outputs[0].name == "x_scale"


ATTENTION = [
    "q = MatMul(x, wq)",
    "k = MatMul(x, wk)",
    "v = MatMul(x, wv)",
    "t = Transpose(k) perm=[0,2,1]",
    "s = MatMul(q, t)",
    "p = Softmax(s)",
    "o = MatMul(p, v)",
    "r = Transpose(o) perm=[1,0,2]",
    "y = MatMul(r, wo)",
]


def test_products_of_activations_hand_integers_on() -> None:
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0.0, 0.3, (16, 16)).astype(np.float32) for name in ("wq", "wk", "wv", "wo")}
    m = model(ATTENTION, inputs={"x": "2,32,16"}, outputs=["y"], weights=weights)
    p = plan(m, ORT)
    # q and o are only read by products; k and v are their right operands, of another type; s stays float for Softmax.
    assert shown(p) == {("x", "k+q+v"), ("q", "*"), ("t", "s"), ("v", "o"), ("p", "o"), ("o", "*"), ("r", "*")}
    assert {x.value.name: x.dtype for x in p.pairs if x.dtype == "int8"} == {"t": "int8", "v": "int8"}
    assert applied(m)[1] > 25


def test_what_nobody_reads_is_left_alone() -> None:
    m = model(["h = MatMul(x, w)", "d = MatMul(h, w)", "y = Tanh(h)"], inputs={"x": ROWS}, outputs=["y"], weights={"w": (16, 16)})
    assert reasons(plan(m, ORT)) == {"d": "nobody reads its output"}
    assert applied(m)[1] > 25


def test_short_sums_are_no_work_for_integers() -> None:
    """Angles of rotary embeddings are such a product: positions times frequencies, to be exact for all positions."""
    m = model(["y = MatMul(x, z)"], inputs={"x": "2,64,1", "z": "2,1,512"}, outputs=["y"], weights={})
    assert not plan(m, ORT).pairs


@pytest.mark.parametrize(("shapes", "quantized"), [("256,64 64,256", True), ("257,64 64,257", False), ("9,300 300,64", False)])
def test_long_sequences_do_not_pay(shapes: str, quantized: bool) -> None:
    x, z = shapes.split()
    m = model(["y = MatMul(x, z)"], inputs={"x": f"2,{x}", "z": f"2,{z}"}, outputs=["y"], weights={})
    assert bool(plan(m, ORT).pairs) is quantized


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_what_a_model_ends_with_stays_float(last: str) -> None:
    m = model([CONV, "g = GlobalAveragePool(c)", f"y = {last}(g)"], inputs={"x": IMAGE}, outputs=["y"], weights=W)
    assert "y" not in {value for value, _ in shown(plan(m, ORT))}
    m = model(["a = Gemm(x, w, b)", f"y = {last}(a)"], inputs={"x": "4,8"}, outputs=["y"], weights={"w": (8, 8), "b": (8,)})
    assert shown(plan(m, ORT)) == {("x", "a")}


def test_a_vector_of_weights_between_heavy_operators_stays_float() -> None:
    """Only what heavy operators want is rounded: a Mul of two floats, a Sub and a normalization are not."""
    m = model(
        ["a = MatMul(x, w)", "m = Mul(a, a)", "s = Sub(m, x)", "n = LayerNormalization(s, g)", "y = MatMul(n, w)"],
        inputs={"x": "2,4,16"}, outputs=["y"], weights={"w": (16, 16), "g": (16,)},
    )  # fmt: skip
    assert shown(plan(m, ORT)) == {("x", "a"), ("n", "y")}


def test_on_arm_data_is_signed_and_a_relu_ends_at_its_lowest_integer() -> None:
    m = model([CONV, "r = Relu(c)", "y = Conv(r, w, b)"], inputs={"x": IMAGE}, outputs=["y"], weights=W)
    found, snr = applied(m, load_target("ort-arm").require_quant())
    zeros = {v.name: int(v.array().reshape(-1)[0]) for v in found.main.initializers if v.name.endswith("zero_point")}
    assert zeros["r_zero_point"] == -128 and snr > 25
    assert all(n.inputs[2].dtype.name == "INT8" for n in found.main.nodes if n.op == "QuantizeLinear")
