"""A saved model is what was loaded; weights go where they should, and past memory."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from graphopt.errors import ModelError, UsageError
from graphopt.ir import save
from graphopt.ir.load import read_model
from graphopt.ir.save import WEIGHTS, skeleton, to_bytes, write_model
from graphopt.ir.tensors import FileTensor
from tests.unit.protos import FLOAT, contents, last, rich, summing, tensor, value, write

# Round trips


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    before = rich()
    loaded, source = read_model(write(tmp_path / "m.onnx", before))
    written = write_model(loaded, tmp_path / "out.onnx", source=source)
    after = onnx.load(str(tmp_path / "out.onnx"))
    for proto in (before, after):
        for node in proto.graph.node:
            while node.output and not node.output[-1]:
                node.output.pop()  # trailing empty names say nothing
    assert after == before
    assert written.model_bytes == (tmp_path / "out.onnx").stat().st_size
    assert (written.data_bytes, written.files) == (0, (tmp_path / "out.onnx",))
    assert to_bytes(loaded) == (tmp_path / "out.onnx").read_bytes()


def test_external_and_back_again_keeps_everything(tmp_path: Path) -> None:
    loaded, _ = read_model(write(tmp_path / "m.onnx", rich()))
    write_model(loaded, tmp_path / "e.onnx", external=True)
    again, source = read_model(tmp_path / "e.onnx")
    assert source.external
    assert to_bytes(again) == to_bytes(loaded)
    write_model(again, tmp_path / "i.onnx", source=source, external=False)
    assert (tmp_path / "i.onnx").read_bytes() == to_bytes(loaded)


def test_map_types_survive(tmp_path: Path) -> None:
    proto = summing(tensor("w"))
    kind = helper.make_map_type_proto(onnx.TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, [2]))
    proto.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    write_model(loaded, tmp_path / "out.onnx", source=source)
    assert onnx.load(str(tmp_path / "out.onnx")) == proto
    assert skeleton(loaded).graph.output[0] == proto.graph.output[0]


def test_function_types_of_old_ir_versions_survive(tmp_path: Path) -> None:
    proto = rich()
    proto.ir_version = 9
    proto.graph.value_info.append(value("mine::Relu/p", [4]))
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    write_model(loaded, tmp_path / "out.onnx", source=source)
    names = [info.name for info in onnx.load(str(tmp_path / "out.onnx")).graph.value_info]
    assert names == ["s", "mine::Relu/p"]


def test_each_payload_is_found_again_whatever_its_size(tmp_path: Path) -> None:
    sizes = [255, 256, 257, 4000, 5000, 300_000, 600_000]
    proto = summing(*[tensor(f"w{size}", size) for size in sizes])
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    write_model(loaded, tmp_path / "out.onnx", source=source)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


# Where the weights go


def test_kept_as_it_was_unless_asked(tmp_path: Path) -> None:
    loaded, inline = read_model(write(tmp_path / "m.onnx", summing(tensor("w"), tensor("small", 4))))
    assert write_model(loaded, tmp_path / "a.onnx").data_bytes == 0
    assert write_model(loaded, tmp_path / "b.onnx", source=inline).data_bytes == 0
    written = write_model(loaded, tmp_path / "c.onnx", source=inline, external=True)
    assert written.data_bytes == 2000
    assert written.files == (tmp_path / "c.onnx", tmp_path / "c.onnx.data")
    loaded, external = read_model(tmp_path / "c.onnx")
    assert write_model(loaded, tmp_path / "d.onnx", source=external).data_bytes == 2000
    assert write_model(loaded, tmp_path / "e.onnx", source=external, external=False).data_bytes == 0
    assert last(read_model(tmp_path / "d.onnx")[0]) == 499


def test_external_data_can_be_moved_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_model(read_model(summing(tensor("w")))[0], tmp_path / "a/m.onnx", external=True)
    loaded, source = read_model(tmp_path / "a/m.onnx")
    write_model(loaded, tmp_path / "b/m.onnx", source=source)
    (tmp_path / "a/m.onnx.data").unlink()
    assert last(read_model(tmp_path / "b/m.onnx")[0]) == 499


def test_external_data_is_aligned_and_shared_once(tmp_path: Path) -> None:
    loaded, _ = read_model(summing(tensor("a"), tensor("b", 300_000), tensor("c", 257), tensor("d")))
    loaded.graph.initializers["d"].const_value = loaded.graph.initializers["a"].const_value
    write_model(loaded, tmp_path / "m.onnx", external=True)
    places = {}
    for item in onnx.load(str(tmp_path / "m.onnx"), load_external_data=False).graph.initializer:
        places[item.name] = {entry.key: entry.value for entry in item.external_data}
    assert places["a"] == {"location": "m.onnx.data", "offset": "0", "length": "2000"}
    assert places["b"] == {"location": "m.onnx.data", "offset": "4096", "length": "1200000"}
    assert places["c"] == {"location": "m.onnx.data", "offset": "1204096", "length": "1028"}
    assert places["d"] == places["a"]
    again, source = read_model(tmp_path / "m.onnx")
    assert to_bytes(again) == to_bytes(loaded)
    assert write_model(again, tmp_path / "n.onnx", source=source).data_bytes == 1204096 + 1028


def test_attributes_stay_inside_unless_they_must_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = read_model(rich())
    whole = to_bytes(loaded)
    for name, limit, inside in (("m", 10_000, 2), ("n", 6_000, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(save, "LIMIT", limit)
            written = write_model(loaded, tmp_path / f"{name}.onnx")
        assert written.model_bytes <= limit
        proto = onnx.load(str(tmp_path / f"{name}.onnx"), load_external_data=False)
        constants = [proto.graph.node[0].attribute[0].t, proto.functions[0].node[0].attribute[0].t]
        assert sum(item.HasField("raw_data") for item in constants) == inside
        assert proto.graph.node[2].attribute[0].g.initializer[0].data_location == onnx.TensorProto.EXTERNAL
        assert to_bytes(read_model(tmp_path / f"{name}.onnx")[0]) == whole


def test_what_protobuf_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = read_model(summing(tensor("w")))
    size = len(to_bytes(loaded))
    monkeypatch.setattr(save, "LIMIT", 100)
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert caught.value.what == "the model's structure alone has 129 bytes"
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "m.onnx", external=False)
    assert caught.value.what == f"the model has {size} bytes with its weights inside; protobuf holds at most 100"
    assert caught.value.hint == "save it with external data"
    with pytest.raises(UsageError) as caught:
        to_bytes(loaded)
    assert caught.value.what == f"the model has {size} bytes, and one message holds at most 100"
    assert caught.value.hint == "save it to a file instead"
    assert contents(tmp_path) == {}


def test_three_gigabytes_go_external_by_themselves(tmp_path: Path) -> None:
    """The data is one hole, and stays one."""
    size = 3 << 30
    proto = summing(onnx.TensorProto(name="w", data_type=FLOAT, dims=[size // 4]))
    data = proto.graph.initializer[0]
    data.data_location = onnx.TensorProto.EXTERNAL
    data.external_data.add(key="location", value="w.bin")
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)
    loaded, _ = read_model(write(tmp_path / "m.onnx", proto))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    written = write_model(loaded, tmp_path / "out.onnx")
    assert written.data_bytes == size
    assert (tmp_path / "out.onnx.data").stat().st_size == size
    assert (tmp_path / "out.onnx.data").stat().st_blocks < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
    with pytest.raises(UsageError, match="protobuf holds at most 2147483647"):
        write_model(loaded, tmp_path / "inline.onnx", external=False)


# Models in memory


def test_new_tensors_of_every_kind(tmp_path: Path) -> None:
    loaded, source = read_model(write(tmp_path / "m.onnx", summing(tensor("w"))))
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "float": rng.standard_normal((40, 50)).astype(np.float32),
        "strided": rng.standard_normal((50, 40)).astype(np.float32).T,
        "half": rng.standard_normal(1000).astype(ml_dtypes.bfloat16),
        "int4": rng.integers(-8, 8, 4001).astype(ml_dtypes.int4),
        "bool": rng.random(2000) < 0.5,
        "scalar": np.float32(3),
        "empty": np.zeros((0, 5), np.float32),
        "small": np.arange(3),
    }
    tensors: dict[str, ir.TensorProtocol] = {name: ir.Tensor(np.asarray(a)) for name, a in arrays.items()}
    tensors["proto"] = ir.serde.deserialize_tensor(tensor("proto"))
    tensors["lazy"] = ir.LazyTensor(lambda: ir.Tensor(arrays["float"]), ir.DataType.FLOAT, ir.Shape([40, 50]))
    arrays |= {"proto": np.arange(500, dtype=np.float32), "lazy": arrays["float"]}
    for name, made in tensors.items():
        loaded.graph.register_initializer(ir.Value(name=name, const_value=made))
    for external in (False, True):
        write_model(loaded, tmp_path / "out.onnx", source=source, external=external)
        again, _ = read_model(tmp_path / "out.onnx")
        for name, array in arrays.items():
            const = again.graph.initializers[name].const_value
            assert const is not None
            assert const.numpy().dtype == array.dtype
            np.testing.assert_array_equal(const.numpy().astype(np.float64), np.asarray(array).astype(np.float64))


def test_models_that_were_never_in_a_file(tmp_path: Path) -> None:
    onnx.save_model(summing(tensor("w")), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin")
    for made in (ir.serde.deserialize_model(summing(tensor("w"))), ir.load(tmp_path / "m.onnx")):
        write_model(made, tmp_path / "out.onnx")
        assert last(read_model(tmp_path / "out.onnx")[0]) == 499
        assert to_bytes(made) == (tmp_path / "out.onnx").read_bytes()
        assert skeleton(made).ByteSize() < 400


def test_metadata_of_tensors_does_not_multiply(tmp_path: Path) -> None:
    proto = summing(tensor("w", 4))
    proto.graph.initializer[0].metadata_props.add(key="k", value="v")
    for _ in range(3):
        proto = onnx.ModelProto.FromString(to_bytes(read_model(proto)[0]))
    assert len(proto.graph.initializer[0].metadata_props) == 1


def test_a_skeleton_reads_no_weight(tmp_path: Path) -> None:
    given = summing(tensor("w"), tensor("small", 4))
    given.graph.node[0].input.pop()
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 500
    path = write(tmp_path / "m.onnx", given)
    loaded, _ = read_model(path)
    path.write_bytes(b"")  # whoever reads a weight now gets an error
    proto = skeleton(loaded)
    large, small = proto.graph.initializer
    assert {entry.key: entry.value for entry in large.external_data} == {
        "location": WEIGHTS,
        "offset": "0",
        "length": "2000",
    }
    assert small.raw_data == np.arange(4, dtype=np.float32).tobytes()
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    assert inferred.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 500
    with pytest.raises(ModelError, match="became shorter while it was in use"):
        write_model(loaded, tmp_path / "out.onnx")
    assert sorted(contents(tmp_path)) == ["m.onnx"]


def test_a_tensor_that_fails_names_itself(tmp_path: Path) -> None:
    loaded, _ = read_model(summing(tensor("w")))

    def broken() -> ir.TensorProtocol:
        raise ValueError("the disk is gone")

    loaded.graph.initializers["w"].const_value = ir.LazyTensor(broken, ir.DataType.FLOAT, ir.Shape([500]), name="w")
    with pytest.raises(ModelError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert caught.value.what == "tensor 'w' cannot be read: the disk is gone"
    assert contents(tmp_path) == {}


def test_what_cannot_be_serialised_is_said() -> None:
    loaded, _ = read_model(summing(tensor("w")))
    loaded.graph.node(0).attributes["bad"] = ir.Attr("bad", ir.AttributeType.SPARSE_TENSOR, object())
    with pytest.raises(ModelError, match="the model cannot be serialised: Sparse tensors are not supported"):
        to_bytes(loaded)


def test_weights_of_a_loaded_model_never_pass_through_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, source = read_model(write(tmp_path / "m.onnx", summing(tensor("w"))))

    def read(self: FileTensor) -> None:
        raise AssertionError("a weight was read")

    for name in ("numpy", "tobytes", "view"):
        monkeypatch.setattr(FileTensor, name, read)
    for external in (False, True):
        write_model(loaded, tmp_path / "out.onnx", source=source, external=external)
