"""Loading leaves the weights in the file, in whatever place of the model they are."""

from __future__ import annotations

import gc
import os
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import ModelError, UsageError
from graphopt.ir.load import TYPE, read_model
from graphopt.ir.tensors import BufferTensor, FileTensor
from graphopt.ir.wire import varint
from tests.unit.protos import FLOAT, model, summing, tensor, value, weight, write


def add(x: str, w: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Add", [x, w], [y], name=f"add_{y}")


def simple(count: int = 500) -> onnx.ModelProto:
    return summing(tensor("w", count))


def external(folder: Path, *, location: str = "w.bin", offset: str | None = None, length: str | None = None) -> Path:
    """A model whose weight of 500 floats lies in external data."""
    proto = simple()
    data = proto.graph.initializer[0]
    data.ClearField("raw_data")
    data.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        if text is not None:
            data.external_data.add(key=key, value=text)
    return write(folder / "m.onnx", proto)


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    body = helper.make_graph([add("x", "inner", "b")], "body", [], [value("b")], [tensor("inner")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("c")),
        add("x", "w", "a"),
        helper.make_node("If", ["a"], ["i"], then_branch=body, else_branch=body),
        helper.make_node("F", ["c"], ["y"], domain="local"),
    ]
    proto = model(nodes, tensor("w"), tensor("small", 8))
    inside = helper.make_node("Constant", [], ["k"], value=tensor("k"))
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "F", ["p"], ["q"], [inside, add("p", "k", "q")], opset))
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))

    then = loaded.graph.node(2).attributes["then_branch"].as_graph()
    function = loaded.functions["local", "F", ""]
    places = [
        weight(loaded),
        loaded.graph.node(0).attributes["value"].as_tensor(),
        then.initializers["inner"].const_value,
        function.graph.node(0).attributes["value"].as_tensor(),
    ]
    for found in places:
        assert isinstance(found, FileTensor)
        assert found.file.path == tmp_path / "m.onnx"
        np.testing.assert_array_equal(found.numpy(), np.arange(500, dtype=np.float32))
        raw = (tmp_path / "m.onnx").read_bytes()[found.offset : found.offset + found.length]
        assert found.tobytes() == raw
    assert not isinstance(weight(loaded, "small"), FileTensor)
    assert source.path == tmp_path / "m.onnx"
    assert not source.external
    assert source.size == (tmp_path / "m.onnx").stat().st_size
    assert source.proto is not None
    assert source.proto.ByteSize() < 3000


def test_bytes_and_protos_load_the_same() -> None:
    for given in (simple().SerializeToString(), bytearray(simple().SerializeToString()), simple()):
        loaded, source = read_model(given)
        found = weight(loaded)
        assert isinstance(found, BufferTensor)
        np.testing.assert_array_equal(found.numpy(), np.arange(500, dtype=np.float32))
        assert source.path is None


def test_a_given_proto_is_left_alone() -> None:
    proto = model([helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])])
    before = proto.SerializeToString()
    read_model(proto)
    assert proto.SerializeToString() == before


TYPES = [
    (np.float16, 700),
    (np.float32, 500),
    (np.float64, 300),
    (np.int8, 1500),
    (np.uint8, 1500),
    (np.int16, 700),
    (np.uint16, 700),
    (np.int32, 500),
    (np.uint32, 500),
    (np.int64, 300),
    (np.uint64, 300),
    (np.complex64, 300),
    (np.complex128, 300),
    (ml_dtypes.bfloat16, 700),
    (ml_dtypes.float8_e4m3fn, 1500),
    (ml_dtypes.float8_e4m3fnuz, 1500),
    (ml_dtypes.float8_e5m2, 1500),
    (ml_dtypes.float8_e5m2fnuz, 1500),
    (ml_dtypes.float8_e8m0fnu, 1500),
    (ml_dtypes.int4, 3001),
    (ml_dtypes.uint4, 3001),
    (ml_dtypes.float4_e2m1fn, 3001),
    (ml_dtypes.int2, 5003),
    (ml_dtypes.uint2, 5003),
]


@pytest.mark.parametrize(("dtype", "count"), TYPES, ids=lambda item: getattr(item, "__name__", str(item)))
def test_each_dtype_is_read_as_onnx_stores_it(tmp_path: Path, dtype: type, count: int) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2 if "2" in dtype.__name__[-2:] else 8, count)
    expected = bits.astype(np.float32).astype(dtype)
    stored = ir.Tensor(expected, name="w")
    proto = model([helper.make_node("Use", ["x", "w"], ["y"], domain="ai.onnx.ml")])
    proto.graph.initializer.append(ir.serde.serialize_tensor(stored))
    loaded, _ = read_model(write(tmp_path / "m.onnx", proto))
    found = weight(loaded)
    assert isinstance(found, FileTensor)
    assert found.dtype == stored.dtype
    assert found.nbytes == len(stored.tobytes())
    array = found.numpy()
    assert array.dtype == expected.dtype
    assert array.flags.aligned
    np.testing.assert_array_equal(array.astype(np.complex128), expected.astype(np.complex128))


