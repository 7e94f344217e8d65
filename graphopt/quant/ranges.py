"""From statistics to scales: ranges of activations, and the scale and zero point of every quantized tensor.

All formulas are those of affine quantization, real = scale × (integer − zero_point), as in Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877), section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import UsageError, nearest
from graphopt.quant.clipping import least_error
from graphopt.quant.entropy import entropy_limit
from graphopt.quant.expected import density
from graphopt.quant.statistics import TensorStatistics
from graphopt.quant.types import QuantParams, in_half, qtype

__all__ = [
    "METHODS",
    "MIN_SCALE",
    "Range",
    "activation_params",
    "bias_limit_scale",
    "check_method",
    "quantize_bias",
    "range_of",
    "weight_peaks",
    "weight_scale",
]

METHODS = ("auto", "minmax", "average", "percentile", "entropy", "mse")
_CLIP_WEIGHT = 4.0  # measured: see docs/decisions.md
_FEW = 64  # bins in use: too few values to tell outliers from what matters
BIAS_LIMIT = 2**30  # the accumulator is 32 bits wide, and half of it belongs to the products
MIN_SCALE = 2.0**-60  # so that a product of two scales is still a normal float32
_MAX_SCALE = 2.0**120  # so that 255 times a scale is still finite

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Range:
    """The real values that an activation takes, as far as the integers shall reach."""

    low: float
    high: float


def check_method(method: str, percentile: float) -> None:
    """Raises `UsageError` for an unknown method and a percentile outside of (50, 100]."""
    if method not in METHODS:
        raise UsageError(f"unknown calibration method {method!r}", hint=nearest(method, METHODS))
    if not 50.0 < percentile <= 100.0:
        raise UsageError(f"percentile is {percentile:g}", hint="give a value above 50 and up to 100, such as 99.99")


def range_of(
    statistics: TensorStatistics,
    method: str = "auto",
    percentile: float = 99.99,
    *,
    dtype: str = "uint8",
    symmetric: bool = False,
) -> Range:
    """The range of an activation that will be stored as `dtype`, by `method`:

    `minmax`: its extremes. `average`: the mean of the batches' extremes. `percentile`: the middle `percentile` % of its
    elements. `entropy`: where the integers' distribution is nearest to the data's. `mse`: the least squared error.
    `auto`: the least squared error, clipping counted four times: errors of rounding have all signs and cancel in a sum
    of products, those of clipping have one, and strike the strongest elements. What takes few values keeps its
    extremes.
    A tensor without finite elements has the range zero. Raises what `check_method` raises.
    """
    check_method(method, percentile)
    s = statistics
    if not s.count:
        return Range(0.0, 0.0)
    if method == "minmax" or s.minimum == s.maximum:
        return Range(s.minimum, s.maximum)
    if method == "average":
        return Range(s.mean_minimum, s.mean_maximum)
    if method == "percentile":
        tail = (100.0 - percentile) / 200.0
        return Range(s.quantile(tail), s.quantile(1.0 - tail))
    d = density(s)
    if method == "entropy":
        limit = entropy_limit(d, qtype(dtype), symmetric=symmetric)
        return Range(max(s.minimum, -limit), min(s.maximum, limit))
    if method == "auto" and np.count_nonzero(s.bins) < _FEW:
        return Range(s.minimum, s.maximum)
    weight = 1.0 if method == "mse" else _CLIP_WEIGHT
    return Range(*least_error(d, qtype(dtype), symmetric=symmetric, clip_weight=weight))


def activation_params(
    real: Range,
    dtype: str = "uint8",
    *,
    symmetric: bool = False,
    ceiling: float | None = None,
    floor_zero: bool = False,
) -> QuantParams:
    """The scale and zero point of an activation of the type `dtype`, per tensor; zero is always exact.

    `floor_zero`: nothing below zero shall be representable, as behind a Relu. `ceiling`: nothing above it
    either, as behind a Clip. A tensor that is zero throughout is treated as if it reached 1. The 8-bit floats have no
    zero point, so they are symmetric without being asked.
    """
    kind = qtype(dtype)
    low, high = min(real.low, 0.0), max(real.high, 0.0)
    if floor_zero:
        low = 0.0
    if ceiling is not None:
        high = min(high, ceiling)
    if low == high:
        high = 1.0
    symmetric = symmetric or kind.is_float
    scale = max(-low, high) / kind.high if symmetric else (high - low) / kind.levels
    single = np.float32(in_half(np.clip(scale, MIN_SCALE, _MAX_SCALE), kind))
    if ceiling is not None and ceiling > 0.0:
        while float(single * np.float32(kind.high if symmetric else kind.levels)) > ceiling:
            single = np.nextafter(single, np.float32(0.0))
    zero_point = 0.0 if symmetric else kind.low + min(max(round(-low / float(single)), 0), kind.levels)
    return QuantParams(np.array(single, np.float32), np.array(zero_point).astype(kind.dtype))


def weight_peaks(weight: Array, axis: int | None) -> Array:
    """The largest magnitude of a weight: per channel of `axis` (shape [channels]), or of all of it if None
    (shape []).
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    high, low = weight.max(axis=others, initial=0.0), weight.min(axis=others, initial=0.0)
    return np.asarray(np.maximum(high, -low))


def weight_scale(peaks: Array, *, bits: int = 8) -> Array:
    """Symmetric scales (float32, of the shape of `peaks`) with which a peak becomes 2^(bits-1)-1.

    A channel of zeros gets the typical scale of the others (or that of a peak of 1): its weights are zero with
    any scale, but its bias is stored in multiples of it.
    """
    used = peaks[peaks > 0.0]
    typical = float(np.median(used)) if used.size else 1.0
    scale = np.where(peaks > 0.0, peaks, typical).astype(np.float64) / (2 ** (bits - 1) - 1)
    return np.asarray(np.maximum(scale, MIN_SCALE), np.float32)


def bias_limit_scale(bias: Array, x_scale: float, shape: tuple[int, ...]) -> Array:
    """The smallest weight scale with which `bias` (shape [channels]), in units of x_scale × w_scale, fits its
    32 bits.

    Of `shape`: [channels], or [] for one scale that fits all.
    """
    needed = np.abs(bias.astype(np.float64)) / (x_scale * BIAS_LIMIT)
    return np.asarray(needed if shape else max(needed.tolist(), default=0.0)).astype(np.float32)


def quantize_bias(bias: Array, x_scale: Array, w_scale: Array) -> tuple[Array, Array]:
    """A bias of shape [channels] as int32, with its scale x_scale × w_scale in float32.

    Runtimes compare the scale with the float32 product of the other two, so it is computed in just that way.
    """
    scale = np.asarray(np.float32(x_scale) * w_scale.astype(np.float32), np.float32)
    return np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32), scale
