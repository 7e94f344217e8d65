"""Small models that an executor is not to be asked about, for it is known to be wrong, or never to answer.

Found by running the models of the rule checker through both, with onnx 1.23 and ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx

__all__ = ["distrusted", "endless", "foreign"]

_INTEGERS = {
    onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64,
}  # fmt: skip
_IN_REFERENCE = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training"}
_BEFORE = {"BatchNormalization": 14, "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}


def distrusted(model: onnx.ModelProto) -> str | None:
    """Why the reference evaluator's word on a model counts for nothing; None if nothing speaks against it.

    BatchNormalization before opset 14 runs as in training; Softmax and its kin before 13 along one axis, not over
    all from one on; ConvTranspose in groups adds the bias of the first group to all; Resize keeps to finite numbers;
    Gemm of integers multiplies floats.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    nodes = list(_nodes(model.graph))
    integers = _integers(model) if any(node.op_type == "Gemm" for node in nodes) else set()
    for node in nodes:
        if version < _BEFORE.get(node.op_type, 0):
            return f"it does not know {node.op_type} of opset {version}"
        if node.op_type == "Resize":
            return "its Resize knows no infinities"
        if node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in node.attribute):
            return "its ConvTranspose knows no groups"
        if node.op_type == "Gemm" and not integers.isdisjoint((*node.input, *node.output)):
            return "its Gemm of integers rounds"
    return None


def foreign(model: onnx.ModelProto) -> str | None:
    """A domain of the model's operators that the reference evaluator does not have, and the model does not define."""
    defined = {function.domain for function in model.functions}
    domains = {node.domain for node in _nodes(model.graph)} - _IN_REFERENCE - defined
    return min(domains, default=None)


def endless(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> str | None:
    """Why ONNX Runtime would not come to an end: its Conv does not on tensors without channels."""
    shapes = [*(array.shape for array in feeds.values()), *(tensor.dims for tensor in model.graph.initializer)]
    if any(0 in shape for shape in shapes) and any(node.op_type == "Conv" for node in _nodes(model.graph)):
        return "its Conv hangs on tensors without channels"
    return None


def mistaken(model: onnx.ModelProto) -> str | None:
    """Why ONNX Runtime's word on a model counts for nothing: its Gather copies the first word of each row only."""
    if not any(node.op_type == "Gather" for node in _nodes(model.graph)):
        return None
    words = _typed(model, {onnx.TensorProto.STRING})
    gathers = (node for node in _nodes(model.graph) if node.op_type == "Gather")
    return "its Gather of words copies the first of a row" if any(words & set(node.input) for node in gathers) else None


def _integers(model: onnx.ModelProto) -> set[str]:
    """The values of a graph that are integers, as far as inference sees."""
    return _typed(model, _INTEGERS)


def _typed(model: onnx.ModelProto, dtypes: Collection[int]) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name for name, dtype in known.items() if dtype in dtypes}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)
