"""Models that can be read but are not well formed: names, order, attributes, types, tensors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.ir.wire import varint
from tests.unit.protos import FLOAT, model, refusal, relu, tensor, value

MISSING = "an initializer may be missing, or an input of the graph"


# Names


def test_name_produced_twice() -> None:
    error = refusal(model([relu("x", "y", "a"), relu("x", "y", "b")]))
    assert error.what == "the name 'y' is defined twice: node 'a' (Relu) and node 'b' (Relu)"
    error = refusal(model([relu("x", "x", "a")]))
    assert error.what == "the name 'x' is defined twice: an input or initializer and node 'a' (Relu)"
    proto = model()
    proto.graph.input.append(value("x"))
    assert refusal(proto).what == "the name 'x' is defined twice: as a graph input"


def test_names_that_are_missing() -> None:
    proto = model()
    proto.graph.input[0].name = ""
    assert refusal(proto).what == "a graph input has no name"
    assert refusal(model(None, tensor(""))).what == "initializer #0 has no name"
    proto = model()
    proto.graph.node[0].op_type = ""
    assert refusal(proto).what == "node 'r' () has no operator"


def test_initializers_that_differ() -> None:
    for count in (4, 500):
        second = tensor("w", count)
        second.raw_data = second.raw_data[:-1] + b"\x01"
        error = refusal(model([helper.make_node("Add", ["x", "w"], ["y"])], tensor("w", count), second))
        assert error.what == "two initializers are named 'w' and differ"


def test_dangling_input() -> None:
    error = refusal(model([relu("q", "y", "r")]))
    assert (error.what, error.hint) == ("node 'r' (Relu) reads 'q', which nothing produces", MISSING)


def test_dangling_input_in_a_body() -> None:
    body = helper.make_graph([relu("q", "t", "deep")], "b", [], [value("t")])
    error = refusal(model([helper.make_node("If", ["x"], ["y"], name="if", then_branch=body)]))
    assert error.what == (
        "node 'deep' (Relu) in attribute 'then_branch' of node 'if' (If) reads 'q', which nothing produces"
    )


def test_dangling_input_in_a_function() -> None:
    proto = model()
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("f", "F", ["p"], ["q"], [relu("x", "q", "r")], opset))
    error = refusal(proto)
    assert error.what == "node 'r' (Relu) in function f::F reads 'x', which nothing produces"


def test_dangling_output() -> None:
    error = refusal(model([relu("x", "z")]))
    assert error.what == "the graph output 'y' is produced by no node"
    body = helper.make_graph([], "b", [], [value("x")])
    error = refusal(model([helper.make_node("If", ["x"], ["y"], name="if", then_branch=body)]))
    assert error.what == ("the output 'x' in attribute 'then_branch' of node 'if' (If) is produced by no node there")
    assert error.hint == "pass values of an outer graph through an Identity node"


def test_cycles() -> None:
    error = refusal(model([relu("y", "y", "self")]))
    assert error.what == "the graph has a cycle: node 'self' (Relu) -> node 'self' (Relu)"
    error = refusal(model([relu("c", "a", "1"), relu("a", "b", "2"), relu("b", "c", "3"), relu("x", "y")]))
    assert error.what == (
        "the graph has a cycle: node '1' (Relu) -> node '2' (Relu) -> node '3' (Relu) -> node '1' (Relu)"
    )
    body = helper.make_graph([relu("y", "t")], "b", [], [value("t")])
    error = refusal(model([helper.make_node("If", ["x"], ["y"], name="if", then_branch=body)]))
    assert error.what == "the graph has a cycle: node 'if' (If) -> node 'if' (If)"


def test_a_long_cycle_is_found_without_recursion() -> None:
    count = 20_000
    nodes = [relu(f"v{i}", f"v{(i + 1) % count}", f"n{i}") for i in range(count)]
    error = refusal(model([*nodes, relu("x", "y")]))
    assert error.what.startswith("the graph has a cycle: node 'n")
    assert "19995 more" in error.what


def test_functions() -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]

    def function(name: str, callee: str) -> onnx.FunctionProto:
        node = helper.make_node(callee, ["p"], ["q"], domain="f" if callee != "Relu" else "")
        return helper.make_function("f", name, ["p"], ["q"], [node], opset)

    proto = model()
    proto.functions.extend([function("A", "B"), function("B", "A")])
    assert refusal(proto).what == "functions call each other in a cycle: f::A -> f::B -> f::A"
    proto = model()
    proto.functions.extend([function("A", "Relu")] * 2)
    assert refusal(proto).what == "has two functions f::A"
    proto = model()
    proto.functions.append(function("A", "Relu"))
    proto.functions[0].output[0] = "z"
    assert refusal(proto).what == "nothing in function f::A produces its output 'z'"


# Attributes, types and texts


def test_attributes() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], name="s", axis=1)
    node.attribute.append(node.attribute[0])
    assert refusal(model([node])).what == "node 's' (Softmax) has two attributes of one name"
    node = helper.make_node("Softmax", ["x"], ["y"], name="s", axis=1)
    node.attribute[0].ClearField("i")
    node.attribute[0].ClearField("type")
    assert refusal(model([node])).what == "attribute 'axis' of node 's' (Softmax) has no type"
    node = helper.make_node("Constant", [], ["y"], name="c", value=tensor("t"))
    node.attribute[0].ClearField("t")
    assert refusal(model([node])).what == "attribute 'value' of node 'c' (Constant) has no tensor"


def test_sparse_tensors_and_training() -> None:
    sparse = helper.make_sparse_tensor(tensor("w", 2), numpy_helper.from_array(np.array([0, 1])), [10])
    proto = model()
    proto.graph.sparse_initializer.append(sparse)
    error = refusal(proto)
    assert (error.what, error.hint) == (
        "initializer 'w' is sparse, which is not supported",
        "store it as a dense tensor",
    )
    node = helper.make_node("Constant", [], ["y"], name="c", sparse_value=sparse)
    error = refusal(model([node]))
    assert error.what == "attribute 'sparse_value' of node 'c' (Constant) is sparse, which is not supported"
    proto = model()
    proto.training_info.add()
    error = refusal(proto)
    assert error.what == "has training information, which cannot be kept"


def test_unknown_element_types() -> None:
    proto = model()
    proto.graph.input[0].type.tensor_type.elem_type = 99
    assert refusal(proto).what == "value 'x' has the unknown element type 99"
    bad = tensor("w")
    bad.data_type = 99
    assert refusal(model(None, bad)).what == "initializer 'w' has the unknown element type 99"
    bad.data_type = 0
    assert refusal(model(None, bad)).what == "initializer 'w' has no element type"


def test_text_that_is_not_utf8() -> None:
    data = model([relu("x", "y", "nonutf")]).SerializeToString().replace(b"nonutf", b"\xff\xfe\xfd\xfc\xfb\xfa")
    assert refusal(data).what.endswith("has text that is not UTF-8")
    proto = model()
    proto.doc_string = "nonutf"
    data = proto.SerializeToString().replace(b"nonutf", b"\xff\xfe\xfd\xfc\xfb\xfa")
    assert refusal(data).what == "the model has text that is not UTF-8"


# Tensors


def test_raw_data_of_the_wrong_length() -> None:
    for count in (4, 500):
        bad = tensor("w", count)
        bad.dims[0] = count + 1
        assert refusal(model(None, bad)).what == (
            f"initializer 'w' has {4 * count} bytes of data where FLOAT [{count + 1}] needs {4 * count + 4}"
        )
    node = helper.make_node("Constant", [], ["y"], name="c", value=tensor("t"))
    node.attribute[0].t.dims[0] = 7
    assert refusal(model([node])).what == (
        "attribute 'value' of node 'c' (Constant) has 2000 bytes of data where FLOAT [7] needs 28"
    )


def test_huge_and_negative_shapes() -> None:
    bad = tensor("w", 4)
    bad.dims[:] = [2**62, 2**62]
    shape = [2**62, 2**62]
    assert refusal(model(None, bad)).what == f"initializer 'w' has the shape {shape}, which no computer can hold"
    bad.dims[:] = [2**62, 0, 2**62]
    bad.ClearField("raw_data")
    assert "which no computer can hold" in refusal(model(None, bad)).what
    bad.dims[:] = [2**40]
    assert refusal(model(None, bad)).what == (
        f"initializer 'w' has 0 values in float_data where its shape [{2**40}] needs {2**40}"
    )
    bad.dims[:] = [-4]
    assert refusal(model(None, bad)).what == "initializer 'w' has the negative dimension -4 in its shape [-4]"
    bad.dims[:] = [1] * 65
    assert refusal(model(None, bad)).what == "initializer 'w' has 65 dimensions; at most 64 are supported"


def test_values_in_the_wrong_field() -> None:
    bad = onnx.TensorProto(name="w", data_type=FLOAT, dims=[2], int32_data=[1, 2])
    assert (
        refusal(model(None, bad)).what == "initializer 'w' has its values in int32_data, where FLOAT needs float_data"
    )
    bad = onnx.TensorProto(name="w", data_type=FLOAT, dims=[3], float_data=[1, 2])
    assert refusal(model(None, bad)).what == "initializer 'w' has 2 values in float_data where its shape [3] needs 3"
    bad = onnx.TensorProto(name="w", data_type=onnx.TensorProto.STRING, dims=[1], raw_data=b"text")
    assert refusal(model(None, bad)).what == (
        "initializer 'w' has strings as raw data, where only string_data can hold them"
    )


def test_two_payloads_of_one_tensor_do_not_merge() -> None:
    raw = b"\x4a" + varint(2000) + bytes(2000)
    data = b"\x08\xf4\x03\x10\x01\x42\x01w" + raw + raw
    body = b"\x2a" + varint(len(data)) + data + model().graph.SerializeToString()
    whole = b"\x08\x08\x42\x02\x10\x11\x3a" + varint(len(body)) + body
    assert refusal(whole).what == "initializer 'w' has more than one raw_data"
