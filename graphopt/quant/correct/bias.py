"""What rounding a weight adds to the mean of each output, taken off the bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721), section 4.2:
the mean error of an output is (ŵ − w) E[x], with the means of the input channels as calibration saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["conv_means", "mean_error", "tap_shares"]

Array = np.ndarray[Any, Any]


def mean_error(rows: Array, means: Array) -> Array:
    """[N]: the mean of the outputs of errors of weights `rows` [N, K], for means [K] or [N, K] of the inputs."""
    return np.asarray((rows.astype(np.float64) * means).sum(axis=1))


def conv_means(values: Array, group: int, outputs: int, shares: Array) -> Array:
    """Values of input channels [C] for the weights of a Conv with rows of [C / group, *kernel]: [outputs, K].

    `shares`: of each place of the kernel, [*kernel], as `tap_shares` gives them.
    """
    of_group = values.reshape(group, -1, *[1] * shares.ndim) * shares
    rows = of_group.reshape(group, -1)
    return np.repeat(rows, outputs // group, axis=0)


def tap_shares(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Array:
    """How often each place of a kernel meets the input and not its padding, as a share of the output: [*kernel].

    `sizes`: of the input, without batch and channels. `pads`: all begins, then all ends.
    """
    shares = np.ones(())
    rank = len(sizes)
    for i, (size, width, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        first, last = pads[i], pads[i + rank]
        count = (size + first + last - dilation * (width - 1) - 1) // stride + 1
        at = np.arange(max(count, 0))[:, None] * stride + np.arange(width) * dilation - first
        met = ((at >= 0) & (at < size)).mean(axis=0) if count > 0 else np.ones(width)
        shares = np.multiply.outer(shares, met)
    return np.asarray(shares)
