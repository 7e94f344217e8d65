"""Constants in the cheapest form: subnormal weights, and constants that repeat themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.simplify import Simplify
from onnx import numpy_helper

from tests.rules.helpers import Outcome, assert_same, build, fires, rewrite, run, weight

TINY = np.float32(1e-40)
PRODUCT = "(float[N,8] x) => (float[N,4] y)"


def decayed(*shape: int) -> np.ndarray:
    """Weights of which half are subnormal, of both signs."""
    array = weight(*shape)
    array.reshape(-1)[::2] = TINY * np.sign(array.reshape(-1)[::2])
    return array


def constants(outcome: Outcome) -> list[np.ndarray]:
    return [numpy_helper.to_array(t) for t in outcome.after.graph.initializer]


def test_subnormal_weights_become_zeros() -> None:
    w = decayed(8, 4)
    outcome = fires(Simplify(), build(PRODUCT, "y = MatMul(x, w)", w=w), "subnormal", ["MatMul"])
    (found,) = constants(outcome)
    assert np.array_equal(found, np.where(np.abs(w) < 1e-38, 0, w))
    assert not np.signbit(found[found == 0]).any()


def test_of_weights_that_others_read_too_only_the_reader_is_changed() -> None:
    model = build("(float[N,8] x) => (float[N,4] y, float[8,4] z)", "y = MatMul(x, w) z = Mul(w, big)",
                  w=decayed(8, 4), big=np.float32(1e38))  # fmt: skip
    outcome = rewrite(model, Simplify())
    assert outcome.fired["subnormal"] == 1
    assert_same(outcome)


@pytest.mark.parametrize(
    ("w", "accuracy", "declined"),
    [
        pytest.param(np.full((8, 4), TINY, np.float32), "close", True, id="all of them are tiny"),
        pytest.param(np.where(decayed(8, 4) > 1e-3, np.float32(1e-25), TINY), "close", True, id="the others are no larger"),
        pytest.param(decayed(8, 4) + np.float32("inf"), "close", False, id="no finite weights"),
        pytest.param(decayed(8, 4), "exact", False, id="bits must stay"),
        pytest.param(weight(8, 4), "close", False, id="nothing is subnormal"),
        pytest.param(decayed(8, 4).astype(np.float64) * 1e-20, "close", False, id="normal numbers of float64"),
    ],
)
def test_subnormal_weights_stay(w: np.ndarray, accuracy: str, declined: bool) -> None:
    signature = PRODUCT.replace("float", "double") if w.dtype == np.float64 else PRODUCT
    outcome = rewrite(build(signature, "y = MatMul(x, w)", w=w), Simplify(), accuracy)
    assert not outcome.fired["subnormal"]
    assert declined == (outcome.declined.get("subnormal") == {"the other weights are no larger": 1})


def test_large_weights_are_judged_by_an_excerpt() -> None:
    w = weight(1024, 1024)
    w[:, ::3] = TINY
    outcome = rewrite(build("(float[1,1024] x) => (float[1,1024] y)", "y = MatMul(x, w)", w=w), Simplify())
    assert outcome.fired["subnormal"] == 1
    assert not (np.abs(constants(outcome)[0][:, ::3]) > 0).any()


ADD = "(float[2,3,4] x) => (float[2,3,4] y)"


@pytest.mark.parametrize(
    ("constant", "shape"),
    [
        pytest.param(np.full((2, 3, 4), 5, np.float32), (1, 1, 1), id="everywhere"),
        pytest.param(np.tile(weight(1, 3, 1), (2, 1, 4)), (1, 3, 1), id="per channel"),
        pytest.param(np.tile(weight(1, 4), (3, 1)), (1, 4), id="of lower rank"),
        pytest.param(np.full((4,), -0.0, np.float32), (1,), id="negative zeros"),
        pytest.param(np.full((3, 1), np.nan, np.float32), (1, 1), id="NaN"),
    ],
)
def test_what_repeats_itself_is_narrowed(constant: np.ndarray, shape: tuple[int, ...]) -> None:
    outcome = fires(Simplify(), build(ADD, "y = Mod <fmod = 1> (c, x)", c=constant), "narrow_constant", ["Mod"], by="ort")
    (found,) = constants(outcome)
    assert found.shape == shape
    assert np.broadcast_to(found, constant.shape).tobytes() == constant.tobytes()


def stays(model: onnx.ModelProto, **options: Any) -> None:
    assert not rewrite(model, Simplify(), **options).fired["narrow_constant"]


def test_a_constant_that_gives_the_result_its_size_stays() -> None:
    stays(build("(float[1,1,1] x) => (float[2,3,4] y)", "y = Mod <fmod = 1> (x, c)", c=np.ones((2, 3, 4), np.float32)))
    stays(build("(float[N,3] x) => (float[M,3] y)", "y = Mod <fmod = 1> (x, c)", c=np.ones((2, 1), np.float32)))
    stays(build("(float[4] x) => (float[2,4] y)", "y = Mod <fmod = 1> (x, c)", c=np.ones((2, 1), np.float32)))


def test_both_zeros_are_different() -> None:
    stays(build(ADD, "y = Mod <fmod = 1> (c, x)", c=np.array([0, -0.0, 0, 0], np.float32)))


def test_before_opset_7_nothing_is_broadcast_by_itself() -> None:
    stays(build(ADD, "y = Mul(x, c)", c=np.full((2, 3, 4), 3, np.float32), opset=6))


INTEGERS = "(int64[2,3] x) => (int64[2,3] y)"
CUBES = np.full((2, 3), 3, np.int64)


def test_one_exponent_for_all_integers_is_not_several() -> None:
    # ONNX Runtime calls pow for each of several, which is in double precision, and multiplies for a single one.
    stays(build(INTEGERS, "y = Pow(x, c)", c=CUBES))
    outcome = rewrite(build(INTEGERS, "e = Expand(c, s) y = Pow(x, e)", c=CUBES[:1, :1], s=np.array([2, 3])), Simplify())
    assert not outcome.fired["implicit_broadcast"]
    x = np.array([[3, 300001, 7], [-5, 1, 2000003]])
    assert (run(outcome.before, {"x": x})[0] == run(outcome.after, {"x": x})[0]).all()


def test_exponents_of_floats_are_narrowed_where_rounding_may_differ() -> None:
    model = build(ADD, "y = Pow(x, c)", c=np.full((3, 4), 3, np.float32))
    stays(model, accuracy="exact")
    fires(Simplify(), model, "narrow_constant", ["Pow"])
    base = build(ADD, "y = Pow(c, x)", c=np.full((3, 4), 3, np.float32))
    fires(Simplify(), base, "narrow_constant", ["Pow"], accuracy="exact")
