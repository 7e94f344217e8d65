"""Numbers of ONNX text: what stands between the braces of `float16[2] {1.0, 0.5}`, in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as oir

from graphopt.ir.tokens import Token, Tokens

_KNOWN = {kind.value for kind in oir.DataType}

DTYPES = {name.lower(): value for name, value in onnx.TensorProto.DataType.items() if value and value in _KNOWN}
"""The element types by their names in ONNX text."""

NAMES = {value: name for name, value in DTYPES.items()}

_T = onnx.TensorProto
_PLAIN_FLOATS: dict[int, str] = {_T.FLOAT: "float_data", _T.DOUBLE: "double_data"}
_COMPLEX: dict[int, str] = {_T.COMPLEX64: "float_data", _T.COMPLEX128: "double_data"}
_INTEGERS: dict[int, str] = {_T.INT64: "int64_data", _T.UINT32: "uint64_data", _T.UINT64: "uint64_data"}
_PACKED = frozenset(
    value for name, value in DTYPES.items() if name in ("int4", "uint4", "float4e2m1", "int2", "uint2")
)


def is_coded(dtype: int) -> bool:
    """Whether the text holds bit patterns for this dtype: small floats, and integers that share a byte."""
    return dtype in _PACKED or (oir.DataType(dtype).is_floating_point() and dtype not in _PLAIN_FLOATS)


# -- reading ------------------------------------------------------------------------------------


def tensor_of(
    tokens: Tokens, name: str, dtype: int, dims: Sequence[int], items: Sequence[Token], at: Token
) -> onnx.TensorProto:
    """The tensor of these numbers. Raises `ModelError` for what does not fit dtype or shape."""
    tensor = onnx.TensorProto(name=name or None, data_type=dtype, dims=dims)
    size = math.prod(dims)
    expected = {size}
    if dtype in _COMPLEX:
        expected = {2 * size}
    elif dtype in _PACKED:
        expected.add(_bytes_of(dtype, size))
    if len(items) not in expected:
        shape = f"[{', '.join(map(str, dims))}]"
        raise tokens.error(f"{name!r} of shape {shape} takes {max(expected)} numbers, not {len(items)}", at)
    if dtype == _T.STRING:
        tensor.string_data.extend(_text(tokens, item).encode() for item in items)
    elif dtype in _PLAIN_FLOATS or dtype in _COMPLEX:
        wide = dtype in (_T.DOUBLE, _T.COMPLEX128)
        field = (_PLAIN_FLOATS | _COMPLEX)[dtype]
        getattr(tensor, field).extend(as_float(tokens, item, np.float64 if wide else np.float32) for item in items)
    elif dtype in _PACKED:
        tensor.raw_data = _packed(tokens, dtype, size, items)
    elif is_coded(dtype):
        tensor.int32_data.extend(_codes(tokens, dtype, items))
    else:
        _integers(tokens, tensor, dtype, items)
    return tensor


def _text(tokens: Tokens, item: Token) -> str:
    if item.kind != "string":
        raise tokens.error(f"{item.text} is no string", item, hint="strings stand in double quotes")
    return item.text


def as_float(tokens: Tokens, item: Token, kind: Any) -> float:
    """The number that is written there, which must not be too large for a NumPy float of this kind."""
    if item.kind == "string":
        raise tokens.error(f"{item.text!r} is no number", item)
    value = float(item.text)
    with np.errstate(over="ignore"):
        narrow = kind(value)
    if np.isinf(narrow) and not item.text.lstrip("-").isalpha():
        raise tokens.error(f"{item.text} is too large for its type", item)
    return value


def _integers(tokens: Tokens, tensor: onnx.TensorProto, dtype: int, items: Sequence[Token]) -> None:
    kind = oir.DataType(dtype).numpy()
    low, high = (0, 1) if kind == np.bool_ else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    getattr(tensor, _INTEGERS.get(dtype, "int32_data")).extend(_integer(tokens, item, low, high) for item in items)


def _integer(tokens: Tokens, item: Token, low: int, high: int) -> int:
    if item.kind == "string" or not item.text.lstrip("-").isdigit():
        raise tokens.error(f"{item.text} is no integer", item)
    value = int(item.text) if len(item.text) < 40 else high + 1
    if not low <= value <= high:
        raise tokens.error(f"{item.text} is not between {low} and {high}", item)
    return value


def _codes(tokens: Tokens, dtype: int, items: Sequence[Token]) -> list[int]:
    """Bit patterns, from themselves (integers) or from numbers (with a point or an exponent)."""
    bits = oir.DataType(dtype).bitwidth
    spelled = [item.kind == "string" or not item.text.lstrip("-").isdigit() for item in items]
    if not any(spelled):
        return [_integer(tokens, item, 0, 2**bits - 1) for item in items]
    if not all(spelled):
        plain = items[spelled.index(False)]
        raise tokens.error(
            f"{plain.text} is a bit pattern, beside numbers that are none", plain, hint=f"write {plain.text}.0"
        )
    kind = oir.DataType(dtype).numpy()
    wide = [as_float(tokens, item, np.float64) for item in items]
    with np.errstate(all="ignore"):
        narrow = np.array(wide, np.float64).astype(kind)
    return [int(code) for code in narrow.view(f"u{kind.itemsize}")]


def _bytes_of(dtype: int, size: int) -> int:
    return -(-size * int(oir.DataType(dtype).bitwidth) // 8)


def _packed(tokens: Tokens, dtype: int, size: int, items: Sequence[Token]) -> bytes:
    """Elements that share bytes: from the bytes, as onnx writes them, or from one integer for each element."""
    if len(items) == _bytes_of(dtype, size) and (len(items) != size or not _signed(items)):
        return bytes(_integer(tokens, item, 0, 255) for item in items)
    bits = int(oir.DataType(dtype).bitwidth)
    unsigned = oir.DataType(dtype).name.startswith("UINT")
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if dtype == getattr(_T, "FLOAT4E2M1", None):
        low, high = 0, 15  # bit patterns
    codes = [_integer(tokens, item, low, high) % 2**bits for item in items]
    per = 8 // bits
    codes += [0] * (-len(codes) % per)
    return bytes(sum(codes[i + k] << bits * k for k in range(per)) for i in range(0, len(codes), per))


def _signed(items: Sequence[Token]) -> bool:
    return any(item.text.startswith("-") for item in items)


# -- writing ------------------------------------------------------------------------------------


def spelled(tensor: onnx.TensorProto) -> list[str]:
    """The elements as ONNX text has them, strings aside; bit patterns and bytes for what `is_coded`."""
    dtype = tensor.data_type
    kind = oir.DataType(dtype)
    raw = oir.serde.TensorProtoTensor(tensor).tobytes()
    if dtype in _PACKED:
        return [str(byte) for byte in raw]
    if is_coded(dtype):
        return [str(code) for code in np.frombuffer(raw, f"<u{kind.numpy().itemsize}")]
    flat = np.frombuffer(raw, kind.numpy().newbyteorder("<"))
    if dtype in _COMPLEX:
        flat = flat.view(flat.real.dtype)
    if flat.dtype.kind == "f":
        return [number(x) for x in flat]
    return [str(int(x)) for x in flat]


def explained(tensor: onnx.TensorProto) -> str:
    """What the bit patterns of a tensor stand for."""
    array = oir.serde.TensorProtoTensor(tensor).numpy().reshape(-1)
    if not oir.DataType(tensor.data_type).is_floating_point():
        return ", ".join(map(str, array))
    return ", ".join(number(x) for x in array.astype(np.float32))


def number(x: Any) -> str:
    """A float in the shortest form that reads back the same: `1`, `-0.5`, `1e-05`, `inf`, `-nan`."""
    if np.isnan(x):
        return "-nan" if np.signbit(x) else "nan"
    text = str(x)
    return text.removesuffix(".0") if text != "-0.0" else text
