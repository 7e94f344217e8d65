"""Images with the statistics of photographs: amplitude falls with spatial frequency, channels go together."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["photograph"]


def photograph(
    rng: np.random.Generator, count: int, channels: int, height: int, width: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`count` images of shape [channels, height, width], each channel of mean 0 and standard deviation 1.

    The 1/f amplitude spectrum is that of natural scenes (D. J. Field, J. Opt. Soc. Am. A 4, 1987).
    """
    shape = (count, channels, height, width)
    if 0 in shape:
        return np.zeros(shape)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    falloff = 1 / np.maximum(frequency, 1 / max(height, width))
    common = rng.standard_normal((count, 1, height, width))
    own = rng.standard_normal(shape)
    image = np.fft.irfft2(np.fft.rfft2(2 * common + own) * falloff, s=(height, width))
    image -= image.mean(axis=(2, 3), keepdims=True)
    spread = image.std(axis=(2, 3), keepdims=True)
    return np.asarray(image / np.where(spread > 0, spread, 1))
