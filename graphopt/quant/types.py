"""The types that tensors are quantized to, and what QuantizeLinear and DequantizeLinear do with each.

real = scale × (integer − zero point), with one scale for a tensor, one for each index of an axis (a channel), or one
for each block of consecutive elements along an axis. The 8-bit floats have no zero point: real = scale × float8.
Opsets and arithmetic are those of the operators' definitions in the ONNX standard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import UsageError, nearest

__all__ = [
    "BLOCK_OPSET", "CHANNEL_OPSET", "QTYPES", "QType", "QuantParams", "dequantize", "in_half", "qtype", "quantize"
]  # fmt: skip

CHANNEL_OPSET, BLOCK_OPSET = 13, 21
"""The first with a scale per channel, and per block."""

_HALF = 2.0**-14  # the smallest normal float16
_SPARE = 2.0**6  # of the binades of float8e4m3fn, 9 are left: its steps are still finer than those of int8

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class QType:
    """A quantized type: `bits` of each element, and its finite values from `low` to `high`.

    `opset`: the first whose QuantizeLinear and DequantizeLinear take it with one scale; `opset_channel`: with one
    per channel. QuantizeLinear never makes an int32: only DequantizeLinear takes it. `dtype` is how numpy stores it, a
    byte for each element of 4 bits (a file packs two).
    """

    name: str
    dtype: np.dtype[Any]
    bits: int
    low: float
    high: float
    opset: int
    opset_channel: int
    is_float: bool = False

    @property
    def levels(self) -> float:
        """The number of steps between the smallest and the largest integer."""
        return self.high - self.low


def _integer(name: str, bits: int, opset: int, opset_channel: int) -> QType:
    low = 0 if name.startswith("u") else -(2 ** (bits - 1))
    dtype = np.dtype(getattr(ml_dtypes, name) if bits < 8 else name)
    return QType(name, dtype, bits, low, low + 2**bits - 1, opset, opset_channel)


def _float8(name: str, stored: Any, top: float) -> QType:
    return QType(name, np.dtype(stored), 8, -top, top, 19, 19, is_float=True)


_ALL = (
    _integer("uint8", 8, 10, CHANNEL_OPSET),
    _integer("int8", 8, 10, CHANNEL_OPSET),
    _integer("uint16", 16, 21, 21),
    _integer("int16", 16, 21, 21),
    _integer("uint4", 4, 21, 21),
    _integer("int4", 4, 21, 21),
    _float8("float8e4m3fn", ml_dtypes.float8_e4m3fn, 448.0),
    _float8("float8e5m2", ml_dtypes.float8_e5m2, 57344.0),
    _integer("int32", 32, 10, CHANNEL_OPSET),
)
QTYPES: dict[str, QType] = {kind.name: kind for kind in _ALL}
_BY_DTYPE = {kind.dtype: kind for kind in _ALL}


def qtype(name: str | np.dtype[Any]) -> QType:
    """The type of that name, or that numpy stores so. Raises `UsageError` for one that is not known."""
    found = QTYPES.get(name) if isinstance(name, str) else _BY_DTYPE.get(name)
    if found is None:
        raise UsageError(f"unknown quantized type {str(name)!r}", hint=nearest(str(name), QTYPES))
    return found


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Scales (float32) and zero points (of the quantized type), both of the same shape.

    [] for the tensor, [channels] for an axis, or the shape of the tensor with the blocks of the axis counted instead
    of its elements.
    """

    scale: Array
    zero_point: Array

    @property
    def kind(self) -> QType:
        return qtype(self.zero_point.dtype)

    @property
    def dtype(self) -> str:
        return self.kind.name


def in_half(scale: Array, kind: QType) -> Array:
    """Scales that float16 holds as well as they are: those of 8-bit floats may be larger than the range asks for."""
    near = (scale < _HALF) & (scale * _SPARE >= _HALF) & kind.is_float
    return np.where(near, _HALF, scale)


def quantize(array: Array, params: QuantParams, axis: int | None = None, block: int = 0) -> Array:
    """QuantizeLinear on finite float32 elements: divide by the scale, round half to even, add the zero point, saturate.

    `axis`: where scales are per channel or per block, the latter of `block` elements (the last may be smaller).
    Float8 saturates as well. Returns an array of the shape of `array`, of the type of the zero point.
    """
    kind = params.kind
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.asarray(array / spread(params.scale, array.shape, axis, block))
    if kind.is_float:
        return np.clip(scaled, kind.low, kind.high, out=scaled).astype(kind.dtype)
    if kind.bits > 16:
        scaled = scaled.astype(np.float64)  # float32 does not hold the largest int32
    np.rint(scaled, out=scaled)  # in place: a weight may be large
    if params.zero_point.astype(np.int32).any():
        scaled += spread(params.zero_point.astype(scaled.dtype), array.shape, axis, block)
    return np.clip(scaled, kind.low, kind.high, out=scaled).astype(kind.dtype)


def dequantize(stored: Array, params: QuantParams, axis: int | None = None, block: int = 0) -> Array:
    """DequantizeLinear: the float32 elements that integers (or float8) stand for. Arguments as in `quantize`."""
    kind = params.kind
    wide = np.float32 if kind.is_float or kind.bits <= 16 else np.int64  # float32 holds the difference of 16 bits
    real = stored.astype(wide)
    if not kind.is_float:
        real = np.asarray(real - spread(params.zero_point.astype(wide), stored.shape, axis, block)).astype(np.float32)
    return np.asarray(real * spread(params.scale, stored.shape, axis, block))


def spread(params: Array, shape: tuple[int, ...], axis: int | None, block: int = 0) -> Array:
    """Scales or zero points in a shape that broadcasts against elements of `shape`."""
    if block and params.ndim:
        assert axis is not None, "blocks lie along an axis"
        repeated = np.repeat(params, block, axis=axis)
        return repeated.take(range(shape[axis]), axis=axis) if repeated.shape != shape else repeated
    if axis is None or not params.ndim:
        return params
    view = [1] * len(shape)
    view[axis] = -1
    return params.reshape(view)
