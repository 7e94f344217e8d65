"""How far the channels of a link are scaled and moved: what the layers behind it are expected to lose decides.

A value is quantized with one step for all of its channels, a weight with one for each output. Where the channels of
the value differ in reach, the small ones drown in the step of the large ones; dividing each by a scale s, and
multiplying the weights by it, moves the difference into the weights, which bear more of it. The scales tried are
those of SmoothQuant (Xiao et al. 2022, arXiv:2211.10438), s = reach^a / weight^(1-a), those of AWQ (Lin et al.
2023, arXiv:2306.00978), s = reach^a, and, where a weight has one step only, those of cross-layer equalization (Nagel
et al. 2019, arXiv:1906.04721), s = sqrt(weight in front / weight behind). Before that, channels can be centred, as
RepQ-ViT does behind a LayerNormalization (Li et al. 2022, arXiv:2212.08254), or lowered to zero where all that a
Relu lets through is above (Nagel et al., "absorbing high biases").

What is lost is counted output by output, by what there is of the output: one that is far larger than the others would
else get all of the steps (a layer of FastestDet then left 1 dB at the end of the net, where it had left 27).

The error of a rounding is taken to be uniform and independent of all others, so that its power is step²/12. What
was not seen in calibration may lie beyond the range, and is clipped. That is why channels of equal reach are not the
best: each of them would be clipped as often as the widest one alone was before. The largest of n elements is
exceeded once in n, by an exponential tail with the slope that a normal distribution has there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from graphopt.quant.channels import ChannelStatistics
    from graphopt.quant.correct.links import Layer, Link

__all__ = ["Migration", "Steps", "migration"]

_ALPHAS = np.linspace(0.0, 1.0, 11)
_WIDEST = 2.0**10  # of a scale, either way: beyond, a channel is as good as dead
_FAINT = 1e-3  # of the mean power of an output
_WORTH = 10**-0.15  # less than 1.5 decibels is not worth a rewrite, nor beyond what the estimate may be off by

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Steps:
    """How fine the target's integers are: `activation` steps over the range of a value, or on either side of zero if
    `symmetric`; `weight` steps on either side, and with `per_channel` each output of a weight has its own.
    """

    activation: int = 255
    symmetric: bool = False
    weight: int = 127
    per_channel: bool = True


@dataclass(frozen=True, eq=False)
class Migration:
    """What is done to a link: its channels x become (x - offsets) / scales, both [count] float64.

    `before`, `after`: expected signal-to-noise ratio in dB of what its layers compute.
    """

    scales: Array
    offsets: Array
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class _Reads:
    """What one layer reads: extremes, moments, and slopes of the tails below and above of its K inputs, each [K],
    `count` elements of each, `ids` as in `Layer`; and of its weight, the squares summed over everything [K], the
    largest magnitudes [N, K'] with their `columns`, and the elements of a kernel. `shares` [N]: what the noise of each
    output counts for, in the squares too.
    """

    ids: Array
    low: Array
    high: Array
    mean: Array
    power: Array
    tails: tuple[Array, Array]
    count: Array
    squares: Array
    peaks: Array
    columns: Array
    kernel: int
    shares: Array


@dataclass(frozen=True, eq=False)
class _Front:
    """The weight in front, where it has a single step: its largest magnitude per channel, and the summed power of what
    is multiplied with it for one channel.
    """

    peaks: Array
    power: float


def migration(
    link: Link,
    statistics: Sequence[tuple[Layer, ChannelStatistics]],
    steps: Steps,
    *,
    scale: bool = True,
    move: bool = False,
) -> Migration | None:
    """The best scales and offsets for a link, for what the quantized ones of its layers read; None if none is better.

    `scale`, `move`: which of the two may be done.
    """
    for _, found in statistics:
        if not (np.isfinite(found.minimum) & np.isfinite(found.maximum))[found.count > 0].all():
            return None
    reads = [_read(layer, found) for layer, found in statistics]
    still, one = np.zeros(link.count), np.ones(link.count)
    front = None if steps.per_channel else _front(link, reads)
    signal = sum(float(r.squares @ r.power) for r in reads)
    now = best = _noise(reads, one, still, steps, front)
    if not (0.0 < now < math.inf and signal > 0.0):
        return None
    choice = one, still
    for offsets in (still, *(_offsets(link, reads) if move else ())):
        for scales in _scales(link.count, reads, offsets, front) if scale else (one,):
            noise = _noise(reads, scales, offsets, steps, front, bound=min(best, now * _WORTH))
            if noise < best:
                best, choice = noise, (scales, offsets)
    if not best < now * _WORTH:
        return None
    return Migration(*choice, 10 * math.log10(signal / now), 10 * math.log10(signal / best))


def _read(layer: Layer, found: ChannelStatistics) -> _Reads:
    weight = layer.matrix()
    seen, count = found.count > 0, np.maximum(found.count, 1)
    low, high = np.where(seen, found.minimum, 0.0), np.where(seen, found.maximum, 0.0)
    mean, power = found.total / count, found.squares / count
    variance = np.maximum(power - mean**2, 0.0)
    each = np.square(weight).sum(2)
    shares = _shares((each * variance[layer.columns]).sum(1))
    each = each * shares[:, None]
    each = each.sum(0, keepdims=True) if len(layer.columns) == 1 else each
    squares = np.zeros(found.count.size)
    np.add.at(squares, np.broadcast_to(layer.columns, each.shape), each)
    tails = np.where(low < 0.0, _slope(variance, mean - low), 0.0), _slope(variance, high - mean)  # none behind a Relu
    return _Reads(
        layer.ids,
        low,
        high,
        mean,
        power,
        tails,
        count,
        squares,
        np.abs(weight).max(2, initial=0.0).astype(np.float32),
        layer.columns,
        weight.shape[2],
        shares,
    )


def _shares(signal: Array) -> Array:
    """[N]: by what the noise of an output counts, from the power of its signal [N].

    Noise drowns each output by what there is of that output: one that is far larger than the others is not to decide
    alone. What hardly varies does not count for more than 30 dB below the mean does.
    """
    mean = float(signal.mean()) if signal.size else 0.0
    return np.asarray(mean / np.maximum(signal, mean * _FAINT)) if mean > 0.0 else np.ones_like(signal)


def _slope(variance: Array, reach: Array) -> Array:
    """The length over which the tail of a normal distribution falls to 1/e, `reach` away from its mean."""
    return np.asarray(variance / np.maximum(reach, np.sqrt(variance) + np.finfo(np.float64).tiny))


def _clipped(reads: _Reads, s: Array, t: Array, low: float, high: float) -> Array:
    """[K]: the expected power of what new data loses beyond the range, in units of scaled channels."""
    total = np.zeros_like(s)
    for slope, room in zip(reads.tails, ((reads.low - t) / s - low, high - (reads.high - t) / s), strict=True):
        b = slope / s
        far = np.maximum(room, 0.0) / np.where(b > 0.0, b, np.inf)
        total += 2 * b**2 * np.exp(-far) / reads.count
    return total


def _front(link: Link, reads: Sequence[_Reads]) -> _Front | None:
    slot = link.slots[0]
    array = slot.value.array()
    if slot.node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or array is None:
        return None
    peaks = np.zeros(link.count)
    np.maximum.at(peaks, np.broadcast_to(slot.track, array.shape), np.abs(array))
    total = float(np.square(array.astype(np.float64)).sum())
    if not total > 0.0:
        return None
    return _Front(peaks, float(reads[0].power.sum()) * (array.size / link.count) / total)


def _noise(
    reads: Sequence[_Reads],
    scales: Array,
    offsets: Array,
    steps: Steps,
    front: _Front | None,
    bound: float = math.inf,
) -> float:
    """The expected power of the error of all outputs of the layers; if that is `bound` or more, not all of it."""
    total = 0.0
    for r in reads:
        s, t = scales[r.ids], offsets[r.ids]
        low = min(float(((r.low - t) / s).min(initial=0.0)), 0.0)
        high = max(float(((r.high - t) / s).max(initial=0.0)), 0.0)
        step = (max(-low, high) if steps.symmetric else high - low) / steps.activation
        passed = float(r.squares @ np.square(s))
        total += step**2 / 12 * passed
        total += float((r.squares * np.square(s)) @ _clipped(r, s, t, low, high))
        if front is not None:
            total += float((front.peaks / scales).max() / steps.weight) ** 2 / 12 * front.power * passed
    for r in reads:
        if total >= bound:  # weights are large, and most candidates fail before
            return total
        total += _weights_noise(r, scales[r.ids], offsets[r.ids], steps)
    return total


def _weights_noise(r: _Reads, s: Array, t: Array, steps: Steps) -> float:
    """The expected power of what rounding a layer's weights adds to its outputs."""
    power = np.maximum(r.power - 2 * t * r.mean + t**2, 0.0) / s**2
    peaks = (r.peaks * s.astype(np.float32)[r.columns]).max(1, initial=0.0).astype(np.float64) / steps.weight
    if not steps.per_channel:
        peaks = np.full_like(peaks, peaks.max(initial=0.0))
    return float((peaks**2 / 12 * r.kernel * power[r.columns].sum(1)) @ r.shares)


def _offsets(link: Link, reads: Sequence[_Reads]) -> Iterator[Array]:
    low, high = np.full(link.count, math.inf), np.full(link.count, -math.inf)
    for r in reads:
        np.minimum.at(low, r.ids, r.low)
        np.maximum.at(high, r.ids, r.high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return
    if link.offsets == "free":
        yield (low + high) / 2
    elif link.offsets == "floor" and (low > 0.0).any():
        yield np.maximum(low, 0.0)


def _scales(count: int, reads: Sequence[_Reads], offsets: Array, front: _Front | None) -> Iterator[Array]:
    """Scales to try, those that change nothing first; around 1 in their geometric mean."""
    reach, weight = np.zeros(count), np.zeros(count)
    for r in reads:
        t = offsets[r.ids]
        np.maximum.at(reach, r.ids, np.maximum(np.abs(r.low - t), np.abs(r.high - t)))
        peaks = r.peaks.max(0, keepdims=True, initial=0.0) if len(r.columns) == 1 else r.peaks
        np.maximum.at(weight, r.ids[np.broadcast_to(r.columns, peaks.shape)], peaks)
    reach, weight = _positive(reach), _positive(weight)
    yield np.ones(count)
    for alpha in _ALPHAS:
        yield _positive(reach**alpha / weight ** (1 - alpha))
        yield _positive(reach**alpha)
    if front is not None:
        yield _positive(np.sqrt(_positive(front.peaks) / weight))


def _positive(values: Array) -> Array:
    """In units of their geometric mean, and not too far from it; what is zero gets the mean."""
    used = values > 0.0
    if not used.any():
        return np.ones_like(values)
    logs = np.log2(np.where(used, values, 1.0))
    logs = np.where(used, logs - logs[used].mean(), 0.0)
    return np.asarray(np.exp2(np.clip(logs, -math.log2(_WIDEST), math.log2(_WIDEST))))
