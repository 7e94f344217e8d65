"""Between numpy arrays and ONNX Runtime's values, for the types that numpy does not know.

bfloat16 and float8 arrays (ml_dtypes) go in as their bits and come out through the value's memory. Types
that share a byte between elements (int4, float4) cannot cross: ONNX Runtime's Python interface has no way.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["NATIVE", "flatten", "needs_values", "numpy_dtype", "to_numpy", "to_value"]

NATIVE = {
    ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL, ir.DataType.STRING,
    ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
}  # fmt: skip
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) dtype of an ONNX element type; object for strings."""
    return np.dtype(ir.DataType(dtype).numpy())


def needs_values(dtype: int | None) -> bool:
    """Whether tensors of this type can only be handed over as ONNX Runtime values."""
    return dtype is not None and ir.DataType(dtype) not in NATIVE


def to_value(array: np.ndarray[Any, Any], dtype: int) -> Any:
    """An OrtValue over the array's own memory (which must outlive it)."""
    import onnxruntime as ort

    if array.dtype == object:
        raise TypeError("string tensors cannot be mixed with bfloat16 or float8 ones")
    array = np.ascontiguousarray(array).reshape(array.shape)
    if not needs_values(dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(_BITS[array.dtype.itemsize]), dtype)


def to_numpy(value: Any) -> np.ndarray[Any, Any]:
    """A copy of the tensor that an OrtValue holds; TypeError for anything but a tensor."""
    if not value.is_tensor():
        raise TypeError("sequences and maps cannot be mixed with bfloat16 or float8 tensors")
    dtype = int(value.element_type())
    if not needs_values(dtype):
        return np.asarray(value.numpy())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, numpy_dtype(dtype)).reshape(value.shape()).copy()


def flatten(name: str, value: Any) -> dict[str, np.ndarray[Any, Any]]:
    """An output as arrays: `name`, or `name[i]` of a sequence, `name.keys` and `name.values` of a map."""
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, list):
        parts = [flatten(f"{name}[{index}]", item) for index, item in enumerate(value)]
        return {key: array for part in parts for key, array in part.items()}
    if isinstance(value, dict):
        return {f"{name}.keys": np.array(list(value)), f"{name}.values": np.array(list(value.values()))}
    return {} if value is None else {name: np.asarray(value)}
