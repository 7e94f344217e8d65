"""What is no model at all, or damaged, is refused with an error that says what, where and what to do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.load import read_model
from graphopt.ir.wire import varint
from tests.unit.protos import model, refusal, relu, tensor, value

DAMAGED = "the file is damaged or cut off: copy, download or export it again"


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
    assert refusal(tmp_path / "a\0b", UsageError).what == "cannot be read: there is a zero byte in the path"
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
