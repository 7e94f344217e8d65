"""Each row of the placement for TensorRT: the pairs that it gives, and those that it does not."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt.emit.emitter import EmitOptions
from graphopt.emit.tensorrt import TensorRTEmitter
from graphopt.ir.model import Model
from graphopt.targets.target import load_target
from tests.unit.placing import net, pairs, placed, quantized, reasons, run, samples, snr

IMAGE = "float[1,16,8,8] x"
CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b)"
W = {"w": (16, 16, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "p": (16, 16, 1, 1)}
EXP = "y = Exp"


def image(body: str, outputs: str = "y", inputs: str = IMAGE, **more: object) -> Model:
    known = {**W, **more}
    used = {n: w for n, w in known.items() if f" {n})" in body or f" {n}," in body}
    return net(body, inputs, outputs, used)  # type: ignore[arg-type]


def shown(m: Model) -> dict[str, str]:
    return pairs(placed(m, "tensorrt"))


def test_all_targets_of_the_style_place_alike() -> None:
    table, *others = (
        replace(load_target(name).require_quant(), types={}) for name in ("tensorrt", "tensorrt-rtx", "ort-cuda")
    )
    assert table.rest == "float16" and others == [table, replace(table, rest="float32")]
    for name in ("tensorrt", "tensorrt-rtx", "ort-cuda"):
        assert any("has not been timed on a GPU" in note for note in load_target(name).notes)


def test_types_are_symmetric_per_tensor_and_per_channel_for_weights() -> None:
    m = image(f"{CONV} {EXP}(c)")
    quantized(m, "tensorrt")
    found = {v.name: v.array() for v in m.main.initializers}
    assert found["w_scale"].shape == (16,) and found["x_scale"].shape == ()
    assert all((a == 0).all() and a.dtype == np.int8 for n, a in found.items() if n.endswith("zero_point"))
    assert found["b"].dtype == np.float32, "the bias stays float"


@pytest.mark.parametrize(
    "act",
    ["y = Relu(c)", "s = Sigmoid(c) y = Mul(c, s)", "y = BatchNormalization(c, b, b, b, b)", "y = Elu(c)"],
)
def test_no_pair_between_a_conv_and_what_is_fused_with_it(act: str) -> None:
    assert shown(image(f"{CONV} {act}")) == {"x": "c"}


def test_inputs_of_the_next_operator_are_quantized_and_not_the_output() -> None:
    m = image(f"{CONV} r = Relu(c) d = Conv(r, p, b) {EXP}(d)")
    assert shown(m) == {"x": "c", "r": "d"}


def test_a_pad_with_zeros_is_fused_so_the_pair_stands_before_it() -> None:
    edges = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    assert shown(image("q = Pad(x, e) c = Conv(q, w, b) y = Exp(c)", e=edges)) == {"x": "q"}
    assert shown(image('q = Pad<mode="reflect">(x, e) c = Conv(q, w, b) y = Exp(c)', e=edges)) == {"q": "c"}
    one = np.array(1, np.float32)
    assert shown(image("q = Pad(x, e, o) c = Conv(q, w, b) y = Exp(c)", e=edges, o=one)) == {"q": "c"}


# Residual blocks


def test_only_the_identity_branch_of_a_residual_add_is_quantized() -> None:
    body = "r = Relu(x) c = Conv<pads=[1,1,1,1]>(r, w, b) s = Add({}) t = Relu(s) y = Exp(t)"
    for order in ("c, r", "r, c"):
        assert shown(image(body.format(order))) == {"r": "c s"}


def test_of_two_convolutions_the_shorter_branch_is_the_residual() -> None:
    body = """r = Relu(x) c = Conv<pads=[1,1,1,1]>(r, w, b) a = Relu(c) d = Conv<pads=[1,1,1,1]>(a, v, b)
              q = Conv(r, p, b) s = Add({}) y = Relu(s)"""
    for order in ("d, q", "q, d"):
        p = placed(image(body.format(order)), "tensorrt")
        assert pairs(p) == {"r": "c q", "a": "d", "q": "s"}
    assert "the shorter way" in p.pairs[-1].reason


@pytest.mark.parametrize(
    ("body", "because"),
    [
        ("r = Relu(x) e = Exp(r) s = Add(r, e) y = Relu(s)", "no convolution to fuse it into"),
        ("c = Conv<pads=[1,1,1,1]>(x, w, b) e = Exp(c) s = Add(c, e) y = Relu(s)", "the branch starts at the Conv"),
        ("r = Relu(x) c = Conv(r, w, b) m = GlobalAveragePool(r) s = Add(c, m) y = Relu(s)", "it broadcasts"),
        ("c = Conv<pads=[1,1,1,1]>(x, w, b) s = Add(c, x) y = Relu(s)", "an input of the model has no producer"),
        ("r = Relu(x) c = Conv<pads=[1,1,1,1]>(r, w, b) s = Add(c, r) y = Relu(s) z = Exp(c)", "c has another reader"),
        ("c = Conv<pads=[1,1,1,1]>(x, w, b) s = Add(c, c) y = Relu(s)", "both are the same"),
    ],
)
def test_other_sums_get_no_pair(body: str, because: str) -> None:
    m = image(body, "y z" if "z =" in body else "y")
    assert not any("s" in readers.split() for readers in shown(m).values()), because


def test_silu_is_fused_and_its_residual_found() -> None:
    body = "r = Relu(x) c = Conv<pads=[1,1,1,1]>(r, w, b) g = Sigmoid(c) h = Mul(c, g) s = Add(h, r) y = Exp(s)"
    assert shown(image(body)) == {"r": "c s"}
    hard = body.replace("g = Sigmoid(c)", "g = HardSigmoid(c)")
    assert shown(image(hard)) == {"r": "c"}, "HardSigmoid(x) * x is no part of the partition"


# Pools, concatenation, normalization


def test_a_pool_in_front_of_integers_is_quantized_on_both_sides() -> None:
    body = f"{CONV} r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) d = MatMul(f, m) y = Exp(d)"
    assert shown(image(body, m=(16, 32), inputs="float[4,16,8,8] x")) == {"x": "c", "f": "d", "r": "g"}
    assert shown(image(f"{CONV} g = GlobalAveragePool(c) y = Exp(g)")) == {"x": "c"}


def test_max_pool_and_movement_get_no_pair_of_their_own() -> None:
    body = f"{CONV} m = MaxPool<kernel_shape=[2,2]>(c) t = Transpose<perm=[0,1,3,2]>(m) d = Conv(t, p, b) {EXP}(d)"
    assert shown(image(body)) == {"x": "c", "t": "d"}


def test_concat_has_one_scale_on_both_sides() -> None:
    body = """a = Relu(x) c = Conv<pads=[1,1,1,1]>(a, w, b) r = Relu(c) k = Concat<axis=1>(a, r) d = Conv(k, u, b)
              y = Exp(d)"""
    p = placed(image(body, u=(16, 32, 1, 1)), "tensorrt")
    assert pairs(p) == {"a": "c", "k": "d"}
    assert all({v.name for v in pair.also} == {"a", "k"} and "Concat" in pair.reason for pair in p.pairs)
    m = image(body, u=(16, 32, 1, 1))
    done = quantized(m, "tensorrt")
    assert len({item.scale for item in done.placed if item.kind == "activation"}) == 1


def test_groups_with_a_pair_in_common_are_one() -> None:
    body = """a = Relu(x) c = Conv(a, p, b) k = Concat<axis=1>(a, c) d = Conv(k, u, b)
              l = Concat<axis=1>(k, d) e = Conv(l, t, b) y = Exp(e)"""
    p = placed(image(body, u=(16, 32, 1, 1), t=(16, 48, 1, 1)), "tensorrt")
    assert {frozenset(v.name for v in pair.also) for pair in p.pairs} == {frozenset("akl")}


def test_layer_normalization_reads_integers_from_a_conv_only() -> None:
    body = f"{CONV} t = Transpose<perm=[0,2,3,1]>(c) n = LayerNormalization(t, b, b) y = Exp(n)"
    assert shown(image(body)) == {"x": "c", "t": "n"}
    assert shown(image("n = LayerNormalization(x, e, e) c = Conv(n, p, b) y = Exp(c)", e=(8,))) == {"n": "c"}


# Limits


@pytest.mark.parametrize(
    ("weight", "attributes", "channels", "fits"),
    [
        ((16, 16, 3, 3), "", 16, True),
        ((64, 3, 3, 3), "", 3, True),  # the first layer, in multiples of 8
        ((12, 3, 3, 3), "", 3, False),
        ((32, 8, 1, 1), "", 8, True),
        ((32, 8, 1, 3), "", 8, False),
        ((16, 1, 3, 3), "group=16", 16, True),
        ((16, 1, 1, 1), "group=16", 16, False),
        ((12, 1, 3, 3), "group=12", 12, False),
    ],
)
def test_channels_of_a_conv(weight: tuple[int, ...], attributes: str, channels: int, fits: bool) -> None:
    m = net(f"c = Conv<{attributes}>(x, w) y = Exp(c)".replace("<>", ""), f"float[1,{channels},8,8] x", "y",
            {"w": weight})  # fmt: skip
    p = placed(m, "tensorrt")
    assert (pairs(p) == {"x": "c"}) is fits
    assert fits or "half precision is faster" in reasons(p)["c"]


def test_narrow_convolutions_inside_stay_float() -> None:
    m = net("r = Relu(x) c = Conv(r, w) y = Exp(c)", "float[1,8,8,8] x", "y", {"w": (8, 8, 3, 3)})
    assert pairs(placed(m, "tensorrt")) == {}


@pytest.mark.parametrize(
    ("shape", "weight", "fits"),
    [("4,16", (16, 16), True), ("1,64", (64, 64), False), ("N,64", (64, 64), True), ("1,4,64", (64, 64), True),
     ("1,1,64", (64, 64), True), ("4,8", (8, 32), False), ("4,64", (64, 8), False), ("4,64", (64, 1), False)],
)  # fmt: skip
def test_shapes_of_products(shape: str, weight: tuple[int, ...], fits: bool) -> None:
    for op in ("MatMul", "Gemm")[: 2 if shape.count(",") == 1 else 1]:
        m = net(f"c = {op}(x, w) y = Exp(c)", f"float[{shape}] x", "y", {"w": weight})
        assert (pairs(placed(m, "tensorrt")) == {"x": "c"}) is fits, op
    assert fits or len(reasons(placed(m, "tensorrt"))) == 1


def test_products_that_are_outputs_stay_float_and_convolutions_do_not() -> None:
    for body in ("y = MatMul(x, m)", "c = MatMul(x, m) y = Add(c, b)", "y = Gemm(x, m, b)"):
        p = placed(image(body, inputs="float[4,16] x", m=(16, 16)), "tensorrt")
        assert pairs(p) == {} and "makes an output of the model" in next(iter(reasons(p).values()))
    assert shown(image("y = Conv(x, w, b)")) == {"x": "y"}


def test_only_flat_transposed_convolutions_with_their_normalization_folded() -> None:
    body = "c = ConvTranspose(x, w) y = Relu(c)"
    m = image(body)
    assert shown(m) == {"x": "c"} and placed(m, "tensorrt").heavy[0].axis == 1
    deep = net(body, "float[1,16,4,4,4] x", "y", {"w": (16, 16, 3, 3, 3)})
    assert "3 spatial axes" in reasons(placed(deep, "tensorrt"))["c"]
    normal = image("c = ConvTranspose(x, w) y = BatchNormalization(c, b, b, b, b)")
    assert "fold it first" in reasons(placed(normal, "tensorrt"))["c"]


ATTENTION = "s = MatMul(q, k) t = Mul(s, f) u = Add(t, a) o = Softmax(u) r = MatMul(o, v) y = Exp(r)"


def attention(length: int | str) -> Model:
    rows = f"float[1,2,{length},32]"
    inputs = f"{rows} q, float[1,2,32,{length}] k, {rows} v, float[1,1,1,{length}] a"
    return net(ATTENTION, inputs, "y", {"f": np.array(0.2, np.float32)})


def test_attention_up_to_512_positions_and_never_its_mask() -> None:
    assert shown(attention(512)) == {"q": "s", "k": "s", "o": "r", "v": "r"}
    for length, why in [(513, "attention over 513 positions"), ("L", "length is not known")]:
        p = placed(attention(length), "tensorrt")
        assert pairs(p) == {} and all(why in text for text in reasons(p).values()) and len(reasons(p)) == 2


def test_gelu_and_layer_normalization_stay_float_as_a_whole() -> None:
    gelu = "d = Div(c, two) e = Erf(d) f = Add(e, one) g = Mul(c, f) h = Mul(g, one)"
    numbers = {"two": np.array(1.41, np.float32), "one": np.array(1, np.float32)}
    body = f"n = LayerNormalization(x, b, b) c = MatMul(n, m) {gelu} z = MatMul(h, m) y = Exp(z)"
    assert shown(image(body, inputs="float[1,4,16] x", m=(16, 16), **numbers)) == {"n": "c", "h": "z"}


def test_every_pair_names_its_rule() -> None:
    m = image(f"{CONV} r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v, b) s = Add(d, r) g = GlobalAveragePool(s) "
              "e = Conv(g, p, b) y = Exp(e)")  # fmt: skip
    found = {pair.value.name: pair.reason for pair in placed(m, "tensorrt").pairs}
    assert set(found) == {"x", "r", "s", "g"}
    assert all(len(reason.split()) > 5 for reason in found.values())


needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra [tensorrt] is not installed"
)

CASES = {
    "residual": f"{CONV} r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v, b) s = Add(d, r) t = Relu(s) y = Conv(t, p, b)",
    "pool": f"{CONV} r = Relu(c) g = GlobalAveragePool(r) y = Conv(g, p, b)",
    "concat": f"{CONV} r = Relu(c) k = Concat<axis=1>(x, r) y = Conv(k, u, b)",
    "transposed": "c = ConvTranspose(x, w, b) r = Relu(c) y = Conv(r, p, b)",
    "silu": f"{CONV} g = Sigmoid(c) h = Mul(c, g) y = Conv(h, p, b)",
    "normalized": f"{CONV} t = Transpose<perm=[0,2,3,1]>(c) n = LayerNormalization(t, b, b) y = MatMul(n, m) ",
}


@needs_tensorrt
@pytest.mark.parametrize("case", CASES)
def test_tensorrt_rtx_builds_what_is_placed_and_it_computes_the_same(tmp_path: Path, case: str) -> None:
    m = image(CASES[case], u=(16, 32, 1, 1), m=(16, 16))
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "tensorrt-rtx")
    assert snr(exact, run(m, feeds)) > 25
    done = TensorRTEmitter().emit(m, tmp_path / "m.engine", EmitOptions(sm=(86,)))
    assert done.bytes > 1000


def test_an_attention_core_is_valid_and_close() -> None:
    m = attention(32)
    feeds = samples(m)[0]
    exact = run(m, feeds)
    quantized(m, "tensorrt")
    assert snr(exact, run(m, feeds)) > 25
