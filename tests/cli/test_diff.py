"""`graphopt diff`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture
def other(model):
    """The model with another weight, and without its BatchNormalization."""
    proto = onnx.load(model)
    nodes = [n for n in proto.graph.node if n.op_type != "BatchNormalization"]
    nodes[2].input[0] = "b"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name in ("gamma", "beta", "mean", "var"):
        proto.graph.initializer.remove(next(t for t in proto.graph.initializer if t.name == name))
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.25), "w"))
    path = model.with_name("other.onnx")
    path.write_bytes(proto.SerializeToString())
    return path


def test_same(cli, model):
    code, out, err = cli("diff", model.name, model.name, "--exit-code")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "the same: all nodes, inputs and outputs, and 5 initializers bit for bit"


def test_differences(cli, model, other):
    code, out, err = cli("diff", model, other)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "BatchNormalization 1 0 −1" in lines
    assert "nodes removed BatchNormalization c" in lines
    assert "nodes changed Relu d: inputs" in lines
    assert "initializers changed w float32 [4, 2, 3, 3]: max abs 0.25" in lines


def test_exit_code_only_if_asked(cli, model, other):
    assert cli("diff", model, other).code == 0
    assert cli("diff", model, other, "--exit-code").code == 5


def test_json(cli, model, other):
    code, out, _ = cli("diff", model, other, "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert found["schema"] == "graphopt.diff/1"
    assert not found["same"]
    assert found["operators"] == {"BatchNormalization": [1, 0]}
    assert [t["name"] for t in found["initializers"]["removed"]] == ["gamma", "beta", "mean", "var"]
    assert found["initializers"]["changed"][0]["max_abs"] == pytest.approx(0.25, rel=1e-5)


def test_dtype_shape_and_interface(cli, model):
    proto = onnx.load(model)
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    proto.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(proto.graph.initializer[0])[:, :, :1], "w")
    )
    proto.opset_import[0].version = 18
    path = model.with_name("third.onnx")
    path.write_bytes(proto.SerializeToString())
    _, out, _ = cli("diff", model, path)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "opset ai.onnx: 17 → 18" in lines
    assert "inputs image: float32 [batch, 2, 8, 8] → float32 [n, 2, 8, 8]" in lines
    assert "initializers changed w float32 [4, 2, 1, 3]: [4, 2, 3, 3] became [4, 2, 1, 3]" in lines


def test_long_lists_are_cut(cli, tmp_path):
    paths = []
    for count in (1, 30):
        graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y0) { y0 = Neg (x) }")
        for i in range(1, count):
            graph.node.append(onnx.helper.make_node("Neg", [f"y{i - 1}"], [f"y{i}"]))
        graph.output[0].name = f"y{count - 1}"
        paths.append(tmp_path / f"{count}.onnx")
        model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
        paths[-1].write_bytes(model.SerializeToString())
    assert "… and 9 more: --all" in cli("diff", *paths).out
    assert "more: --all" not in cli("diff", *paths, "--all").out
