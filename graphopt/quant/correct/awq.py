"""Scales of input channels that protect the weights which strong inputs meet.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (arXiv:2306.00978): a
weight that is multiplied by s before it is rounded, and its input divided by s, loses s times less. The scales tried
are s = x^a, a from 0 to 1, with x the strength of each input channel; those with the least error of the outputs are
taken.
What divides the input is not here: it belongs into the layer in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quant.correct.rounding import Moments
from graphopt.quant.expected import decibels

__all__ = ["Protection", "awq_scales"]

_ALPHAS = np.linspace(0.0, 1.0, 21)
_WIDEST = 2.0**10  # of a scale, either way

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Protection:
    """Weights of channel k are multiplied by `scales[k]` ([K] float64), and its input is divided by it.

    `before`, `after`: signal-to-noise ratio in dB of what all the layers compute.
    """

    scales: Array
    before: float
    after: float


def awq_scales(layers: Sequence[tuple[Array, Moments]], rounded: Callable[[Array], Array]) -> Protection | None:
    """The best scales for the channels of one input that `layers` read; None if none is better than none.

    Each has its weights [N, K] and what is known of the input. `rounded` gives what a weight is after quantization.
    """
    squares = [m.diagonal for _, m in layers]
    if not layers or any(s is None or s.ndim != 1 for s in squares):
        return None
    strength = np.sqrt(np.mean([s for s in squares if s is not None], axis=0))

    def error(scales: Array) -> float:
        factors = scales.astype(np.float32)
        return sum(m.power(rounded(w * factors) / factors - w) * len(w) for w, m in layers)

    tried = [_around_one(strength**alpha) for alpha in _ALPHAS]
    errors = [error(scales) for scales in tried]
    best = int(np.argmin(errors))
    if best == 0:
        return None
    power = sum(m.power(w) * len(w) for w, m in layers)
    return Protection(tried[best], decibels(errors[0], power), decibels(errors[best], power))


def _around_one(scales: Array) -> Array:
    """With extremes that are as far from 1 on either side, and not too far."""
    middle = float(np.sqrt(scales.max() * scales.min()))
    return np.clip(scales / middle, 1.0 / _WIDEST, _WIDEST)
