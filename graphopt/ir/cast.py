"""ONNX's Cast on arrays: every conversion that the specification defines, and a refusal for the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.arithmetic import BOOL, NARROW, is_float, is_int
from graphopt.ir.kernel import Array, Call, Undefined, Unsupported

_EXACT_IN_FLOAT = 1 << 24


def cast(call: Call) -> tuple[Array, ...]:
    return (convert(call.input(0), target_dtype(int(call.attrs["to"])), call),)


def cast_like(call: Call) -> tuple[Array, ...]:
    return (convert(call.input(0), call.input(1).dtype, call),)


def target_dtype(code: int) -> np.dtype[Any]:
    """The NumPy dtype for an ONNX element type. Raises `Unsupported` for what has none."""
    try:
        dtype = oir.DataType(code)
        return np.dtype(dtype.numpy())
    except (ValueError, TypeError):
        raise Unsupported(f"Cast to element type {code}") from None


def convert(x: Array, to: np.dtype[Any], call: Call) -> Array:
    """`x` as `to`. Raises `Undefined` where ONNX leaves the result open."""
    call.allocate(x.shape, to)
    if x.dtype == to:
        return x
    if x.dtype.kind in "OSU" or to.kind in "OSU" or "c" in (x.dtype.kind, to.kind):
        raise Unsupported(f"Cast from {x.dtype} to {to}")
    if to == BOOL:
        return np.asarray(x.astype(np.float32) != 0 if x.dtype in NARROW else x != 0, BOOL)
    if is_float(to):
        return _to_float(x, to)
    if is_int(to):
        return _to_int(x, to)
    return _to_small(x, to)


def _to_float(x: Array, to: np.dtype[Any]) -> Array:
    if to in NARROW and not (is_float(x.dtype) and x.dtype.itemsize <= 4):
        # These go through float32: exact as long as that step does not round.
        through = x.astype(np.float32)
        same = through.astype(np.float64) == x if is_float(x.dtype) else _below(x, _EXACT_IN_FLOAT)
        if not np.all(same | (x != x)):
            raise Undefined(f"Cast from {x.dtype} to {to} that would round twice")
        return through.astype(to)
    return x.astype(to)


def _below(x: Array, bound: int) -> Any:
    if x.dtype == BOOL or x.dtype.itemsize < 4:
        return True
    return (x <= bound) & (x >= -bound if x.dtype.kind == "i" else True)


def _to_int(x: Array, to: np.dtype[Any]) -> Array:
    if x.dtype == BOOL or is_int(x.dtype):
        return x.astype(to)
    if not is_float(x.dtype):
        return _to_small(x, to)
    whole = np.trunc(x.astype(np.float64))
    limits = np.iinfo(to)
    # The largest int64 is no double: 2⁶³ itself is already out of range.
    if not np.all((whole >= float(limits.min)) & (whole < float(limits.max) + (to.itemsize < 8))):
        raise Undefined(f"Cast from {x.dtype} to {to} of a number that does not fit")
    return whole.astype(to)


def _to_small(x: Array, to: np.dtype[Any]) -> Array:
    """Between 4-bit, 8-bit float and other rare types: only what survives unchanged."""
    through = x.astype(np.float64)
    result = through.astype(to)
    back = result.astype(np.float64)
    if not np.array_equal(np.signbit(back), np.signbit(through)) or not np.array_equal(back, through):
        raise Unsupported(f"Cast from {x.dtype} to {to} that is not exact")
    return result
