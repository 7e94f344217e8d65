"""Attention from matrix products and a softmax."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, compare, declines, feeds_for, fires, rewrite, run, weight

FUSE = Fuse()
DIMS = {"B": 2, "S": 5, "T": 7}
QKV = "(float[B,3,S,8] q, float[B,3,T,8] k, float[B,3,T,4] v{more}) => (float[B,3,S,4] y{out})"

SCALES = {
    "none": "m = MatMul(q, t)",
    "factor": "n = MatMul(q, t) m = Mul(n, c)",
    "divisor": "n = MatMul(q, t) m = Div(n, d)",
    "on the queries": "a = Mul(c, q) m = MatMul(a, t)",
    "divided queries": "a = Div(q, d) m = MatMul(a, t)",
    "on both": "a = Mul(q, r) b = Mul(t, r) m = MatMul(a, b)",
    "everywhere": "a = Div(q, d) b = Div(t, d) n = MatMul(a, b) m = Mul(n, c)",
}
SCALE = {"none": 1.0, "on both": 0.5, "everywhere": 1 / 32}


def attention(
    scores: str = SCALES["factor"], mask: str = "", more: str = "", out: str = "", opset: int = 23,
    softmax: str = "Softmax<axis=-1>", signature: str = QKV, transpose: str = "Transpose<perm=[0,1,3,2]>(k)",
    **constants: Any,
) -> onnx.ModelProto:  # fmt: skip
    s = "s" if mask else "m"
    body = f"t = {transpose} {scores} {mask} p = {softmax}({s}) y = MatMul(p, v)"
    given = {"c": 0.5, "d": 4.0, "r": np.sqrt(np.float32(0.5)), **constants}
    used = {k: v for k, v in given.items() if re.search(rf"\b{k}\b", body)}
    return build(signature.format(more=more, out=out), body, opset=opset, **used)


@pytest.mark.parametrize("scores", SCALES.values(), ids=SCALES)
def test_attention(scores: str) -> None:
    name = next(n for n, s in SCALES.items() if s == scores)
    outcome = fires(FUSE, attention(scores), "attention", ["Attention"], dims=DIMS)
    expected = SCALE.get(name, 0.5 if "c" in scores else 0.25)
    assert outcome.attrs("Attention")["scale"] == pytest.approx(expected)


@pytest.mark.parametrize("scores", SCALES.values(), ids=SCALES)
def test_where_no_bit_may_change_attention_stays_as_it_is(scores: str) -> None:
    assert not rewrite(attention(scores), FUSE, "exact").fired


def test_where_no_bit_may_change_rotations_stay_as_they_are() -> None:
    model = build(
        "(float[2,4,5,8] q, float[1,1,5,4] f) => (float[2,4,5,8] y)",
        "e = Concat<axis=-1>(f, f) c = Cos(e) s = Sin(e) a, b = Split<axis=-1, num_outputs=2>(q) n = Neg(b) "
        "r = Concat<axis=-1>(n, a) m = Mul(q, c) o = Mul(r, s) y = Add(m, o)",
        opset=23,
    )
    assert rewrite(model, FUSE, "close").fired["rotary"]
    assert not rewrite(model, FUSE, "exact").fired


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("softmax", ["Softmax", "Softmax<axis=3>"])
def test_attention_at_each_opset(opset: int, softmax: str) -> None:
    by = "ort, reference" if opset == 23 else "ort"
    fires(FUSE, attention(softmax=softmax, opset=opset), "attention", ["Attention"], dims=DIMS, by=by)


def test_keys_that_are_transposed_from_another_layout() -> None:
    signature = QKV.replace("float[B,3,T,8] k", "float[B,T,3,8] k")
    model = attention(signature=signature, transpose="Transpose<perm=[0,2,3,1]>(k)")
    outcome = fires(FUSE, model, "attention", ["Attention", "Transpose"], dims=DIMS)
    assert outcome.attrs("Transpose")["perm"] == [0, 2, 1, 3]


def test_batched_matrices_have_one_head() -> None:
    signature = "(float[B,S,8] q, float[B,T,8] k, float[B,T,4] v) => (float[B,S,4] y)"
    model = attention(signature=signature, transpose="Transpose<perm=[0,2,1]>(k)")
    outcome = fires(FUSE, model, "attention", ["Attention"], dims=DIMS)
    assert outcome.attrs("Attention")["q_num_heads"] == outcome.attrs("Attention")["kv_num_heads"] == 1


def test_half_precision() -> None:
    model = attention(signature=QKV.replace("float", "float16"), c=np.float16(0.5))
    fires(FUSE, model, "attention", ["Attention"], dims=DIMS, by="ort")


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7), (1, 1, 5, 7), (1, 3, 5, 7)])
@pytest.mark.parametrize("mask", ["s = Add(m, x)", "s = Add(x, m)"])
def test_constant_mask(shape: tuple[int, ...], mask: str) -> None:
    hidden = weight(*shape)
    hidden[..., 1:, -1] = -np.inf
    signature = QKV.replace("S", "5").replace("T", "7")
    model = attention(mask=mask, signature=signature, x=hidden)
    fires(FUSE, model, "attention", ["Attention"], dims=DIMS, by="ort")


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 1), (1, 1, 1, 7), (1, 1, 1, 1, 7)[1:]])
def test_constant_mask_that_is_broadcast(shape: tuple[int, ...]) -> None:
    signature = QKV.replace("S", "5").replace("T", "7")
    model = attention(mask="s = Add(m, x)", signature=signature, x=weight(*shape))
    fires(FUSE, model, "attention", ["Attention"], dims=DIMS)


@pytest.mark.parametrize("shape", ["S,T", "1,3,S,T", "B,1,S,T", "B,3,S,T"])
def test_computed_mask(shape: str) -> None:
    model = attention(mask="s = Add(m, x)", more=f", float[{shape}] x")
    fires(FUSE, model, "attention", ["Attention", "Max"], accuracy="fast", dims=DIMS)
    declines(FUSE, model, "attention", "the mask may hide all keys")


LEAST = np.finfo(np.float32).min
HIDDEN = {
    "one value": ("b = Less(x, z) h = Where(b, l, z)", ["Attention", "Less", "Max", "Where"]),
    "two, of which the sum overflows": (
        "b = Less(x, z) e = Less(z, x) u = Where(b, l, z) w = Where(e, l, z) h = Add(u, w)",
        ["Add", "Attention", "Less", "Less", "Max", "Max", "Where", "Where"],
    ),
    "infinity": ("b = Less(x, z) h = Where(b, i, z)", ["Attention", "Less", "ReduceMax", "Sub", "Where"]),
    "not far": ("b = Less(x, z) h = Where(b, f, z)", ["Attention", "Less", "Where"]),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_mask_of_which_the_range_is_known(name: str) -> None:
    """Also where all keys of a query are hidden: the first row of the mask."""
    body, ops = HIDDEN[name]
    constants = {"z": 0.0, "l": np.float32(LEAST), "i": np.float32(-np.inf), "f": -1e9}
    model = attention(mask=f"{body} s = Add(m, h)", more=", float[B,1,S,T] x", **constants)
    outcome = fires(FUSE, model, "attention", ops, dims=DIMS)
    feeds = feeds_for(model, DIMS)
    feeds["x"] = np.where(np.arange(5)[:, None] < 1, -1, feeds["x"]).astype(np.float32)
    with np.errstate(all="ignore"):
        compare(run(outcome.before, feeds), run(outcome.after, feeds))


@pytest.mark.parametrize(("hidden", "shape"), [(LEAST, (5, 7)), (-1e9, (5, 7)), (LEAST, (1, 3, 5, 7))])
def test_constant_mask_that_hides_all_keys_evenly(hidden: float, shape: tuple[int, ...]) -> None:
    content = np.full(shape, hidden, np.float32)
    content[..., 2:, :3] = 0
    signature = QKV.replace("S", "5").replace("T", "7")
    model = attention(mask="s = Add(m, x)", signature=signature, x=content)
    fires(FUSE, model, "attention", ["Attention"], dims=DIMS, by="ort")


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((5, 7), -np.inf, np.float32), "hides all keys from a query"),
        (np.full((5, 7), np.nan, np.float32), "the mask is not valid"),
        (np.full((5, 7), np.inf, np.float32), "the mask is not valid"),
        (weight(6, 1, 5, 7), "raises the size of the scores|may differ"),
    ],
)
def test_mask_that_the_operator_takes_otherwise(mask: np.ndarray, reason: str) -> None:
    signature = QKV.replace("S", "5").replace("T", "7").replace("float[B,3,5,4] y", "float[C,3,5,4] y")
    declines(FUSE, attention(mask="s = Add(m, x)", signature=signature, x=mask), "attention", reason)


@pytest.mark.parametrize(("shape", "ops"), [("B,1,1,T", 4), ("1,1,1,T", 4), ("T", 4), ("B,1,S,1", 4)])
def test_computed_mask_that_is_broadcast(shape: str, ops: int) -> None:
    model = attention(mask="h = Tanh(x) s = Add(m, h)", more=f", float[{shape}] x")
    expected = ["Attention", "Concat", "Expand", "Shape", "Tanh"]
    fires(FUSE, model, "attention", expected[: ops + 1], dims=DIMS)


def test_mask_that_raises_the_size() -> None:
    model = attention(mask="s = Add(m, x)", more=", float[B,1,R,T] x")
    declines(FUSE, model, "attention", "raises the size", accuracy="fast")


def test_mask_that_would_take_more_operators() -> None:
    model = attention(scores=SCALES["none"], mask="s = Add(m, x)", more=", float[B,1,1,T] x", transpose="Identity(k)",
                      signature=QKV.replace("float[B,3,T,8] k", "float[B,3,8,T] k"))  # fmt: skip
    declines(FUSE, model, "attention", "more operators than are saved", accuracy="fast")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"opset": 22}, "Attention does not exist at opset 22"),
        ({"c": -0.5}, "the scale is not positive"),
        ({"c": 0.0}, "the scale is not positive"),
        ({"c": 1e-46}, "the scale is not positive"),
        ({"scores": SCALES["divisor"], "d": 0.0}, None),
        ({"c": np.array([0.5, 1, 2], np.float32).reshape(3, 1, 1)}, None),
        ({"softmax": "Softmax<axis=2>"}, "the softmax is not over the keys"),
        ({"signature": QKV.replace("float[B,3,T,8] k", "float[1,3,T,8] k")}, "may differ"),
        ({"signature": QKV.replace("float[B,3,T,8] k", "float[B,1,T,8] k")}, "may differ"),
        ({"signature": QKV.replace("float[B,3,T,4] v", "float[C,3,T,4] v")}, "may differ"),
        ({"signature": QKV.replace("float[B,3,S,8] q", "float[B,3,0,8] q")}, "an operand is empty"),
        ({"signature": QKV.replace("[B,", "[0,")}, "an operand is empty"),
        ({"signature": QKV.replace(",3,", ",H,")}, "the number of heads or their size is not known"),
        ({"signature": QKV.replace(",8]", ",D]")}, "the number of heads or their size is not known"),
        ({"signature": QKV.replace("float", "double"), "c": np.float64(0.5)}, "the scale is a float32"),
        ({"out": ", float[B,3,S,T] p"}, None),
        ({"out": ", float[B,3,S,T] m"}, "an interior value has other readers"),
    ],
)  # fmt: skip
def test_attention_that_stays(changes: dict[str, Any], reason: str | None) -> None:
    result = QKV.split("=> ")[1]
    signature = changes.get("signature", QKV).split("=> ")[0] + "=> " + result.replace("B,3,S", "L,M,N")
    if "double" in signature:
        signature = signature.replace("float", "double")
    declines(FUSE, attention(**{**changes, "signature": signature}), "attention", reason)


def test_keys_that_are_turned_already() -> None:
    signature = QKV.replace("float[B,3,T,8] k", "float[B,3,8,T] k")
    fires(FUSE, attention(transpose="Identity(k)", signature=signature), "attention",
          ["Attention", "Identity", "Transpose"], dims=DIMS)  # fmt: skip


def test_operands_with_five_axes() -> None:
    signature = QKV.replace("float[", "float[2,")
    model = attention(signature=signature, transpose="Transpose<perm=[0,1,2,4,3]>(k)")
    declines(FUSE, model, "attention", None)


# -- heads ----------------------------------------------------------------------------------------

HEADS = "(float[B,S,24] q, float[B,T,{kv}] k, float[B,T,{kv}] v) => (float[B,S,24] y)"


def heads(kv: int = 24, perm: str = "0,2,1,3", size: Any = (0, -1, 3, 8), attrs: str = "scale=0.5") -> onnx.ModelProto:
    split = " ".join(
        f"{x}r = Reshape({x}, {'size' if x == 'q' else 'kvsize'}) {x}t = Transpose<perm=[{perm}]>({x}r)" for x in "qkv"
    )
    return build(
        HEADS.format(kv=kv),
        f"{split} o = Attention<{attrs}>(qt, kt, vt) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, joined)",
        opset=23, size=np.array(size), kvsize=np.array([0, -1, kv // 8, 8]), joined=np.array([0, -1, 24]),
    )  # fmt: skip


@pytest.mark.parametrize("attrs", ["scale=0.5", "is_causal=1", "softcap=2.0"])
def test_heads(attrs: str) -> None:
    outcome = fires(FUSE, heads(attrs=attrs), "attention_heads", ["Attention"], dims=DIMS, by="ort")
    assert outcome.attrs("Attention")["q_num_heads"] == outcome.attrs("Attention")["kv_num_heads"] == 3


def test_fewer_heads_of_keys() -> None:
    outcome = fires(FUSE, heads(kv=8), "attention_heads", ["Attention"], dims=DIMS, by="ort")
    assert outcome.attrs("Attention")["kv_num_heads"] == 1


def test_the_whole_of_a_layer() -> None:
    perms = {"q": "0,2,1,3", "k": "0,2,3,1", "v": "0,2,1,3"}
    split = " ".join(f"{x}r = Reshape({x}, size) {x}t = Transpose<perm=[{p}]>({x}r)" for x, p in perms.items())
    model = build(
        HEADS.format(kv=24),
        f"{split} s = MatMul(qt, kt) m = Div(s, d) p = Softmax(m) o = MatMul(p, vt)"
        " ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, joined)",
        opset=23, size=np.array([0, -1, 3, 8]), joined=np.array([0, -1, 24]), d=np.sqrt(np.float32(8)),
    )  # fmt: skip
    outcome = fires(FUSE, model, "attention_heads", ["Attention"], dims=DIMS)
    assert outcome.fired == {"attention": 1, "attention_heads": 1}


def test_split_of_something_else() -> None:
    model = build(
        "(float[B,6,24] q, float[B,6,24] k, float[B,6,24] v) => (float[B,3,48] y)",
        " ".join(f"{x}r = Reshape({x}, size) {x}t = Transpose<perm=[0,2,1,3]>({x}r)" for x in "qkv")
        + " o = Attention(qt, kt, vt) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, joined)",
        opset=23, size=np.array([0, 3, 6, 8]), joined=np.array([0, 3, 48]),
    )  # fmt: skip
    declines(FUSE, model, "attention_heads", "may change batch or sequence")


def test_heads_that_are_not_joined() -> None:
    declines(FUSE, heads(perm="0,2,3,1", size=(0, -1, 3, 8)), "attention_heads", None)
