"""The adaptive histogram."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from graphopt.quant.statistics import BINS, TensorStatistics


def of(*arrays: object, dtype: type = np.float32) -> TensorStatistics:
    result = TensorStatistics()
    for a in arrays:
        result.update(np.asarray(a, dtype))
    return result


def same(a: TensorStatistics, b: TensorStatistics) -> bool:
    return (a.base, a.exponent, a.count, a.minimum, a.maximum) == (
        b.base,
        b.exponent,
        b.count,
        b.minimum,
        b.maximum,
    ) and (bool((a.bins == b.bins).all()))


def test_extremes_moments_and_counts() -> None:
    s = of([[1.0, -2.0], [3.0, 0.0]], [5.0])
    assert (s.minimum, s.maximum, s.count) == (-2.0, 5.0, 5)
    assert s.mean == pytest.approx(1.4) and s.deviation == pytest.approx(np.std([1, -2, 3, 0, 5]))
    assert int(s.bins.sum()) == 5


def test_order_and_batching_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=500) * 10.0**k for k in (-3, 2, 0, -6, 4)]
    forward, backward, whole = of(*parts), of(*parts[::-1]), of(np.concatenate(parts))
    assert same(forward, backward) and same(forward, whole)


def test_bins_hold_what_lies_in_them() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=3000), rng.normal(size=10) * 100]).astype(np.float32)
    s = of(x[:1000], x[1000:])
    width = math.ldexp(1.0, s.exponent)
    edges = (s.base + np.arange(BINS + 1)) * width
    expected = np.histogram(x.astype(np.float64), edges)[0]
    assert np.array_equal(expected, s.bins)
    assert (s.maximum - s.minimum) / width > BINS / 2 - 2


def test_quantiles_are_within_a_bin() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=100_000).astype(np.float32)
    s = of(*np.array_split(x, 7))
    for q in (0.0001, 0.01, 0.5, 0.99, 0.9999):
        assert abs(s.quantile(q) - float(np.quantile(x, q, method="inverted_cdf"))) <= math.ldexp(1.0, s.exponent)
    assert s.quantile(0.0) == x.min() and s.quantile(1.0) == x.max()


def test_constants_zeros_and_subnormals() -> None:
    assert of(np.zeros(9)).quantile(0.5) == 0.0
    assert of(np.full(9, 3.5)).quantile(0.5) == 3.5
    tiny = of(np.full(4, 1e-45), [1.0])
    assert tiny.count == 5 and int(tiny.bins.sum()) == 5
    huge = of([3e38, -3e38, 0.0])
    assert int(huge.bins.sum()) == 3
    near = of(np.full(5, 1.0), [np.nextafter(np.float32(1), np.float32(2))])
    assert int(near.bins.sum()) == 6


def test_nan_and_inf_are_counted_and_left_out() -> None:
    s = of([1.0, np.nan, np.inf, -np.inf, 2.0], [np.nan])
    assert (s.count, s.nan, s.inf, s.minimum, s.maximum) == (2, 2, 2, 1.0, 2.0)


def test_empty_tensors_change_nothing() -> None:
    s = of(np.zeros((0, 3)))
    assert s.count == 0 and s.mean == 0.0 and s.deviation == 0.0 and s.quantile(0.5) == 0.0


def test_half_precision_and_many_elements() -> None:
    s = of(np.arange(1 << 11), dtype=np.float16)
    assert s.maximum == 2047.0
    big = of(np.arange(3 << 20) % 1000)
    assert big.count == 3 << 20 and int(big.bins.sum()) == 3 << 20


def test_memory_does_not_grow() -> None:
    s = TensorStatistics()
    sizes = []
    for i in range(20):
        s.update(np.random.default_rng(i).normal(size=1000).astype(np.float32) * 2.0**i)
        sizes.append(len(pickle.dumps(s)))
    assert max(sizes) - min(sizes) < 64


def test_means_of_the_batches_extremes() -> None:
    s = of([1.0, -2.0], [5.0, 3.0], [np.nan], np.zeros((0,)))
    assert (s.batches, s.mean_minimum, s.mean_maximum) == (2, 0.5, 3.0)
    assert of().mean_minimum == of().mean_maximum == 0.0


def test_what_two_have_seen_makes_one() -> None:
    rng = np.random.default_rng(7)
    parts = [rng.normal(size=400) * 10.0**k for k in (-2, 3, 0, 1)]
    parts[1][:2] = math.nan, math.inf
    for cut in range(len(parts) + 1):
        merged, other, whole = of(*parts[:cut]), of(*parts[cut:]), of(*parts)
        kept = pickle.dumps(other)
        merged.merge(other)
        assert same(merged, whole) and (merged.nan, merged.inf, merged.batches) == (1, 1, 4)
        assert merged.total == pytest.approx(whole.total) and merged.squares == pytest.approx(whole.squares)
        assert merged.mean_minimum == pytest.approx(whole.mean_minimum)
        assert pickle.dumps(other) == kept


def test_less_is_counted_of_later_arrays_and_quantiles_hold() -> None:
    rng = np.random.default_rng(8)
    s = TensorStatistics()
    for _ in range(40):
        s.update(rng.normal(size=1 << 18).astype(np.float32))
    assert int(s.bins.sum()) == s.count == 40 << 18
    assert s.quantile(0.999) == pytest.approx(3.0902, abs=0.02)
