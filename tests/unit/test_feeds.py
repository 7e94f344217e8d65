"""Made-up inputs: ids within their table, masks of ones, images like images, sizes that the model accepts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import DataError
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.runtime.session import RunFailed
from graphopt.verify.dims import Plan
from graphopt.verify.feeds import plans, synthesize
from graphopt.verify.natural import photograph
from graphopt.verify.validate import made_up_feeds


def model(signature: str, body: str, weights: str = "", opset: int = 18) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 9, opset_import: ["": {opset}]> g {signature} {weights} {{ {body} }}')


def lone(kind: ir.DataType, shape: list[int | str | None] | None, name: str = "x") -> ir.Model:
    x = ir.Value(name=name, type=ir.TensorType(kind), shape=None if shape is None else ir.Shape(shape))
    node = ir.node("Identity", [x])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def test_a_text_model_gets_ids_masks_types_and_positions() -> None:
    bert = model(
        "(int64[batch, seq] input_ids, int64[batch, seq] attention_mask, int64[batch, seq] token_type_ids,"
        " int64[batch, seq] position_ids) => (float[batch, seq, 2] y)",
        "ids = Identity(input_ids) a = Gather(words, ids) b = Gather(types, token_type_ids)"
        " c = Gather(places, position_ids) m = Cast<to=1>(attention_mask) e = Unsqueeze(m, last)"
        " ab = Add(a, b) abc = Add(ab, c) y = Mul(abc, e)",
        "<float[3, 2] words = {1,2,3,4,5,6}, float[2, 2] types = {0,0,1,1},"
        " float[8, 2] places = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}, int64[1] last = {-1}>",
    )
    (feeds,) = made_up_feeds(bert)
    assert {array.shape for array in feeds.values()} == {(2, 8)}
    assert set(np.unique(feeds["input_ids"])) == {0, 1, 2}
    assert feeds["attention_mask"].all() and not feeds["token_type_ids"].any()
    assert feeds["position_ids"].tolist() == [list(range(8))] * 2


def test_the_same_seed_gives_the_same_sample() -> None:
    plain = lone(ir.DataType.FLOAT, ["n", 5])
    first, second = synthesize(plain, seed=1)["x"], synthesize(plain, seed=1)["x"]
    assert np.array_equal(first, second)
    assert not np.array_equal(first, synthesize(plain, seed=2)["x"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([], ()),
        ([0, 4], (0, 4)),
        (["batch", 3, None, None], (2, 3, 64, 64)),
        (["N", None, None, 3], (2, 64, 64, 3)),
        (["None", 3, "None", "None"], (2, 3, 64, 64)),
        (["n", "n"], (2, 2)),
        (["b", "past_len + 1"], (2, 9)),
        ([-1, 7], (2, 7)),
        (None, (2, 8)),
        (["b", 3, 1000, 1000], (1, 3, 1000, 1000)),
    ],
)
def test_sizes(shape: list[int | str | None] | None, expected: tuple[int, ...]) -> None:
    assert synthesize(lone(ir.DataType.FLOAT, shape))["x"].shape == expected


def test_a_name_means_one_size_everywhere() -> None:
    both = model("(float[seq, 4] a, float[4, seq] b) => (float[seq, seq] y)", "y = MatMul(a, b)")
    feeds = synthesize(both)
    assert feeds["a"].shape == (8, 4) and feeds["b"].shape == (4, 8)


def test_sizes_are_tried_until_the_runtime_accepts() -> None:
    fussy = model("(float[n, t] x) => (float[m, 16, 8] y)", "y = Reshape(x, s)", "<int64[3] s = {-1, 16, 8}>")
    (feeds,) = made_up_feeds(fussy)
    assert feeds["x"].size % 128 == 0
    impossible = model("(float[n] x) => (float[7919] y)", "y = Reshape(x, s)", "<int64[1] s = {7919}>")
    with pytest.raises(RunFailed):
        made_up_feeds(impossible)


def test_one_plan_where_nothing_is_open() -> None:
    assert len(plans(lone(ir.DataType.FLOAT, [2, 2]))) == 1
    assert len(plans(lone(ir.DataType.FLOAT, ["n", 2]))) > 1


def test_integers_of_unknown_range_fall_back_to_zero() -> None:
    picky = model(
        "(int64[2] x) => (float[2] y)",
        "i = Add(x, two) y = Gather(t, i)",
        "<float[3] t = {1, 2, 3}, int64[1] two = {2}>",
    )
    (feeds,) = made_up_feeds(picky)
    assert not feeds["x"].any()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (ir.DataType.BFLOAT16, ml_dtypes.bfloat16),
        (ir.DataType.FLOAT8E5M2, ml_dtypes.float8_e5m2),
        (ir.DataType.FLOAT16, np.float16),
        (ir.DataType.UINT8, np.uint8),
        (ir.DataType.STRING, object),
        (ir.DataType.BOOL, np.bool_),
    ],
)
@pytest.mark.parametrize("shape", [[], [3], [1, 3, 8, 8]])
def test_every_type_the_runtime_takes(kind: ir.DataType, dtype: Any, shape: list[int]) -> None:
    x = synthesize(lone(kind, shape))["x"]
    assert x.dtype == dtype and x.shape == tuple(shape)
    assert run_model(package(lone(kind, shape)), {"x": x})["y"].tolist() == x.tolist()


def test_defaults_are_left_alone() -> None:
    with_default = model("(float[2] x, float[2] w) => (float[2] y)", "y = Mul(x, w)", "<float[2] w = {1, 2}>")
    assert list(synthesize(with_default)) == ["x"]


def test_inputs_that_cannot_be_made_up() -> None:
    sequence = model("(seq(float[n]) x) => (float[m] y)", "y = ConcatFromSequence<axis=0>(x)")
    with pytest.raises(DataError) as caught:
        synthesize(sequence)
    assert str(caught.value) == "input 'x' is not a tensor: nothing can be made up for it\n  give inputs with --data"
    with pytest.raises(DataError, match="input 'x' is INT4, which ONNX Runtime cannot be given"):
        synthesize(lone(ir.DataType.INT4, [2]))


def test_declared_sizes_cannot_exhaust_the_memory() -> None:
    with pytest.raises(DataError) as caught:
        made_up_feeds(lone(ir.DataType.FLOAT, [2**40, 2**20]))
    assert str(caught.value) == (
        "the inputs have 1152921504606846976 elements together: too many to make up\n  give inputs with --data"
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sr", ir.DataType.INT64, 16000),
        ("seq_lens", ir.DataType.INT32, 8),
        ("pad_mask", ir.DataType.FLOAT, 1),
        ("max_length", ir.DataType.INT32, 16),
        ("num_beams", ir.DataType.INT32, 1),
        ("temperature", ir.DataType.FLOAT, 1),
    ],
)
def test_names_that_say_what_they_hold(name: str, kind: ir.DataType, expected: int) -> None:
    assert synthesize(lone(kind, [1], name))[name].tolist() == [expected]


def test_pixels_are_bytes_where_the_model_scales_them() -> None:
    scaled = model("(float[1, 3, 16, 16] x) => (float[1, 3, 16, 16] y)", "y = Div(x, s)", "<float s = {255}>")
    pixels = synthesize(scaled)["x"]
    assert pixels.max() > 100 and pixels.mean() == pytest.approx(128, abs=2)
    assert abs(synthesize(lone(ir.DataType.FLOAT, [1, 3, 16, 16]))["x"].mean()) < 1e-3


def test_photographs_are_smooth_and_their_channels_alike() -> None:
    image = photograph(np.random.default_rng(0), 2, 3, 64, 48)
    assert image.shape == (2, 3, 64, 48)
    assert np.allclose(image.mean((2, 3)), 0) and np.allclose(image.std((2, 3)), 1)
    neighbours = np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1]
    assert neighbours > 0.6
    assert np.corrcoef(image[0, 0].ravel(), image[0, 1].ravel())[0, 1] > 0.4


def test_a_plan_is_followed() -> None:
    assert synthesize(lone(ir.DataType.FLOAT, ["n", "t"]), plan=Plan(batch=3, length=5))["x"].shape == (3, 5)


@pytest.mark.parametrize(("shape", "zero"), [("4,3,8,8", 0), ("4,50", 128)])
def test_what_a_model_stores_in_integers_is_made_up_within_their_range(shape: str, zero: int) -> None:
    """Beyond it the model saturates, which it has never seen in earnest."""
    text = f"""<ir_version: 9, opset_import: ["": 17]> g (float[{shape}] x) => (float[{shape}] y)
        <float s = {{0.01}}, uint8 z = {{{zero}}}> {{
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }}"""
    made = synthesize(ir.from_onnx_text(text))["x"]
    assert -zero / 100 <= made.min() and made.max() <= (255 - zero) / 100
    assert made.std() > 0.3
