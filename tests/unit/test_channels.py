"""Statistics of channels, and second moments of pairs of them."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.quant import channels as module
from graphopt.quant.channels import ChannelStatistics, Gram

SHAPES = [((3, 4, 5, 6), 1), ((3, 4, 5, 6), -1), ((7, 4), 1), ((4,), 0), ((2, 3, 4), 0), ((1, 2, 1000), 1)]


def rows(array: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(-1, moved.shape[-1]).astype(np.float64)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("chunk", [16, 1 << 18])
def test_they_are_those_of_the_whole_array(
    shape: tuple[int, ...], axis: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    monkeypatch.setattr(module, "_ROWS", chunk // 4)
    rng = np.random.default_rng(0)
    stats, gram = ChannelStatistics(axis), Gram(axis)
    arrays = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    for array in arrays:
        stats.update(array)
        gram.update(array)
    x = np.concatenate([rows(a, axis) for a in arrays])
    assert np.array_equal(stats.minimum, x.min(0)) and np.array_equal(stats.maximum, x.max(0))
    assert set(stats.count) == {len(x)} and gram.rows == len(x)
    np.testing.assert_allclose(stats.total, x.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats.squares, (x * x).sum(0), rtol=1e-5)
    np.testing.assert_allclose(gram.matrix, x.T @ x, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_is_left_out_where_it_stands() -> None:
    stats, gram = ChannelStatistics(1), Gram(1)
    array = np.array([[1, np.nan, 3], [np.inf, 5, -6], [2, 2, 2]], np.float32)
    stats.update(array)
    gram.update(array)
    assert stats.count.tolist() == [2, 2, 3] and stats.maximum.tolist() == [2, 5, 3]
    assert stats.minimum.tolist() == [1, 2, -6] and stats.total.tolist() == [3, 7, -1]
    assert stats.peak.tolist() == [2, 5, 6] and gram.rows == 1 and gram.matrix.tolist() == [[4] * 3] * 3


def test_a_channel_of_nan_has_mean_and_peak_zero() -> None:
    stats = ChannelStatistics(0)
    stats.update(np.array([[np.nan], [1]], np.float32))
    assert stats.mean.tolist() == [0, 1] and stats.peak.tolist() == [0, 1]


def test_empty_arrays_change_nothing() -> None:
    stats, gram = ChannelStatistics(1), Gram(1)
    for shape in ((0, 3), (2, 3)):
        stats.update(np.ones(shape, np.float32))
        gram.update(np.ones(shape, np.float32))
    assert stats.count.tolist() == [2] * 3 and gram.matrix.tolist() == [[2] * 3] * 3
    none = ChannelStatistics(0)
    none.update(np.ones((0, 3), np.float32))
    assert none.count.size == 0 and none.unfit is None


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_products_beyond_float32_are_summed_in_float64(size: float) -> None:
    gram = Gram(1)
    gram.update(np.full((2, 1), size, np.float32))
    np.testing.assert_allclose(gram.matrix, [[2 * float(np.float32(size)) ** 2]], rtol=1e-12)
