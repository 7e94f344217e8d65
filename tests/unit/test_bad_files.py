"""Every kind of malformed input is refused with an error that says what, where and what to do."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.ir.load import read_model
from graphopt.ir.wire import varint

FLOAT = onnx.TensorProto.FLOAT
DAMAGED = "the file is damaged or cut off: copy, download or export it again"
MISSING = "an initializer may be missing, or an input of the graph"


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, None)


def relu(x: str, y: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y], name=name)


def tensor(name: str, count: int = 500) -> onnx.TensorProto:
    return numpy_helper.from_array(np.arange(count, dtype=np.float32), name)


def graph(nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [value("x")], [value("y")], list(initializers))


def model(nodes: list[onnx.NodeProto] | None = None, *initializers: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [relu("x", "y", "r")] if nodes is None else nodes
    return helper.make_model(graph(nodes, *initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def refusal(source: Path | bytes | onnx.ModelProto, kind: type[GraphoptError] = ModelError) -> GraphoptError:
    with pytest.raises(GraphoptError) as caught:
        read_model(source)
    assert type(caught.value) is kind
    return caught.value


# Files


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    assert str(refusal(path, UsageError)) == f"{path}: no such file"


def test_directory(tmp_path: Path) -> None:
    assert str(refusal(tmp_path, UsageError)) == f"{tmp_path}: is a directory, not a file"


def test_pipe_and_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert str(refusal(path, UsageError)) == f"{path}: is not a regular file"


def test_path_that_no_system_takes(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a\0b", UsageError).what == "cannot be read: embedded null byte"
    assert refusal(tmp_path / ("a" * 300), UsageError).what == "cannot be read: File name too long"


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    assert str(refusal(path)) == f"{path}: is empty\n  copy, download or export the model again"


FORMATS = [
    (b"PK\x03\x04rest", "a zip archive, as PyTorch writes checkpoints", "export it with torch.onnx.export"),
    (b"\x80\x02}q\x00X", "a Python pickle, as PyTorch writes", "use torch.onnx.export"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes models", "convert it with tf2onnx"),
    (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model", "convert it with tf2onnx --tflite"),
    (b"\x1c\0\0\0ORTM", "a model in ONNX Runtime's own format", "use the .onnx file it was made from"),
    (b"\x1f\x8b\x08", "gzip-compressed", "unpack it with gunzip"),
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the file itself", "fetch it with: git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "an HTML page", "the download has probably failed: try it again"),
    (b"<?xml version='1.0'?><net>", "an XML file", "pass the .onnx file"),
    (b'{"graph": {}}', "JSON", "pass the binary .onnx file"),
    (b"<ir_version: 8>", "ONNX in text form", "convert it with onnx.parser.parse_model"),
    (b"ir_version: 8\n", "protobuf in text form", "load it with onnx.load(path, 'textproto')"),
    (b"\x40\0\0\0\0\0\0\0" + b'{"w":{}}', "a safetensors file: weights without a graph", None),
    (b"Dear all,\nplease find", "text", "pass the binary .onnx file"),
]


@pytest.mark.parametrize(("data", "kind", "hint"), FORMATS, ids=lambda item: str(item)[:20])
def test_other_formats_are_recognised(data: bytes, kind: str, hint: str | None) -> None:
    error = refusal(data)
    assert error.what == f"is not an ONNX model but {kind}"
    assert error.hint == (hint or "export the model with torch.onnx.export")
    assert error.where == "the given bytes"


# Bytes


BROKEN = [
    (b"\xff\xfe\xfd\xfc", "ModelProto: cut off in the middle of a number at byte 0"),
    (b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "graph: a varint of more than 10 bytes at byte 1"),
    (b"\x08\x08\x3a\x7f\x0a\x00", "graph: a length of 127 bytes where 2 are left at byte 2"),
    (b"\x08\x08\x3a\x04\x0a\x05ab", "graph.node[0]: a length of 5 bytes where 2 are left at byte 4"),
    (b"\x08\x08\x3a\x02\x08\x01", "graph.node[0] is stored as a varint where ONNX has a length and bytes, at byte 4"),
    (b"\x08\x08\x38\x01", "graph is stored as a varint where ONNX has a length and bytes"),
    (b"\x08\x08\x3b\x3c", "graph: wire type 3, which no ONNX field has, at byte 2"),
    (b"\x08\x08\x00\x01", "ModelProto: a field with number 0 at byte 2"),
    (b"\x08\x08", "it has no graph"),
    (b"\x3a\x00", "it has no IR version"),
]


@pytest.mark.parametrize(("data", "fault"), BROKEN, ids=[fault for _, fault in BROKEN])
def test_broken_bytes_are_located(data: bytes, fault: str) -> None:
    error = refusal(data)
    assert error.what == f"is not a valid ONNX model: {fault}"
    assert error.hint == DAMAGED


def test_truncation_anywhere() -> None:
    proto = model([relu("x", "a"), helper.make_node("Add", ["a", "w"], ["y"])], tensor("w"))
    proto.producer_name = "producer"
    data = proto.SerializeToString()
    for end in range(len(data)):
        error = refusal(data[:end])
        assert error.where == "the given bytes"
        assert error.hint or error.what


def test_truncated_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    data = model([helper.make_node("Add", ["x", "w"], ["y"])], tensor("w", 100_000)).SerializeToString()
    path.write_bytes(data[:50_000])
    error = refusal(path)
    assert error.what.startswith("is not a valid ONNX model: graph: a length of 400")
    assert str(error) == f"{path}: {error.what}\n  {DAMAGED}"


def test_deep_nesting() -> None:
    data = b""
    for _ in range(40):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # graph { node { attribute { graph { ... } } } }
            data = tag + varint(len(data)) + data
    error = refusal(b"\x08\x08\x3a" + varint(len(data)) + data)
    path = "graph.node[0].attribute[0].g.node[0].att...0].attribute[0].g.node[0].attribute[0].g"
    assert error.what == f"is not a valid ONNX model: {path}: messages nested deeper than 100 levels at byte 259"


def test_wrong_wire_type_deep_inside() -> None:
    data = model().SerializeToString().replace(b"\x22\x04Relu", b"\x20\x04\x28\x00\x28\x00")
    what = "graph.node[0].op_type is stored as a varint where ONNX has a length and bytes"
    assert what in refusal(data).what


def test_value_that_an_enum_does_not_have() -> None:
    proto = model([helper.make_node("Softmax", ["x"], ["y"], axis=1)])
    data = proto.SerializeToString().replace(b"\xa0\x01\x02", b"\xa0\x01\x4d")
    assert "graph.node[0].attribute[0].type has the value 77, which ONNX does not define" in refusal(data).what


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    body = helper.make_graph([relu("x", "t")], "b", [], [value("t")], [tensor("k", 300)])
    nodes = [
        helper.make_node("If", ["x"], ["a"], then_branch=body, else_branch=body),
        helper.make_node("Constant", [], ["c"], value=tensor("c", 4)),
        helper.make_node("Sum", ["a", "c", "w"], ["y"]),
    ]
    proto = model(nodes, tensor("w"))
    proto.functions.append(
        helper.make_function("f", "F", ["p"], ["q"], [relu("p", "q")], [helper.make_opsetid("", 17)])
    )
    data = proto.SerializeToString()
    rng = random.Random(seed)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            action = rng.random()
            if action < 0.6:
                damaged[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            elif action < 0.8:
                del damaged[at : at + rng.randint(1, 8)]
            else:
                damaged[at:at] = rng.randbytes(rng.randint(1, 8))
        try:
            loaded, _ = read_model(bytes(damaged))
        except GraphoptError as error:
            assert error.where == "the given bytes"
            continue
        for initializer in loaded.graph.initializers.values():
            assert initializer.const_value is not None
            initializer.const_value.numpy()


# Versions


def test_versions() -> None:
    def changed(change: Callable[[onnx.ModelProto], object]) -> GraphoptError:
        proto = model()
        change(proto)
        return refusal(proto)

    newest, ir = onnx.defs.onnx_opset_version(), onnx.IR_VERSION
    error = changed(lambda m: setattr(m.opset_import[0], "version", 999))
    assert error.what == f"has operator set version 999; onnx {onnx.__version__} knows up to {newest}"
    assert error.hint == f"install a newer onnx, or export the model with operator set version {newest} or lower"
    error = changed(lambda m: setattr(m, "ir_version", 99))
    assert error.what == f"has IR version 99; onnx {onnx.__version__} knows up to {ir}"
    assert changed(lambda m: setattr(m, "ir_version", 0)).what == "has no valid IR version: 0"
    assert changed(lambda m: setattr(m, "ir_version", -1)).what == "has no valid IR version: -1"
    error = changed(lambda m: setattr(m.opset_import[0], "version", -3))
    assert error.what == "has no valid operator set version: -3"
    error = changed(lambda m: m.opset_import.add(domain="custom", version=-1))
    assert error.what == "the model imports the operator set 'custom' in version -1"
    error = changed(lambda m: m.ClearField("opset_import"))
    assert (error.what, error.hint) == (
        "the model imports no operator set",
        "export it again, or add an opset_import",
    )


def test_unknown_domain() -> None:
    error = refusal(model([helper.make_node("Foo", ["x"], ["y"], name="foo", domain="corp.ops")]))
    assert error.what == "node 'foo' (Foo) is of the operator set 'corp.ops', which the model does not import"
    assert error.hint == "add an opset_import for it"
    proto = model()
    proto.opset_import[0].domain = "corp.ops"
    assert refusal(proto).what == "node 'r' (Relu) is of the operator set 'ai.onnx', which the model does not import"


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


# External data


def external(folder: Path, **entries: str) -> Path:
    data = tensor("w")
    data.ClearField("raw_data")
    data.data_location = onnx.TensorProto.EXTERNAL
    for key, text in entries.items():
        data.external_data.add(key=key, value=text)
    path = folder / "m.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], data).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a data file that is long enough, beside a file that must not be reached."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "w.bin").write_bytes(bytes(2000))
    (tmp_path / "secret").write_bytes(bytes(2000))
    return made


def test_external_data_out_of_the_folder(folder: Path) -> None:
    (folder / "link").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    lies = "initializer 'w' lies in the external file"
    for location, problem in [
        (str(folder.parent / "secret"), "is an absolute path; it must lie in the model's folder"),
        (r"C:\secret", "is an absolute path; it must lie in the model's folder"),
        ("../secret", "leads out of the model's folder"),
        ("sub/../w.bin", "leads out of the model's folder"),
        (r"..\secret", "leads out of the model's folder"),
        ("link", "is a link that leaves the model's folder; allow links to follow it"),
        ("up/secret", "is a link that leaves the model's folder; allow links to follow it"),
        ("", "is not a file name"),
        ("w\0.bin", "is not a file name"),
    ]:
        error = refusal(external(folder, location=location))
        assert error.what == f"{lies} {location!r}, which {problem}"
        assert error.where == str(folder / "m.onnx")


def test_external_data_that_is_missing(folder: Path) -> None:
    error = refusal(external(folder, location="no.bin"))
    assert error.what == "initializer 'w' lies in the external file 'no.bin', which does not exist"
    assert error.hint == f"put it into {folder}"


def test_external_data_that_is_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # a socket's path may be only 100 bytes long
        listener.bind("socket")
        for name in ("pipe", "sub", "socket"):
            error = refusal(external(folder, location=name))
            assert error.what == f"initializer 'w' lies in the external file {name!r}, which is not a regular file"


def test_external_data_that_is_too_short(folder: Path) -> None:
    for offset, length in (("1", "2000"), ("8000000000000000000", "2000")):
        end = int(offset) + 2000
        error = refusal(external(folder, location="w.bin", offset=offset, length=length))
        assert error.what == (
            f"the external file 'w.bin' is too short: initializer 'w' needs bytes {offset} to {end}, the file has 2000"
        )


def test_external_data_with_a_strange_place(folder: Path) -> None:
    for key, text in (("offset", "-1"), ("length", "-5"), ("offset", "1e3"), ("length", ""), ("offset", "9" * 30)):
        error = refusal(external(folder, location="w.bin", **{key: text}))
        assert error.what == f"initializer 'w': the {key} {text!r} of its external data is not a number of bytes"
    error = refusal(external(folder, location="w.bin", length="1996"))
    assert error.what == "initializer 'w' has 1996 bytes of data where FLOAT [500] needs 2000"


def test_external_data_beside_raw_data(folder: Path) -> None:
    for count in (4, 500):
        data = tensor("w", count)
        data.data_location = onnx.TensorProto.EXTERNAL
        data.external_data.add(key="location", value="w.bin")
        (folder / "m.onnx").write_bytes(model(None, data).SerializeToString())
        assert refusal(folder / "m.onnx").what == "initializer 'w' has both raw data and external data"


def test_external_data_without_a_path(folder: Path) -> None:
    error = refusal(external(folder, location="w.bin").read_bytes(), UsageError)
    assert error.what == "initializer 'w' lies in the external file 'w.bin', which did not come with the model"
    assert error.hint == "pass the path of the model instead"


def test_no_file_can_forge_a_marker(folder: Path) -> None:
    error = refusal(external(folder, location="graphopt-000000000000000000000000:0", offset="0", length="2000"))
    assert error.what.endswith("which does not exist")
