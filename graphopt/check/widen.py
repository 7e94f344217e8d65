"""An example in more precision: what is only rounding in the one that it has is nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["widen"]

Arrays = dict[str, np.ndarray[Any, Any]]

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NUMPY: dict[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
_DTYPES = ("to", "dtype", "output_dtype")  # attributes that name a dtype


def widen(model: onnx.ModelProto, feeds: Arrays, *, double: bool = False) -> tuple[onnx.ModelProto, Arrays]:
    """The model and its inputs with float32 for float16 and bfloat16, or with `double` float64 for all three.

    The same objects if there is nothing to change. An operator may refuse what results.
    """
    wider = _Wider((*_HALF, TensorProto.FLOAT), TensorProto.DOUBLE) if double else _Wider(_HALF, TensorProto.FLOAT)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changed = [wider.graph(graph) for graph in _graphs(copy.graph)]
    if not any(changed):
        return model, feeds
    return copy, {name: wider.array(array) for name, array in feeds.items()}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(body)


class _Wider:
    """Changes the dtypes `narrow` to `wide`, both as TensorProto has them."""

    def __init__(self, narrow: tuple[int, ...], wide: int) -> None:
        self._narrow, self._wide = narrow, wide

    def graph(self, graph: onnx.GraphProto) -> bool:
        """Whether there was anything to change."""
        changed = False
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in self._narrow:
                value.type.tensor_type.elem_type = self._wide
                changed = True
        tensors = list(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensors.append(attribute.t)
                if attribute.name in _DTYPES and attribute.i in self._narrow:
                    attribute.i = self._wide
                    changed = True
        for tensor in tensors:
            if tensor.data_type in self._narrow:
                tensor.CopyFrom(numpy_helper.from_array(self.array(numpy_helper.to_array(tensor)), tensor.name))
                changed = True
        return changed

    def array(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The array in the wide dtype, if it has a narrow one."""
        dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return array.astype(_NUMPY[self._wide]) if dtype in self._narrow else array