def test_bool_weights(tmp_path: Path) -> None:
    expected = np.arange(2000) % 3 == 0
    proto = model([add("x", "w", "y")], numpy_helper.from_array(expected, "w"))
    loaded, _ = read_model(write(tmp_path / "m.onnx", proto))
    np.testing.assert_array_equal(weight(loaded).numpy(), expected)


def test_aligned_weights_are_not_copied(tmp_path: Path) -> None:
    np.arange(500, dtype=np.float32).tofile(tmp_path / "w.bin")
    loaded, _ = read_model(external(tmp_path))
    array = weight(loaded).numpy()
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.__array_interface__["data"][0] == weight(loaded).numpy().__array_interface__["data"][0]


def test_weights_outlive_the_path(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", simple())
    loaded, _ = read_model(path)
    found = weight(loaded)
    assert isinstance(found, FileTensor)
    assert not found.file.changed()
    write(tmp_path / "other", simple(600)).replace(path)
    assert found.file.changed()
    np.testing.assert_array_equal(found.numpy(), np.arange(500, dtype=np.float32))
    path.unlink()
    assert found.file.changed()
    np.testing.assert_array_equal(found.numpy(), np.arange(500, dtype=np.float32))


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", simple(100_000))
    loaded, _ = read_model(path)
    os.truncate(path, 5000)
    with pytest.raises(ModelError) as caught:
        weight(loaded).numpy()
    hint = "let the program that writes it finish first"
    assert str(caught.value) == f"{path}: became shorter while it was in use\n  {hint}"


def test_files_are_closed_with_their_model(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", simple())
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        weight(read_model(path)[0]).numpy()
    gc.collect()  # graphs are full of cycles
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_external_data_is_read_in_place(tmp_path: Path) -> None:
    np.arange(-10, 500, dtype=np.float32).tofile(tmp_path / "w.bin")
    loaded, source = read_model(external(tmp_path, offset="40", length="2000"))
    found = weight(loaded)
    assert isinstance(found, FileTensor)
    assert (found.file.path, found.offset, found.length) == (tmp_path / "w.bin", 40, 2000)
    np.testing.assert_array_equal(found.numpy(), np.arange(500, dtype=np.float32))
    assert source.external
    assert source.size == (tmp_path / "m.onnx").stat().st_size + 2000


def test_small_external_data_comes_into_the_model(tmp_path: Path) -> None:
    proto = model([helper.make_node("Reshape", ["x", "w"], ["y"])])
    shape = proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.INT64, dims=[1])
    shape.data_location = onnx.TensorProto.EXTERNAL
    shape.external_data.add(key="location", value="sub/s.bin")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/s.bin").write_bytes(np.array([-1], np.int64).tobytes())
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    assert weight(loaded).numpy().tolist() == [-1]
    assert source.external
    assert source.proto is not None
    assert source.proto.graph.initializer[0].raw_data == b"\xff" * 8


def test_links_out_of_the_folder_only_where_allowed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    np.arange(500, dtype=np.float32).tofile(tmp_path / "blobs/abc")
    (tmp_path / "snapshot/w.bin").symlink_to("../blobs/abc")
    path = external(tmp_path / "snapshot")
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert caught.value.what == (
        "initializer 'w' lies in the external file 'w.bin', which is a link that leaves the model's folder; "
        "allow links to follow it"
    )
    loaded, _ = read_model(path, allow_links=True)
    assert weight(loaded).numpy()[-1] == 499


def test_links_within_the_folder_are_fine(tmp_path: Path) -> None:
    np.arange(500, dtype=np.float32).tofile(tmp_path / "real")
    (tmp_path / "w.bin").symlink_to("real")
    assert weight(read_model(external(tmp_path))[0]).numpy()[-1] == 499


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    size = 3 << 30
    proto = model([add("x", "w", "y")])
    data = proto.graph.initializer.add(name="w", data_type=FLOAT, dims=[size // 4])
    data.data_location = onnx.TensorProto.EXTERNAL
    data.external_data.add(key="location", value="w.bin")
    with (tmp_path / "w.bin").open("wb") as file:
        file.seek(size - 4)
        file.write(np.float32(7).tobytes())
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    assert weight(loaded).numpy()[-1] == 7
    assert source.size > size


def test_more_than_two_gigabytes_inside_the_model(tmp_path: Path) -> None:
    """Protobuf cannot read such a file; the scan can."""
    size = 3 << 30
    proto = model([add("x", "w", "y")])
    other = model([], onnx.TensorProto(name="w", data_type=FLOAT, dims=[size // 4]))
    head = other.graph.initializer[0].SerializeToString() + b"\x4a" + varint(size)
    initializer = b"\x2a" + varint(len(head) + size) + head
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + b"\x3a" + varint(len(graph) + len(initializer) + size))
        file.write(graph + initializer)
        file.truncate(file.tell() + size)
    found = weight(read_model(path)[0])
    assert isinstance(found, FileTensor)
    assert found.length == size
    assert found.offset + found.length == path.stat().st_size


def test_nodes_out_of_order_are_sorted() -> None:
    body = helper.make_graph([helper.make_node("Relu", ["b"], ["t"])], "body", [], [value("t")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body, name="if"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["x"], ["c"], name="cond"),
    ]
    loaded, source = read_model(model(nodes))
    assert [node.name for node in loaded.graph] == ["first", "second", "cond", "if"]
    assert source.proto is not None
    assert [node.name for node in source.proto.graph.node] == ["first", "second", "cond", "if"]


def test_attributes_without_a_type_get_it() -> None:
    proto = model([helper.make_node("Softmax", ["x"], ["y"], axis=-1)])
    proto.graph.node[0].attribute[0].ClearField("type")
    loaded, _ = read_model(proto)
    assert loaded.graph.node(0).attributes["axis"].as_int() == -1


def test_the_long_name_of_the_default_domain() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    loaded, _ = read_model(proto)
    assert loaded.opset_imports == {"": 17}
    assert loaded.graph.node(0).domain == ""


def test_the_last_of_two_imports_counts_as_in_onnx_runtime() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], opset=21)
    proto.opset_import.add(domain="", version=18)
    loaded, source = read_model(proto)
    assert loaded.opset_imports == {"": 18}
    assert source.proto is not None
    assert [entry.version for entry in source.proto.opset_import] == [18]


def test_the_first_ir_versions_mean_opset_one() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    proto.ir_version = 2
    del proto.opset_import[:]
    assert read_model(proto)[0].opset_imports == {"": 1}


def test_equal_initializers_of_one_name_are_one(tmp_path: Path) -> None:
    for count in (4, 500):
        loaded, _ = read_model(write(tmp_path / "m.onnx", model([add("x", "w", "y")], *[tensor("w", count)] * 3)))
        assert weight(loaded).numpy().tolist() == list(range(count))


def test_map_types_are_kept() -> None:
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    proto = model([node])
    kind = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    proto.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    loaded, source = read_model(proto)
    output = loaded.graph.outputs[0]
    assert onnx.TypeProto.FromString(output.meta[TYPE]) == proto.graph.output[0].type
    assert output.metadata_props == {}
    assert source.proto is not None
    assert source.proto.graph.output[0] == proto.graph.output[0]


def test_a_local_function_named_relu_is_no_relu() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"], domain="mine")])
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "Relu", ["p"], ["q"], [helper.make_node("Neg", ["p"], ["q"])], opset)
    proto.functions.append(function)
    loaded, _ = read_model(proto)
    node = loaded.graph.node(0)
    assert node.op_identifier() == ("mine", "Relu", "")
    assert [inner.op_type for inner in loaded.functions[node.op_identifier()]] == ["Neg"]


def test_value_float_is_a_float32() -> None:
    proto = model([helper.make_node("Constant", [], ["y"], value_float=0.1)])
    attribute = read_model(proto)[0].graph.node(0).attributes["value_float"]
    assert attribute.type == ir.AttributeType.FLOAT
    assert attribute.as_float() == float(np.float32(0.1))


def test_fields_that_onnx_does_not_know_are_named() -> None:
    data = simple().SerializeToString() + b"\xfa\x07\x02hi"  # field 127
    loaded, source = read_model(data)
    assert source.ignored == ("#127",)
    assert read_model(simple())[1].ignored == ()
    assert len(loaded.graph) == 1


def test_long_chains_and_wide_nodes_load_in_linear_time() -> None:
    names = ["x", *(f"v{i}" for i in range(20_000))]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("Concat", names[-5000:], ["y"], axis=0))
    nodes.reverse()
    loaded, _ = read_model(model(nodes))
    assert len(loaded.graph) == 20_001
    assert loaded.graph.node(0).inputs[0] is loaded.graph.inputs[0]


def test_only_paths_bytes_and_protos_are_sources() -> None:
    with pytest.raises(UsageError) as caught:
        read_model(3)  # type: ignore[arg-type]
    assert str(caught.value) == "cannot load a model from int\n  pass a path or the bytes"
