"""Weights for processors without VNNI: no sum of two products may leave 16 bits, and nothing is given away for it."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.quant.ranges import weight_peaks, weight_scale
from graphopt.quant.saturation import exact_scale, neighbours
from graphopt.quant.types import QuantParams, quantize


def vpmaddubsw(data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """u8 [K] times s8 [K, N], K even, as processors without VNNI add it up: two products at a time in 16 bits."""
    products = data.astype(np.int32)[:, None] * weights.astype(np.int32)
    pairs = products.reshape(-1, 2, weights.shape[1]).sum(1)
    return np.clip(pairs, -32768, 32767).sum(0)


def stored(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    return quantize(weight, QuantParams(scale, np.zeros(scale.shape, np.int8)), axis)


def test_the_sums_of_a_matrix_are_exact_and_would_not_be_with_8_bits() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 32)).astype(np.float32)
    full = weight_scale(weight_peaks(weight, 1))
    safe = np.maximum(full, exact_scale(weight, "MatMul", 1, per_channel=True))
    for scale, exact in ((full, False), (safe, True)):
        integers = stored(weight, scale, 1)
        worst = []
        for sign in (1, -1):
            for column in range(32):  # data that is largest where the weights have that sign
                data = np.where(np.sign(integers[:, column]) == sign, 255, 0).astype(np.uint8)
                right = data.astype(np.int64) @ integers.astype(np.int64)
                worst.append(np.array_equal(vpmaddubsw(data, integers), right))
        assert all(worst) is exact
    assert 1.0 < np.median(safe / full) < 1.9  # with 7 bits, it would be 127 / 63 everywhere


def test_a_channel_without_large_neighbours_keeps_8_bits() -> None:
    weight = np.zeros((4, 2), np.float32)
    weight[0, 0] = weight[2, 0] = 1.0  # not next to each other in one pair
    weight[0, 1] = weight[1, 1] = 1.0
    full = weight_scale(weight_peaks(weight, 1))
    assert np.allclose(np.maximum(full, exact_scale(weight, "Gemm", 1, per_channel=True)) / full, [1.0, 2.0])
    assert exact_scale(weight, "Gemm", 1, per_channel=False).shape == ()


@pytest.mark.parametrize(("place", "sums"), [((0, 1, 0, 0), 2.0), ((0, 0, 0, 1), 1.0), ((0, 2, 0, 0), 1.0)])
def test_neighbours_of_a_convolution_lie_along_its_input_channels(place: tuple[int, ...], sums: float) -> None:
    weight = np.zeros((1, 4, 3, 3), np.float32)
    weight[0, 0, 0, 0] = weight[place] = 1.0
    assert neighbours(weight, "Conv", 0) == [sums]


def test_signs_that_cancel_do_no_harm_and_odd_lengths_end_alone() -> None:
    assert neighbours(np.array([[1.0], [-1.0], [0.5]], np.float32), "MatMul", 1) == [1.0]
    assert neighbours(np.array([1.0, 0.5, 3.0], np.float32), "MatMul", None) == [3.0]
    assert neighbours(np.array([[1.0, -2.0, -2.0]], np.float32), "Gemm", 0) == [2.0]
    assert neighbours(np.ones((2, 4, 3), np.float32), "MatMul", 2).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("op", "shape", "axis"), [("MatMul", (0, 3), 1), ("MatMul", (4, 0), 1), ("Conv", (0, 4, 3, 3), 0)])
def test_a_weight_without_elements_needs_no_scale(op: str, shape: tuple[int, ...], axis: int) -> None:
    found = exact_scale(np.zeros(shape, np.float32), op, axis, per_channel=True)
    assert found.tolist() == [0.0] * shape[axis]
    assert exact_scale(np.zeros(shape, np.float32), op, axis, per_channel=False) == 0.0
