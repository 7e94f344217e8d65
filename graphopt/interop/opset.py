"""onnx's version converter as a tool: the same model in another version of the standard operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from graphopt.engine.tools import Tool

if TYPE_CHECKING:
    import onnx

M = TypeVar("M", bound=Message)

OPSET = Tool("opset", "graphopt.interop.opset:convert_file", "onnx", "graphopt")

_SMALL = 1024  # elements: no adapter looks at larger tensors


def newest_opset() -> int:
    """The newest version of the standard operators that the installed onnx knows."""
    from onnx import defs

    return int(defs.onnx_opset_version())


def convert_file(source: str, target: str, *, version: int) -> None:
    """Convert the model in `source` to a version of the standard operators. Runs in the tool's process.

    The converter knows no external data, and copies what it knows; so large weights are inputs meanwhile.
    """
    import onnx
    from onnx import helper, version_converter

    model = onnx.load(source, load_external_data=False)
    if model.functions:
        raise ValueError("the converter does not look into local functions; put the pass inline in front")
    names = [value.name for value in model.graph.input]
    large = _take_large(model)
    _forget_fillers(model.graph)
    made = version_converter.convert_version(model, version)
    inputs = {value.name: value for value in made.graph.input}
    kept = [_copy(inputs[name]) for name in names]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    made.graph.initializer.extend(large)
    made.ir_version = max(model.ir_version, helper.find_min_ir_version_for(list(made.opset_import), True))
    onnx.save(made, target)


def _forget_fillers(graph: onnx.GraphProto) -> None:
    """Take away the constant of a Pad that repeats its input: the converter leaves it where opset 11 has none."""
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _forget_fillers(body)
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
        if node.op_type == "Pad" and mode != b"constant":
            kept = [_copy(a) for a in node.attribute if a.name != "value"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _take_large(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The large initializers, which are inputs of the model from now on."""
    from onnx import helper

    graph = model.graph
    names = {value.name for value in graph.input}
    tensors = [_copy(tensor) for tensor in graph.initializer]
    large = [tensor for tensor in tensors if math.prod(tensor.dims) > _SMALL]
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in tensors if math.prod(tensor.dims) <= _SMALL)
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large if tensor.name not in names
    )  # fmt: skip
    return large


def _copy(message: M) -> M:
    """A copy that outlives the list that the message stands in."""
    made: M = type(message)()
    made.CopyFrom(message)
    return made
