"""Are two sets of outputs the same, by the accuracy class that the rewrites promise?

exact   equal bits; any NaN equals any NaN, but -0.0 is not 0.0.
close   NaN and infinities in the same places; finite values within the tolerance of their dtype.
fast    as close, ten times wider, and only where the original is finite.
approx  lossy: judged by the signal-to-noise ratio alone, which a wrong result misses by far.

The error of an element is |a - b| / (|a| + rms(a)), with rms over the finite elements of the original:
relative for large elements, and measured against the output's own magnitude for small ones, because an
element that is the small difference of large terms carries the rounding of those terms. For float32 the
tolerance is 1e-4, about 1000 roundings: reordered sums in deep networks stay a decade below it, while a
wrong epsilon, a forgotten mean or a tanh-GELU taken for the exact one exceed it. Integers, booleans and
strings must be equal in all classes but approx, where they are reported and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

__all__ = ["ACCURACIES", "Accuracy", "OutputReport", "compare", "default_tolerance"]

Accuracy = Literal["exact", "close", "fast", "approx"]
ACCURACIES: tuple[Accuracy, ...] = ("exact", "close", "fast", "approx")

Array = np.ndarray[Any, Any]

_CLOSE = {
    "float64": 1e-9,
    "complex128": 1e-9,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float16": 1e-2,
    "bfloat16": 6e-2,
}
_CLOSE_EIGHT_BITS = 0.25  # float8: two to four steps of a three-bit mantissa
_LEAST_SNR = 6.0  # dB: the error has a quarter of the signal's power


@dataclass(frozen=True)
class OutputReport:
    """How one output compares. `why` it is not `ok`, else None.

    `max_abs`: largest absolute difference; `error`: largest scaled error (see the module), infinite where NaN or
    infinities are out of place; `cosine` and `snr` (dB, infinite for equal values) over the elements that are finite
    on both sides; `differing`: how many elements are not bit for bit equal. `uniform`: what was expected is the same
    number everywhere, so that the comparison tells little.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ok: bool
    why: str | None
    max_abs: float = 0.0
    error: float = 0.0
    cosine: float = 1.0
    snr: float = math.inf
    differing: int = 0
    uniform: bool = False

    @property
    def identical(self) -> bool:
        """Whether all elements are equal bit for bit, NaN payloads aside."""
        return self.ok and self.differing == 0


def default_tolerance(dtype: np.dtype[Any], accuracy: Accuracy) -> float:
    """The tolerance of a class: a scaled error, or for approx the least signal-to-noise ratio in dB."""
    if accuracy == "approx":
        return _LEAST_SNR
    if accuracy == "exact" or not _is_float(dtype):
        return 0.0
    return _CLOSE.get(dtype.name, _CLOSE_EIGHT_BITS) * (10 if accuracy == "fast" else 1)


def compare(
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    accuracy: Accuracy = "close",
    tolerance: float | None = None,
) -> list[OutputReport]:
    """Compare outputs by name; `tolerance` replaces the one of the class for all floating-point outputs."""
    return [
        replace(_one(name, array, found.get(name), accuracy, tolerance), uniform=_uniform(array))
        for name, array in expected.items()
    ]


def _uniform(array: Array) -> bool:
    return _is_float(array.dtype) and array.size > 1 and bool((array == array.flat[0]).all())


def _one(name: str, a: Array, b: Array | None, accuracy: Accuracy, tolerance: float | None) -> OutputReport:
    def refuse(why: str) -> OutputReport:
        return OutputReport(name, a.dtype.name, a.shape, False, why, math.inf, math.inf, 0.0, -math.inf, a.size)

    if b is None:
        return refuse("the result has no such output")
    if a.dtype != b.dtype:
        return refuse(f"dtype is {b.dtype.name}, not {a.dtype.name}")
    if a.shape != b.shape:
        return refuse(f"shape is {list(b.shape)}, not {list(a.shape)}")
    differing = _differing(a, b)
    if differing == 0:
        return OutputReport(name, a.dtype.name, a.shape, True, None)
    if not _is_float(a.dtype):
        why = None if accuracy == "approx" else f"{differing} of {a.size} elements differ"
        numeric = a.dtype.kind in "iub"
        gap = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if numeric else math.inf
        return OutputReport(name, a.dtype.name, a.shape, why is None, why, gap, math.inf, 0.0, 0.0, differing)
    limit = default_tolerance(a.dtype, accuracy) if tolerance is None else tolerance
    return _floats(name, a, b, accuracy, limit, differing)


