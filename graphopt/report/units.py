"""Numbers as people read them: counts, bytes, times, and how one compares with another."""

from __future__ import annotations

import math

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNKNOWN = "?"
_SIGN = 1.10  # ratios nearer to 1 than this are written in percent


def count(value: float | None) -> str:
    """`25.6 M` for 25 600 000; exact below 10 000; `?` where it is not known."""
    if value is None:
        return _UNKNOWN
    if abs(value) < 10_000:
        return f"{value:.0f}"
    return _scaled(value, "")


def size(value: float | None) -> str:
    """Bytes in decimal units: `102 MB` for 102 400 000."""
    if value is None:
        return _UNKNOWN
    return f"{value:.0f} B" if abs(value) < 1000 else _scaled(value, "B")


def duration(seconds: float) -> str:
    """`31 µs`, `12.3 ms`, `4.0 s`, `2 min 05 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def milliseconds(value: float) -> str:
    return f"{three(value)} ms"


def three(value: float) -> str:
    """Three significant digits, and never an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def signed(text: str) -> str:
    """A difference with its sign, the minus as long as the plus."""
    return text.replace("-", "−", 1) if text.startswith("-") else f"+{text}"


def ratio(before: float, after: float, less: str, more: str) -> str:
    """How `after` compares: `3.9× smaller`, `0.4 % larger`, `same`. `less` and `more` are the two words."""
    if before == after:
        return "same"
    if before <= 0 or after <= 0:
        return ""
    word = less if after < before else more
    times = max(before, after) / min(before, after)
    if times >= _SIGN:
        return f"{three(times) if times < 1000 else count(times)}× {word}"
    percent = abs(after - before) / before * 100
    return f"{percent:.2g} % {word}" if percent >= 0.01 else f"hardly {word}"


def decibels(noise: float) -> str:
    """Noise over signal as the ratio of signal to noise: `31 dB`."""
    if not noise:
        return "no noise"
    return f"{-10 * math.log10(noise):.1f} dB" if math.isfinite(noise) else "broken"


def _scaled(value: float, unit: str) -> str:
    for step, prefix in _STEPS:
        # 999.6 k would be rounded to 1000 k, so the next unit begins just below its power of ten.
        if abs(value) >= step * 0.9995:
            return f"{three(value / step)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()
