"""Rounding of weights: every method against brute force, in every layout, and never worse than to the nearest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphopt.quant.correct.gptq import SingularGram, gptq
from graphopt.quant.correct.hqq import hqq_grid
from graphopt.quant.correct.rounding import ROUNDINGS, Moments, best_rounding
from graphopt.quant.correct.rows import steps, to_rows
from graphopt.quant.ranges import weight_peaks, weight_scale
from graphopt.quant.types import QuantParams, dequantize, qtype, quantize

LAYOUTS = [
    ("channel", (6, 24), 0, 0),
    ("columns", (24, 6), 1, 0),
    ("conv", (6, 4, 3, 2), 0, 0),
    ("tensor", (6, 24), None, 0),
]
BLOCKS = [("blocks", (24, 6), 0, 8), ("uneven", (24, 6), 0, 9), ("rows", (6, 24), 1, 8)]


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_t(4, size=shape) * 0.1, np.float32)


def inputs(k: int, count: int = 400) -> np.ndarray:
    """[count, k], correlated, of different strengths, with a mean."""
    rng = np.random.default_rng(7)
    mix = rng.normal(size=(k, k)) / np.sqrt(k) + np.eye(k)
    return np.asarray(rng.normal(size=(count, k)) @ mix * np.exp(rng.normal(size=k)) + 0.3, np.float32)


def moments(k: int) -> Moments:
    x = inputs(k).astype(np.float64)
    return Moments(gram=x.T @ x / len(x))


def round_weight(w: np.ndarray, *, method: str = "nearest", **given: Any) -> tuple[np.ndarray, QuantParams]:
    """Integers and scales by one method alone."""
    done = best_rounding(w, methods=() if method == "nearest" else (method,), **given)
    return done.integers, done.params


@pytest.mark.parametrize(("shape", "axis"), [(s, a) for _, s, a, _ in LAYOUTS])
@pytest.mark.parametrize("bits", [8, 7])
def test_nearest_is_what_ranges_and_quantize_make(shape: tuple[int, ...], axis: int | None, bits: int) -> None:
    w = weights(shape)
    integers, params = round_weight(w, axis=axis, bits=bits)
    scale = weight_scale(weight_peaks(w, axis), bits=bits)
    assert np.array_equal(params.scale, scale) and params.dtype == "int8" and not params.zero_point.any()
    assert np.array_equal(integers, quantize(w, QuantParams(scale, np.zeros(scale.shape, np.int8)), axis))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "float8e4m3fn"])
@pytest.mark.parametrize(
    ("shape", "axis", "block"), [c[1:] for c in LAYOUTS + BLOCKS], ids=[c[0] for c in LAYOUTS + BLOCKS]
)
@pytest.mark.parametrize("method", ["nearest", "clip", "hqq"])
def test_params_have_the_form_of_quantize_linear(
    shape: tuple[int, ...], axis: int | None, block: int, dtype: str, method: str
) -> None:
    w = weights(shape)
    integers, params = round_weight(w, axis=axis, block=block, dtype=dtype, symmetric=dtype[0] != "u", method=method)
    assert integers.shape == shape and integers.dtype == qtype(dtype).dtype
    assert np.array_equal(integers.astype(np.float32), quantize(w, params, axis, block).astype(np.float32))
    error = np.abs(dequantize(integers, params, axis, block) - w)
    if method == "nearest" and not qtype(dtype).is_float:
        assert error.max() <= float(params.scale.max()) * 1.01


def test_a_block_of_4_bits_has_the_scale_of_its_peak() -> None:
    w = weights((24, 6))
    _, params = round_weight(w, axis=0, block=8, dtype="int4")
    assert params.scale.shape == (3, 6)
    assert params.scale[1, 2] == np.float32(np.abs(w[8:16, 2]).max() / 7)


def test_clip_is_the_best_of_its_factors() -> None:
    w, known = weights((5, 24)), moments(24)
    assert known.gram is not None
    integers, params = round_weight(w, axis=0, dtype="int4", moments=known, method="clip")
    h = np.diag(known.gram)
    rows, kind = to_rows(w, 0, 0), qtype("int4")
    tried = [steps(rows, kind, symmetric=True, factor=float(f)) for f in np.linspace(1.0, 0.5, 21)]
    best = np.min([((g.rounded(w) - w) ** 2 * h).sum(1) for g in tried], axis=0)
    found = ((dequantize(integers, params, 0) - w) ** 2 * h).sum(1)
    assert found == pytest.approx(best, rel=1e-4)


def test_gptq_is_near_the_best_of_all_roundings() -> None:
    """Of two rows with six weights, all 3^6 roundings up to one step from the nearest are tried."""
    w, known = weights((2, 6), seed=5), moments(6)
    gram = known.gram
    assert gram is not None
    grid = steps(to_rows(w, 0, 0), qtype("int4"), symmetric=True)
    nearest = grid.integers(w)
    offsets = np.array(list(itertools.product((-1, 0, 1), repeat=6)))

    def error(integers: np.ndarray, row: int) -> float:
        off = integers * grid.scale[row] - w[row]
        return float(off @ gram @ off)

    found = gptq(w, grid, gram)
    for row in range(2):
        tried = np.clip(nearest[row] + offsets, -8, 7)
        best = min(error(t, row) for t in tried)
        assert best * (1 - 1e-5) <= error(found[row], row) <= min(1.6 * best, error(nearest[row], row))


def test_gptq_without_correlation_rounds_to_the_nearest() -> None:
    w = weights((4, 10))
    grid = steps(to_rows(w, 0, 0), qtype("int4"), symmetric=True)
    assert np.array_equal(gptq(w, grid, np.diag(np.arange(1.0, 11.0))), grid.integers(w))


@pytest.mark.parametrize(
    ("shape", "axis", "block"), [((6, 200), 0, 0), ((200, 6), 1, 0), ((200, 6), 0, 32), ((200, 6), 0, 150)]
)
def test_gptq_lowers_the_error_of_the_output(shape: tuple[int, ...], axis: int, block: int) -> None:
    w, x = weights(shape), inputs(200).astype(np.float64)
    known = Moments(gram=x.T @ x)
    k_first = shape[0] == 200

    def error(method: str) -> float:
        integers, params = round_weight(w, axis=axis, block=block, dtype="int4", moments=known, method=method)
        off = dequantize(integers, params, axis, block) - w
        return float(np.sum((x @ (off if k_first else off.T)) ** 2))

    assert error("gptq") < 0.5 * error("nearest")


@pytest.mark.parametrize(
    ("gram", "reason"),
    [
        (np.zeros((4, 4)), "zero throughout"),
        (np.full((4, 4), np.inf), "not finite"),
        (np.array([[1.0, 9.0], [9.0, 1.0]]), "no inverse"),
    ],
)
def test_gptq_says_why_it_cannot(gram: np.ndarray, reason: str) -> None:
    w = weights((3, len(gram)))
    with pytest.raises(SingularGram, match=reason):
        gptq(w, steps(to_rows(w, 0, 0), qtype("int8"), symmetric=True), gram)


def test_gptq_takes_a_singular_gram_damped() -> None:
    x = inputs(24, count=5).astype(np.float64)  # of rank 5
    w = weights((6, 24))
    done = best_rounding(w, axis=0, dtype="int4", moments=Moments(gram=x.T @ x), methods=("gptq",))
    assert done.gains and not done.notes and done.gains[0][2] > done.gains[0][1]


@pytest.mark.parametrize("dtype", ["uint4", "int4"])
@pytest.mark.parametrize("block", [0, 32])
def test_hqq_lowers_the_norm_that_it_is_made_for(dtype: str, block: int) -> None:
    w = weights((16, 256), seed=2)
    rows, kind = to_rows(w, 1 if block else 0, block), qtype(dtype)
    grid = steps(rows, kind, symmetric=dtype == "int4")
    fitted = hqq_grid(w, grid)
    before, after = (float((np.abs(g.rounded(w) - w) ** 0.7).sum()) for g in (grid, fitted))
    assert after < 0.985 * before
    assert (fitted.zero == np.rint(fitted.zero)).all() and bool(fitted.zero.any()) == (dtype == "uint4")


def test_a_method_that_makes_it_worse_is_not_used() -> None:
    """What HQQ gives up, the one strong weight, is all that this input reads."""
    w = weights((4, 32))
    w[:, 3] = 1.0
    gram = np.zeros((32, 32))
    gram[3, 3] = 1.0
    done = best_rounding(w, axis=0, dtype="int4", moments=Moments(gram=gram), methods=("hqq",))
    assert done.gains == ()
    assert np.array_equal(done.integers, round_weight(w, axis=0, dtype="int4")[0])


@pytest.mark.parametrize("methods", [(m,) for m in ROUNDINGS] + [ROUNDINGS])
@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_the_nearest(methods: tuple[str, ...], seed: int) -> None:
    w, known = weights((6, 24), seed), moments(24)
    done = best_rounding(w, axis=0, dtype="int4", moments=known, methods=methods)
    first = best_rounding(w, axis=0, dtype="int4", moments=known)
    errors = [known.power(dequantize(d.integers, d.params, 0) - w) for d in (done, first)]
    assert errors[0] <= errors[1]
    assert all(after > before for _, before, after in done.gains)


def test_scales_respect_their_least_with_every_method() -> None:
    w, least = weights((6, 24)), np.full(6, 0.05, np.float32)
    done = best_rounding(w, axis=0, moments=moments(24), least=least, methods=ROUNDINGS)
    assert (done.params.scale >= least).all()


def test_odd_weights() -> None:
    zeros = np.zeros((3, 8), np.float32)
    integers, params = round_weight(zeros, axis=0)
    assert not integers.any() and (params.scale == np.float32(1 / 127)).all()
    w = np.array([[0.0, 0.0], [1e-42, 0.0], [1e30, 1.0]], np.float32)
    for method in ("nearest", *ROUNDINGS):
        integers, params = round_weight(w, axis=0, moments=Moments(gram=np.eye(2)), method=method)
        assert np.isfinite(params.scale).all() and (params.scale > 0).all()
        assert int(integers[2, 0]) == 127
    one = best_rounding(np.ones((1, 1), np.float32), axis=0, methods=ROUNDINGS)
    assert one.integers.tolist() == [[127]] and one.notes


def test_squares_of_each_row_weigh_its_own_inputs() -> None:
    w = weights((2, 16))
    w[1] = w[0]
    squares = np.ones((2, 16))
    squares[0, np.abs(w[0]).argmax()] = 1e6  # the first row must keep its peak
    _, params = round_weight(w, axis=0, dtype="int4", moments=Moments(squares=squares), method="clip")
    assert params.scale[0] >= params.scale[1]
    assert Moments(squares=squares).power(w) == pytest.approx(float((w.astype(np.float64) ** 2 * squares).sum()) / 2)
