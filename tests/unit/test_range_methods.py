"""Ranges from histograms: the expected error against the measured one, and what each method makes of known data."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.quant.clipping import least_error
from graphopt.quant.entropy import entropy_limit
from graphopt.quant.expected import decibels, density, expected_error, signal
from graphopt.quant.ranges import METHODS, Range, activation_params, range_of
from graphopt.quant.statistics import TensorStatistics
from graphopt.quant.types import dequantize, qtype, quantize

KINDS = [("uint8", False), ("int8", True), ("uint4", False), ("int4", True), ("uint16", False), ("float8e4m3fn", True)]


def stats(*batches: object) -> TensorStatistics:
    result = TensorStatistics()
    for batch in batches:
        result.update(np.asarray(batch, np.float32))
    return result


def samples(name: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.normal(size=50_000)
    made = {
        "normal": x,
        "relu": np.maximum(x, 0.0),
        "shifted": x + 1.5,
        "laplace": rng.laplace(size=50_000),
        "negative": -np.abs(x),
        "outliers": np.append(x, [100.0] * 5),
        "sigmoid": 1.0 / (1.0 + np.exp(-4.0 * x)),
    }
    return made[name].astype(np.float32)


DATA = ["normal", "relu", "shifted", "laplace", "negative", "outliers", "sigmoid"]


def measured(x: np.ndarray, real: Range, dtype: str, symmetric: bool) -> float:
    p = activation_params(real, dtype, symmetric=symmetric)
    return float(np.mean((dequantize(quantize(x, p), p).astype(np.float64) - x) ** 2))


@pytest.mark.parametrize(("dtype", "symmetric"), KINDS)
@pytest.mark.parametrize("name", DATA)
def test_the_expected_error_is_the_measured_one(name: str, dtype: str, symmetric: bool) -> None:
    x = samples(name)
    s = stats(x)
    ranges = [Range(s.minimum * f, s.maximum * f) for f in (1.0, 0.7, 0.3)]
    params = [activation_params(r, dtype, symmetric=symmetric) for r in ranges]
    rounding, clipping = expected_error(density(s), params)
    for r, expected in zip(ranges, rounding + clipping, strict=True):
        assert decibels(float(expected), 1.0) == pytest.approx(
            decibels(measured(x, r, dtype, symmetric), 1.0), abs=0.35
        )


def test_zeros_behind_a_relu_cost_nothing() -> None:
    x = samples("relu")
    d = density(stats(x))
    assert d.zeros == pytest.approx(float(np.mean(x == 0.0)), abs=0.01)
    assert d.zeros + d.mass.sum() == pytest.approx(1.0)
    assert signal(d) == pytest.approx(float(np.mean(x.astype(np.float64) ** 2)), rel=1e-3)


@pytest.mark.parametrize(("dtype", "symmetric"), KINDS)
@pytest.mark.parametrize("name", DATA)
def test_least_error_is_near_the_best_of_a_dense_search(name: str, dtype: str, symmetric: bool) -> None:
    x = samples(name)
    s = stats(x)
    factors = np.linspace(0.03, 1.0, 60)
    one = symmetric or s.minimum >= 0.0 or s.maximum <= 0.0
    peak = max(-s.minimum, s.maximum)
    tried = [Range(max(s.minimum, -f * peak), min(s.maximum, f * peak)) for f in factors]
    if not one:
        tried = [Range(s.minimum * f, s.maximum * g) for f in factors[::4] for g in factors[::4]]
    best = min(measured(x, r, dtype, symmetric) for r in tried)
    found = Range(*least_error(density(s), qtype(dtype), symmetric=symmetric))
    assert decibels(measured(x, found, dtype, symmetric), 1.0) >= decibels(best, 1.0) - 0.3


def test_the_weight_of_clipping_widens_the_range() -> None:
    d = density(stats(samples("laplace")))
    widths = [
        high - low
        for low, high in (least_error(d, qtype("uint8"), symmetric=False, clip_weight=w) for w in (1, 4, 30, 1e9))
    ]
    assert widths == sorted(widths) and len(set(widths)) == 4
    assert widths[-1] == pytest.approx(float(d.edges[-1] - d.edges[0]), rel=0.02)


def test_average_is_the_mean_of_the_batches_extremes() -> None:
    s = stats([-1.0, 2.0], [-3.0, 6.0])
    assert range_of(s, "average") == Range(-2.0, 4.0)


def test_entropy_clips_a_tail_with_many_bins_and_nothing_with_as_many_bins_as_levels() -> None:
    x = samples("outliers")
    d = density(stats(x))
    assert entropy_limit(d, qtype("int8"), symmetric=True) < 30.0
    few = density(stats(np.arange(100)))
    assert entropy_limit(few, qtype("uint8"), symmetric=False) == pytest.approx(99.0)
    assert entropy_limit(d, qtype("float8e4m3fn"), symmetric=True) == pytest.approx(100.0)


def test_entropy_of_both_signs_does_not_depend_on_the_sign() -> None:
    x = samples("laplace")
    limits = [entropy_limit(density(stats(v)), qtype("int8"), symmetric=True) for v in (x, -x)]
    assert limits[0] == pytest.approx(limits[1], rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "symmetric"), KINDS)
def test_odd_tensors(method: str, dtype: str, symmetric: bool) -> None:
    """Every method gives a finite range within the extremes, and finite params with a scale that is not zero."""
    odd: list[object] = [
        [],
        [np.nan, np.inf],
        [0.0] * 10,
        [3.5] * 10,
        [-2.0] * 10,
        [0.0, 1e30, -1e30, 1.0],
        [1e-40, 3e-40],
        [1.0, np.nan, -np.inf, 2.0],
        [0.0, 1.0] * 50,
        [3.4e38, -3.4e38],
    ]
    for values in odd:
        s = stats(values)
        real = range_of(s, method, dtype=dtype, symmetric=symmetric)
        if s.count:
            assert s.minimum <= real.low <= real.high <= s.maximum or real.low == 0.0 or real.high == 0.0
        else:
            assert real == Range(0.0, 0.0)
        p = activation_params(real, dtype, symmetric=symmetric)
        assert np.isfinite(p.scale) and float(p.scale) > 0.0
        finite = np.asarray(values, np.float32)[np.isfinite(np.asarray(values, np.float32))]
        assert np.isfinite(dequantize(quantize(finite, p), p)).all()


@pytest.mark.parametrize("method", ["minmax", "average", "mse", "auto"])
def test_few_distinct_values_keep_their_range(method: str) -> None:
    onehot = np.eye(10, dtype=np.float32)[np.arange(1000) % 10]
    real = range_of(stats(onehot), method)
    assert real.low == 0.0 and real.high == pytest.approx(1.0, rel=2e-3)
