"""Closed-form corrections that need more than one layer: AWQ scales, and a float layer fitted to quantized inputs."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.quant.correct.awq import awq_scales
from graphopt.quant.correct.refit import refit_affine, refit_layer
from graphopt.quant.correct.rounding import Moments
from graphopt.quant.correct.rows import steps, to_rows
from graphopt.quant.types import qtype


def rounded(w: np.ndarray) -> np.ndarray:
    return steps(to_rows(w, 0, 0), qtype("int4"), symmetric=True).rounded(w)


def inputs(count: int = 600) -> np.ndarray:
    """[count, 24]: a few channels are far stronger than the others."""
    rng = np.random.default_rng(1)
    strength = np.ones(24)
    strength[[3, 11]] = 30.0
    return rng.normal(size=(count, 24)) * strength


def weights(seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=(16, 24)), np.float32)


def test_awq_lowers_the_error_of_the_outputs() -> None:
    x, w = inputs(), weights()
    found = awq_scales([(w, Moments(gram=x.T @ x / len(x)))], rounded)
    assert found is not None and found.scales[3] > 2 * np.median(found.scales)

    def error(scales: np.ndarray) -> float:
        return float(np.mean(((x / scales) @ rounded((w * scales).astype(np.float32)).T - x @ w.T) ** 2))

    assert error(found.scales) < 0.5 * error(np.ones(24))
    gained = 10 * np.log10(error(np.ones(24)) / error(found.scales))
    assert found.after - found.before == pytest.approx(gained, abs=0.1)


def test_awq_takes_what_is_best_for_all_layers_of_an_input() -> None:
    x = inputs()
    known = Moments(gram=x.T @ x)
    both = awq_scales([(weights(0), known), (weights(1), known)], rounded)
    assert both is not None and both.after > both.before


def test_awq_leaves_even_inputs_alone() -> None:
    assert awq_scales([(weights(), Moments(gram=np.eye(24)))], rounded) is None
    assert awq_scales([(weights(), Moments())], rounded) is None
    assert awq_scales([], rounded) is None


def test_a_refitted_layer_is_the_best_there_is() -> None:
    """Against least squares on the samples themselves, which the moments stand for."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 6)) + 1.0
    seen = np.maximum(x, -0.2) @ (np.eye(6) + 0.1 * rng.normal(size=(6, 6))) + 0.3
    w, b = rng.normal(size=(3, 6)), rng.normal(size=3)
    n = len(x)
    fitted, offset = refit_layer(w, b, seen.T @ seen / n, x.T @ seen / n, seen.mean(0), x.mean(0))

    def error(weight: np.ndarray, bias: np.ndarray) -> float:
        return float(np.mean((seen @ weight.T + bias - x @ w.T - b) ** 2))

    design = np.column_stack([seen, np.ones(n)])
    best = np.linalg.lstsq(design, x @ w.T + b, rcond=None)[0]
    assert error(best[:-1].T, best[-1]) <= error(fitted, offset) <= 1.05 * error(best[:-1].T, best[-1])
    assert error(fitted, offset) < 0.5 * error(w, b)


def test_a_layer_with_the_inputs_it_had_keeps_its_weights() -> None:
    x = np.random.default_rng(3).normal(size=(50, 8)) + 2.0
    w, b = np.ones((2, 8)), np.array([1.0, -1.0])
    gram = x.T @ x / len(x)
    fitted, offset = refit_layer(w, b, gram, gram, x.mean(0), x.mean(0))
    assert fitted == pytest.approx(w) and offset == pytest.approx(b)
    dead = np.zeros((8, 8))
    fitted, offset = refit_layer(w, b, dead, dead, np.zeros(8), np.zeros(8))
    assert fitted == pytest.approx(w) and offset == pytest.approx(b)


def test_refitted_factors_and_offsets() -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=(1000, 3)) * [1.0, 2.0, 0.0] + [0.0, 1.0, 5.0]
    seen = y * 0.8 - 0.5
    covariances = ((y - y.mean(0)) * (seen - seen.mean(0))).mean(0)
    factor, offset = refit_affine(seen.mean(0), y.mean(0), seen.var(0), covariances)
    assert factor[:2] == pytest.approx([1.25, 1.25]) and factor[2] == pytest.approx(1.0, abs=0.3)
    assert seen * factor + offset == pytest.approx(y)