def _floats(name: str, a: Array, b: Array, accuracy: Accuracy, limit: float, differing: int) -> OutputReport:
    x, y = _wide(a) / 4, _wide(b) / 4  # so that no sum of two overflows; all measures but max_abs are ratios
    finite_x, finite_y = np.isfinite(x), np.isfinite(y)
    both = finite_x & finite_y
    x_finite, y_finite = x[both], y[both]
    gaps = np.abs(x_finite - y_finite)
    scale = np.abs(x_finite) + _rms(x[finite_x])
    errors = np.divide(gaps, scale, out=np.where(gaps > 0, np.inf, 0.0), where=scale > 0)
    error = float(errors.max(initial=0.0))
    noise, signal = _rms(x_finite - y_finite), _rms(x_finite)
    snr = math.inf if noise == 0 else 20 * math.log10(signal / noise) if signal > 0 else -math.inf
    why = _specials(x, y, finite_x, finite_y, accuracy)
    if why is None:
        why = _judge(accuracy, limit, error, snr, differing, a.size)
    else:
        error = math.inf  # nothing that could be taken for noise
    return OutputReport(
        name, a.dtype.name, a.shape, why is None, why,
        max_abs=4 * float(gaps.max(initial=0.0)), error=error, cosine=_cosine(x_finite, y_finite), snr=snr,
        differing=differing,
    )  # fmt: skip


def _specials(x: Array, y: Array, finite_x: Array, finite_y: Array, accuracy: Accuracy) -> str | None:
    """What is wrong with the places of NaN and the infinities, by class."""
    if accuracy in ("fast", "approx"):
        lost = int((finite_x & ~finite_y).sum())
        return f"{lost} finite values became NaN or infinite" if lost else None
    nans = int((np.isnan(x) != np.isnan(y)).sum())
    if nans:
        return f"{nans} values are NaN on one side only"
    infinities = int(((np.isinf(x) | np.isinf(y)) & (x != y)).sum())
    return f"{infinities} values are infinite on one side only" if infinities else None


def _judge(accuracy: Accuracy, limit: float, error: float, snr: float, differing: int, size: int) -> str | None:
    if accuracy == "exact":
        return f"{differing} of {size} elements are not equal bit for bit"
    if accuracy == "approx":
        return None if snr >= limit else f"signal-to-noise ratio {snr:.1f} dB is below {limit:g} dB"
    return None if error <= limit else f"relative error {error:.2g} exceeds {limit:g}"


def _differing(a: Array, b: Array) -> int:
    if not _is_float(a.dtype):
        return int((a != b).sum())
    parts_a, parts_b = _parts(a), _parts(b)
    bits = np.dtype(f"u{parts_a.dtype.itemsize}")
    same = parts_a.view(bits) == parts_b.view(bits)
    if not same.all():
        same |= np.isnan(parts_a) & np.isnan(parts_b)
    return int((~same).sum())


def _parts(array: Array) -> Array:
    """The array itself, contiguous; of a complex one, its real and imaginary parts."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _wide(array: Array) -> Array:
    return _parts(array).astype(np.float64)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def _rms(values: Array) -> float:
    """The root of the mean square, without overflow for the largest values of the dtype."""
    peak = float(np.abs(values).max(initial=0.0))
    return math.sqrt(float(np.mean(np.square(values / peak)))) * peak if peak > 0 else 0.0


def _cosine(x: Array, y: Array) -> float:
    peak_x, peak_y = float(np.abs(x).max(initial=0.0)), float(np.abs(y).max(initial=0.0))
    if peak_x == 0 or peak_y == 0:
        return 1.0 if peak_x == peak_y else 0.0
    x, y = x / peak_x, y / peak_y
    return float(np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)))
