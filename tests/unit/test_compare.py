"""Comparison by accuracy class: what each lets pass and what each refuses, to the word."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.verify.compare import ACCURACIES, OutputReport, compare

NAN, INF = math.nan, math.inf


def one(
    a: Any, b: Any, accuracy: str = "close", dtype: Any = np.float32, tolerance: float | None = None
) -> OutputReport:
    (report,) = compare({"y": np.array(a, dtype)}, {"y": np.array(b, dtype)}, accuracy, tolerance)
    return report


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_equal_values_pass_everywhere(accuracy: str) -> None:
    report = one([1, -0.0, NAN, INF, -INF], [1, -0.0, -NAN, INF, -INF], accuracy)
    assert report.ok and report.identical and report.snr == INF and report.cosine == 1


def test_exact_tells_zeros_apart_and_counts() -> None:
    report = one([0.0, 1, 2], [-0.0, 1, 3], "exact")
    assert report.why == "2 of 3 elements are not equal bit for bit"
    assert (report.differing, report.max_abs) == (2, 1)
    assert one([0.0], [-0.0], "close").ok


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ([NAN, 1], [1, 1], "1 values are NaN on one side only"),
        ([1, 1], [1, NAN], "1 values are NaN on one side only"),
        ([INF, 1], [3e38, 1], "1 values are infinite on one side only"),
        ([INF, 1], [-INF, 1], "1 values are infinite on one side only"),
        ([1, 1], [1, 1.001], "relative error 0.0005 exceeds 0.0001"),
    ],
)
def test_close_refuses(a: list[float], b: list[float], why: str) -> None:
    report = one(a, b)
    assert not report.ok and report.why == why


def test_close_measures_small_elements_against_the_output() -> None:
    assert one([1000, 0.001], [1000, 0.011]).ok
    assert not one([1, 0.001], [1, 0.011]).ok


def test_fast_only_holds_where_the_original_is_finite() -> None:
    assert one([INF, NAN, 1], [NAN, 1, 1], "fast").ok
    assert one([1, 1], [1, 1.001], "fast").ok
    assert one([1, 1], [1, INF], "fast").why == "1 finite values became NaN or infinite"


def test_approx_is_judged_by_signal_to_noise() -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((2, 10000))
    good = one(signal, signal + noise / 10, "approx")
    assert good.ok and 19 < good.snr < 21 and 0.99 < good.cosine < 1
    assert (
        one(signal, noise, "approx").why
        == f"signal-to-noise ratio {one(signal, noise, 'approx').snr:.1f} dB is below 6 dB"
    )
    assert not one(signal, signal + noise / 10, "approx", tolerance=30).ok


@pytest.mark.parametrize("accuracy", ["exact", "close", "fast"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, object])
def test_integers_and_the_like_must_be_equal(accuracy: str, dtype: type) -> None:
    a, b = (["a", "b"], ["a", "c"]) if dtype is object else ([0, 1], [0, 0])
    assert one(a, b, accuracy, dtype).why == "1 of 2 elements differ"
    assert one(a, b, "approx", dtype).ok


def test_missing_and_misshapen_outputs() -> None:
    y = np.zeros((2, 3), np.float32)
    assert compare({"y": y}, {})[0].why == "the result has no such output"
    assert compare({"y": y}, {"y": y.astype(np.float16)})[0].why == "dtype is float16, not float32"
    assert compare({"y": y}, {"y": y.T})[0].why == "shape is [3, 2], not [2, 3]"
    assert compare({"y": np.float32([])}, {"y": np.float32([])})[0].identical


@pytest.mark.parametrize(
    ("dtype", "small", "big"),
    [
        (np.float64, 1e-10, 1e-8),
        (np.float16, 4e-3, 0.05),
        (ml_dtypes.bfloat16, 0.02, 0.5),
        (ml_dtypes.float8_e4m3fn, 0.125, 2),
        (np.complex64, 1e-5, 1e-3),
    ],
)
def test_tolerance_follows_the_dtype(dtype: Any, small: float, big: float) -> None:
    assert one([1, 1], [1, 1 + small], dtype=dtype).ok
    assert not one([1, 1], [1, 1 + big], dtype=dtype).ok


def test_the_largest_values_do_not_overflow() -> None:
    report = one([1e308, 1e308], [1e308, 9e307], "approx", np.float64)
    assert report.ok and math.isfinite(report.snr) and report.cosine == pytest.approx(0.9985, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "uniform"),
    [([0, 0, 0], True), ([-0.0, 0], True), ([INF, INF], True), ([1, 1.5], False), ([NAN, NAN], False), ([3], False), ([], False)],
)
def test_outputs_that_are_one_number_everywhere(values: list[float], uniform: bool) -> None:
    assert one(values, values).uniform is uniform
    assert one(values, np.array(values) + 1).uniform is uniform
    assert one(values, values, dtype=ml_dtypes.bfloat16).uniform is uniform
