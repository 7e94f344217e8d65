"""Numbers of modest size: for rules that answer for nothing else, and to tell cancellation from a mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["tame", "tame_constants"]

Array = np.ndarray[Any, Any]

_LARGEST = 100.0


def tame(feeds: dict[str, Array], *, infinite: bool = False) -> dict[str, Array]:
    """The same inputs with no finite float beyond 100, and with `infinite` no infinities and NaN either.

    It is the same object if there is nothing to change.
    """
    changed = {name: _modest(array, infinite) for name, array in feeds.items()}
    return feeds if all(changed[name] is array for name, array in feeds.items()) else changed


def tame_constants(model: onnx.ModelProto, *, infinite: bool = False) -> onnx.ModelProto:
    """The same for the initializers of a model."""
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    modest = [_modest(array, infinite) for array in arrays]
    if all(a is b for a, b in zip(arrays, modest, strict=True)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor, array in zip(copy.graph.initializer, modest, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def _modest(array: Array, infinite: bool) -> Array:
    if array.dtype.kind != "f" and not array.dtype.name.startswith(("bfloat", "float")):
        return array
    wide = array.astype(np.float64)
    huge = (np.abs(wide) > _LARGEST) & np.isfinite(wide)
    if infinite:
        huge |= ~np.isfinite(wide)
    if not huge.any():
        return array
    tamed = np.clip(np.where(np.isnan(wide), 1.0, wide), -_LARGEST, _LARGEST)
    made: Array = np.where(huge, tamed, wide).astype(array.dtype)
    return made
