"""What tests of the file layer share: small protos, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir.load import read_model

FLOAT = onnx.TensorProto.FLOAT


def value(name: str, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    """A float tensor."""
    return helper.make_tensor_value_info(name, FLOAT, shape)


def tensor(name: str, count: int = 500) -> onnx.TensorProto:
    """The floats 0, 1, 2, …; 500 of them are more than stays in a message."""
    return numpy_helper.from_array(np.arange(count, dtype=np.float32), name)


def relu(x: str, y: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y], name=name)


def model(
    nodes: list[onnx.NodeProto] | None = None, *initializers: onnx.TensorProto, opset: int = 17
) -> onnx.ModelProto:
    """From x to y, by one Relu unless nodes are given."""
    nodes = [relu("x", "y", "r")] if nodes is None else nodes
    graph = helper.make_graph(nodes, "g", [value("x", ["n"])], [value("y")], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def summing(*initializers: onnx.TensorProto) -> onnx.ModelProto:
    """The sum of x and the initializers."""
    names = [item.name for item in initializers]
    return model([helper.make_node("Sum", ["x", *names], ["y"], name="sum")], *initializers)


def rich() -> onnx.ModelProto:
    """A model with everything in it that a save has to keep."""
    inner = helper.make_node("Add", ["a", "inner"], ["b"])
    body = helper.make_graph([inner], "body", [], [value("b")], [tensor("inner")])
    constant = helper.make_node("Constant", [], ["k"], value=tensor("k"))
    nodes = [
        helper.make_node("Constant", [], ["a"], value=tensor("a"), doc_string="a constant"),
        helper.make_node("Constant", [], ["f"], value_float=0.1),
        helper.make_node("If", ["cond"], ["i"], then_branch=body, else_branch=body),
        helper.make_node("Split", ["i"], ["s", "", "t", ""], num_outputs=4),
        helper.make_node("Resize", ["s", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Relu", ["r"], ["y"], domain="mine", name="call"),
    ]
    typed = onnx.TensorProto(name="typed", data_type=FLOAT, dims=[2], float_data=[1, 2], doc_string="typed")
    half = onnx.TensorProto(name="half", data_type=onnx.TensorProto.FLOAT16, dims=[1], int32_data=[15360])
    text = onnx.TensorProto(name="text", data_type=onnx.TensorProto.STRING, dims=[2], string_data=[b"a", b"\xff"])
    large = onnx.TensorProto(name="large", data_type=FLOAT, dims=[600], float_data=[1.5] * 600)
    scales = numpy_helper.from_array(np.ones(1, np.float32), "scales")
    inputs = [value("cond"), value("w", [500])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["n", 3, None])]
    infos = [helper.make_tensor_value_info("s", FLOAT, ["n", 4])]
    initializers = [tensor("w"), typed, half, text, large, scales]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers, "a graph", infos)
    annotation = graph.quantization_annotation.add(tensor_name="s")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scales")
    opset = [helper.make_opsetid("", 18)]
    inside = helper.make_node("Add", ["p", "k"], ["q"])
    function = helper.make_function("mine", "Relu", ["p"], ["q"], [constant, inside], opset, ["alpha"])
    function.attribute_proto.append(helper.make_attribute("beta", 2.0))
    for owner in (graph, graph.node[0], graph.initializer[1], graph.value_info[0], graph.input[1], function):
        owner.metadata_props.add(key="owner", value="kept")
    proto = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[*opset, helper.make_opsetid("mine", 1)],
        ir_version=10,
        producer_name="p",
        producer_version="1",
        domain="d",
        model_version=3,
        doc_string="doc",
    )
    proto.metadata_props.add(key="owner", value="kept")
    return proto


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weight(loaded: ir.Model, name: str = "w") -> ir.TensorProtocol:
    const = loaded.graph.initializers[name].const_value
    assert const is not None
    return const


def last(loaded: ir.Model, name: str = "w") -> float:
    """The last element of an initializer."""
    return float(weight(loaded, name).numpy()[-1])


def refusal(source: Path | bytes | onnx.ModelProto, kind: type[GraphoptError] = ModelError) -> GraphoptError:
    """The error of loading `source`, which is exactly of this kind."""
    with pytest.raises(GraphoptError) as caught:
        read_model(source)
    assert type(caught.value) is kind
    return caught.value
