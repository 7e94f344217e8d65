"""Scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.quant import ranges
from graphopt.quant.ranges import Range
from graphopt.quant.statistics import TensorStatistics
from graphopt.quant.types import QuantParams, dequantize, quantize


def stats(values: object) -> TensorStatistics:
    result = TensorStatistics()
    result.update(np.asarray(values, np.float32))
    return result


def test_u8_covers_the_range_and_holds_zero_exactly() -> None:
    for low, high in [(-1.0, 3.0), (0.0, 5.0), (2.0, 5.0), (-7.0, -2.0), (-1e-3, 1e4)]:
        p = ranges.activation_params(Range(low, high))
        assert p.dtype == "uint8" and p.scale.dtype == np.float32 and p.scale.shape == ()
        assert dequantize(quantize(np.zeros(1, np.float32), p), p)[0] == 0.0
        xs = np.linspace(low, high, 1001).astype(np.float32)
        assert np.abs(dequantize(quantize(xs, p), p) - xs).max() <= float(p.scale) * 1.01


def test_all_zero_activation_is_treated_as_if_it_reached_one() -> None:
    p = ranges.activation_params(Range(0.0, 0.0))
    assert p.scale == np.float32(1 / 255) and int(p.zero_point) == 0


def test_tiny_range_keeps_a_normal_scale() -> None:
    p = ranges.activation_params(Range(0.0, 1e-40))
    assert float(p.scale) == 2.0**-60


def test_symmetric_s8_has_zero_point_zero() -> None:
    p = ranges.activation_params(Range(-1.0, 0.5), "int8", symmetric=True)
    assert p.dtype == "int8" and int(p.zero_point) == 0 and float(p.scale) == pytest.approx(1 / 127)


@pytest.mark.parametrize("ceiling", [6.0, 1.0, 0.1, 3.3])
def test_nothing_above_a_clip_is_representable(ceiling: float) -> None:
    p = ranges.activation_params(Range(-3.0, ceiling * 2), ceiling=ceiling, floor_zero=True)
    assert int(p.zero_point) == 0
    assert np.float32(255) * p.scale <= np.float32(ceiling)
    assert float(p.scale) == pytest.approx(ceiling / 255, rel=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint4", "int4"])
def test_integers_of_other_widths(dtype: str) -> None:
    p = ranges.activation_params(Range(-1.0, 3.0), dtype)
    levels = 2 ** (16 if "16" in dtype else 4) - 1
    assert p.dtype == dtype and float(p.scale) == pytest.approx(4.0 / levels)
    xs = np.linspace(-1.0, 3.0, 101).astype(np.float32)
    assert np.abs(dequantize(quantize(xs, p), p) - xs).max() <= float(p.scale) * 1.01
    assert dequantize(quantize(np.zeros(1, np.float32), p), p)[0] == 0.0


@pytest.mark.parametrize(("dtype", "top"), [("float8e4m3fn", 448.0), ("float8e5m2", 57344.0)])
def test_float8_reaches_its_largest_value_at_the_peak(dtype: str, top: float) -> None:
    p = ranges.activation_params(Range(-6.0, 3.0), dtype)
    assert float(p.scale) == pytest.approx(6.0 / top) and float(p.zero_point) == 0.0
    assert float(quantize(np.array([-6.0], np.float32), p)[0]) == -top


def test_a_range_of_all_float32_keeps_its_ends_finite() -> None:
    p = ranges.activation_params(Range(-3.4e38, 3.4e38), "uint4")
    ends = dequantize(np.array([0, 15]).astype(p.zero_point.dtype), p)
    assert np.isfinite(ends).all()


def test_percentile_cuts_both_tails() -> None:
    rng = np.random.default_rng(0)
    s = stats(np.append(rng.normal(size=100_000), [1000.0, -500.0]))
    assert ranges.range_of(s, "minmax") == Range(-500.0, 1000.0)
    cut = ranges.range_of(s, "percentile", 99.9)
    assert -5 < cut.low < -2.5 and 2.5 < cut.high < 5
    assert ranges.range_of(s, "percentile", 100.0) == Range(-500.0, 1000.0)


def test_a_tensor_without_elements_has_the_range_zero() -> None:
    assert ranges.range_of(TensorStatistics(), "percentile") == Range(0.0, 0.0)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UsageError) as e:
        ranges.range_of(stats([1.0]), "percentle")
    assert str(e.value) == (
        "unknown calibration method 'percentle'\n  did you mean 'percentile'? Known: auto, average, entropy, minmax, mse, percentile"
    )


def test_percentile_outside_of_its_bounds() -> None:
    with pytest.raises(UsageError) as e:
        ranges.range_of(stats([1.0]), "percentile", 50.0)
    assert str(e.value) == "percentile is 50\n  give a value above 50 and up to 100, such as 99.99"


def test_weight_scales_per_channel() -> None:
    w = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)
    assert ranges.weight_peaks(w, 0).tolist() == [2.0, 0.5]
    assert ranges.weight_peaks(w, 1).tolist() == [1.0, 2.0]
    assert ranges.weight_peaks(w, None).shape == ()
    np.testing.assert_allclose(ranges.weight_scale(ranges.weight_peaks(w, 0)), [2 / 127, 0.5 / 127], rtol=1e-6)


def test_seven_bits_halve_the_integers() -> None:
    w = np.linspace(-1, 1, 11, dtype=np.float32)
    scale = ranges.weight_scale(ranges.weight_peaks(w, None), bits=7)
    q = quantize(w, QuantParams(scale, np.zeros((), np.int8)))
    assert q.min() == -63 and q.max() == 63


def test_channel_of_zeros_gets_the_typical_scale() -> None:
    assert ranges.weight_scale(np.array([0.0, 127.0, 254.0, 381.0])).tolist() == [2.0, 1.0, 2.0, 3.0]
    assert ranges.weight_scale(np.zeros(2)).tolist() == [float(np.float32(1 / 127))] * 2


def test_bias_widens_the_scale_when_it_would_overflow() -> None:
    bias = np.array([0.5, 0.5], np.float32)
    w_scale = np.array([1e-14, 0.01], np.float32)
    widened = np.maximum(w_scale, ranges.bias_limit_scale(bias, 0.02, w_scale.shape))
    q, scale = ranges.quantize_bias(bias, np.float32(0.02), widened)
    assert q.dtype == np.int32 and np.abs(q).max() <= 2**30 + 64
    assert widened[1] == w_scale[1]
    np.testing.assert_allclose(q * scale.astype(np.float64), bias, rtol=1e-3)


def test_bias_scale_is_the_float32_product() -> None:
    x, w = np.float32(0.0173), np.array([0.31, 0.77], np.float32)
    _, scale = ranges.quantize_bias(np.ones(2, np.float32), x, w)
    assert scale.dtype == np.float32 and np.array_equal(scale, x * w)


def test_one_scale_for_all_fits_the_largest_bias() -> None:
    bias = np.array([1.0, 4.0], np.float32)
    assert ranges.bias_limit_scale(bias, 1.0, ()).shape == ()
    assert float(ranges.bias_limit_scale(bias, 1.0, ())) == pytest.approx(4 / 2**30)


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    p = QuantParams(np.array(1.0, np.float32), np.array(10, np.uint8))
    assert quantize(np.array([0.5, 1.5, -20.0, 400.0], np.float32), p).tolist() == [10, 12, 0, 255]
