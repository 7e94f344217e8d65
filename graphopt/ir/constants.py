"""The constants of a model: their tensors, contents, and whether they are one number all over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.kernel import Array
from graphopt.ir.tensors import SpanTensor

_SMALL_BYTES = 4096
_MAX_SPLAT = 1_000_000
_CHUNK = 4096
_SAMPLE = 64  # bytes; a multiple of every element's size
_AT_ONCE = 1 << 20  # bytes that are read faster than many pieces of them
_NO_SPLAT = object()


class Constants:
    """Constants by value. `overridable`: whether an initializer that is a graph input is just a default."""

    def __init__(self, *, overridable: bool) -> None:
        self._overridable = overridable
        self._tensors: dict[oir.Value, oir.TensorProtocol] = {}
        self._arrays: dict[oir.Value, Array] = {}
        self._splats: dict[oir.Value, Any] = {}
        self._samples: dict[oir.Value, tuple[bytes, ...]] = {}

    def add(self, value: oir.Value) -> None:
        tensor = value.const_value
        if tensor is not None:
            self._tensors[value] = tensor

    def forget(self, value: oir.Value) -> None:
        self._tensors.pop(value, None)
        self._arrays.pop(value, None)
        self._splats.pop(value, None)
        self._samples.pop(value, None)

    def tensor(self, value: oir.Value) -> oir.TensorProtocol | None:
        """The tensor of an initializer or Constant, if nothing can change it."""
        node = value.producer()
        if node is not None and (node.op_type != "Constant" or node.domain != ""):
            return None
        found = self._tensors.get(value)
        if found is not None:
            return found
        if node is not None:
            tensor = _of_constant(node)
            if tensor is not None:
                self._tensors[value] = tensor
            return tensor
        if not value.is_initializer() or (self._overridable and value.is_graph_input()):
            return None
        return value.const_value

    def array(self, value: oir.Value) -> Array | None:
        found = self._arrays.get(value)
        if found is None:
            tensor = self.tensor(value)
            if tensor is None:
                return None
            found = np.asarray(tensor.numpy())
            if found.nbytes <= _SMALL_BYTES:
                found = found.copy()
                found.flags.writeable = False
                self._arrays[value] = found
        return found

    def sample(self, value: oir.Value) -> tuple[bytes, ...] | None:
        """A few bytes from the start, the middle and the end of a constant, read without the others."""
        found = self._samples.get(value)
        if found is None:
            tensor = self.tensor(value)
            if tensor is None or tensor.dtype == oir.DataType.STRING:
                return None
            found = self._samples[value] = self._read_sample(value, tensor)
        return found

    def _read_sample(self, value: oir.Value, tensor: oir.TensorProtocol) -> tuple[bytes, ...]:
        if tensor.nbytes <= 3 * _SAMPLE:  # the whole of it, which is kept for other questions
            array = self.array(value)
            assert array is not None, "a tensor has content"
            return (array.tobytes(),)
        places = (0, tensor.nbytes // 2, max(0, tensor.nbytes - _SAMPLE))
        if isinstance(tensor, SpanTensor):
            return tuple(tensor.peek(start, _SAMPLE) for start in places)
        array = self.array(value)
        assert array is not None, "a tensor has content"
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return tuple(data[start : start + _SAMPLE].tobytes() for start in places)

    def excerpt(self, value: oir.Value, pieces: int, length: int) -> Array | None:
        """Elements of a constant from evenly spaced places, or all of them if that is no more; one axis."""
        tensor = self.tensor(value)
        if tensor is None or tensor.dtype == oir.DataType.STRING or tensor.dtype.bitwidth < 8:
            return None
        count = math.prod(sizes(tensor))
        if count <= pieces * length or not isinstance(tensor, SpanTensor):
            array = self.array(value)
            assert array is not None, "a tensor has content"
            return array.reshape(-1)[:: max(1, count // (pieces * length))]
        width, dtype = tensor.dtype.bitwidth // 8, tensor.dtype.numpy()
        starts = [k * (count - length) // max(1, pieces - 1) for k in range(pieces)]
        if tensor.nbytes <= _AT_ONCE:
            whole = np.frombuffer(tensor.peek(0, tensor.nbytes), dtype)
            return np.concatenate([whole[start : start + length] for start in starts])
        return np.frombuffer(b"".join(tensor.peek(start * width, length * width) for start in starts), dtype)

    def splat(self, value: oir.Value) -> Any:
        found = self._splats.get(value)
        if found is None:
            tensor = self.tensor(value)
            if tensor is None:
                return None
            found = self._splat(value, tensor)
            self._splats[value] = _NO_SPLAT if found is None else found
        return None if found is _NO_SPLAT else found

    def _splat(self, value: oir.Value, tensor: oir.TensorProtocol) -> Any:
        if not 0 < math.prod(sizes(tensor)) <= _MAX_SPLAT or tensor.dtype == oir.DataType.STRING:
            return None
        if tensor.nbytes > _SMALL_BYTES and tensor.dtype.bitwidth >= 8:
            size = tensor.dtype.bitwidth // 8
            parts = self.sample(value) or ()
            if any(len({part[i : i + size] for i in range(0, len(part), size)}) > 1 for part in parts):
                return None
        array = self.array(value)
        assert array is not None, "a tensor has content"
        flat = array.reshape(-1)
        bits = flat.view(f"V{flat.dtype.itemsize}")
        # Most weights differ within the first few elements: look there before reading the rest.
        for part in (bits[-1:], bits[:16], *(bits[i : i + _CHUNK] for i in range(16, len(bits), _CHUNK))):
            if (part != bits[0]).any():
                return None
        return flat[0]


def sizes(tensor: oir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a stored tensor, which has no symbols."""
    return tuple(tensor.shape.numpy())


def _of_constant(node: oir.Node) -> oir.TensorProtocol | None:
    attr = node.attributes.get("value")
    if attr is not None and not attr.is_ref():
        tensor: oir.TensorProtocol = attr.value
        return tensor
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        attr = node.attributes.get(name)
        if attr is not None:
            return None if attr.is_ref() else oir.Tensor(np.asarray(attr.value, dtype))
    for name in ("value_string", "value_strings"):
        attr = node.attributes.get(name)
        if attr is not None and not attr.is_ref():
            text = [attr.value] if name == "value_string" else list(attr.value)
            return oir.StringTensor([t.encode() for t in text], shape=_text_shape(name, text))
    return None


def _text_shape(name: str, text: list[Any]) -> oir.Shape:
    return oir.Shape(() if name == "value_string" else (len(text),))
