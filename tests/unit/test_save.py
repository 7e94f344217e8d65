"""A saved model is what was loaded, and a save that fails leaves the old file as it was."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import ModelError, UsageError
from graphopt.ir import files, save
from graphopt.ir.load import read_model
from graphopt.ir.save import WEIGHTS, skeleton, to_bytes, write_model
from graphopt.ir.tensors import FileTensor

FLOAT = onnx.TensorProto.FLOAT
UNTOUCHED = "the previous file is untouched"


def value(name: str, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def tensor(name: str, count: int = 500, start: int = 0) -> onnx.TensorProto:
    return numpy_helper.from_array(np.arange(start, start + count, dtype=np.float32), name)


def simple(*initializers: onnx.TensorProto) -> onnx.ModelProto:
    names = [item.name for item in initializers]
    node = helper.make_node("Sum", ["x", *names], ["y"], name="sum")
    graph = helper.make_graph([node], "g", [value("x", ["n"])], [value("y", ["n"])], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rich() -> onnx.ModelProto:
    """A model with everything in it that a save has to keep."""
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "inner"], ["b"])], "body", [], [value("b")], [tensor("inner")]
    )
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
    strings = onnx.TensorProto(name="text", data_type=onnx.TensorProto.STRING, dims=[2], string_data=[b"a", b"\xff"])
    large = onnx.TensorProto(name="large", data_type=FLOAT, dims=[600], float_data=[1.5] * 600)
    scales = numpy_helper.from_array(np.ones(1, np.float32), "scales")
    initializers = [tensor("w"), typed, half, strings, large, scales]
    inputs = [value("cond"), value("w", [500])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["n", 3, None])]
    infos = [helper.make_tensor_value_info("s", FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers, "a graph", infos)
    annotation = graph.quantization_annotation.add(tensor_name="s")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scales")
    opset = [helper.make_opsetid("", 18)]
    inside = helper.make_node("Add", ["p", "k"], ["q"])
    function = helper.make_function("mine", "Relu", ["p"], ["q"], [constant, inside], opset, ["alpha"])
    function.attribute_proto.append(helper.make_attribute("beta", 2.0))
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
    for owner in (proto, graph, nodes[0], infos[0], function, proto.graph.initializer[1]):
        owner.metadata_props.add(key="owner", value="kept")
    proto.graph.CopyFrom(graph)
    proto.graph.node[0].metadata_props.add(key="owner", value="kept")
    proto.graph.initializer[1].metadata_props.add(key="owner", value="kept")
    return proto


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def floats(model: ir.Model, name: str = "w") -> list[float]:
    const = model.graph.initializers[name].const_value
    assert const is not None
    found: list[float] = const.numpy().tolist()
    return found


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
    proto = simple(tensor("w"))
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
    proto = simple(*[tensor(f"w{size}", size) for size in sizes])
    loaded, source = read_model(write(tmp_path / "m.onnx", proto))
    write_model(loaded, tmp_path / "out.onnx", source=source)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


# Where the weights go


def test_kept_as_it_was_unless_asked(tmp_path: Path) -> None:
    loaded, inline = read_model(write(tmp_path / "m.onnx", simple(tensor("w"), tensor("small", 4))))
    assert write_model(loaded, tmp_path / "a.onnx").data_bytes == 0
    assert write_model(loaded, tmp_path / "b.onnx", source=inline).data_bytes == 0
    written = write_model(loaded, tmp_path / "c.onnx", source=inline, external=True)
    assert written.data_bytes == 2000
    assert written.files == (tmp_path / "c.onnx", tmp_path / "c.onnx.data")
    loaded, external = read_model(tmp_path / "c.onnx")
    assert write_model(loaded, tmp_path / "d.onnx", source=external).data_bytes == 2000
    assert write_model(loaded, tmp_path / "e.onnx", source=external, external=False).data_bytes == 0
    assert floats(read_model(tmp_path / "d.onnx")[0])[-1] == 499


def test_external_data_can_be_moved_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_model(read_model(simple(tensor("w")))[0], tmp_path / "a/m.onnx", external=True)
    loaded, source = read_model(tmp_path / "a/m.onnx")
    write_model(loaded, tmp_path / "b/m.onnx", source=source)
    (tmp_path / "a/m.onnx.data").unlink()
    assert floats(read_model(tmp_path / "b/m.onnx")[0])[-1] == 499


def test_external_data_is_aligned_and_shared_once(tmp_path: Path) -> None:
    loaded, _ = read_model(simple(tensor("a"), tensor("b", 300_000), tensor("c", 257), tensor("d")))
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
    loaded, _ = read_model(simple(tensor("w")))
    size = len(to_bytes(loaded))
    monkeypatch.setattr(save, "LIMIT", 100)
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert caught.value.what == "the model's structure alone has 136 bytes"
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
    proto = simple(onnx.TensorProto(name="w", data_type=FLOAT, dims=[size // 4]))
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
    loaded, source = read_model(write(tmp_path / "m.onnx", simple(tensor("w"))))
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
    onnx.save_model(simple(tensor("w")), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin")
    for made in (ir.serde.deserialize_model(simple(tensor("w"))), ir.load(tmp_path / "m.onnx")):
        write_model(made, tmp_path / "out.onnx")
        assert floats(read_model(tmp_path / "out.onnx")[0])[-1] == 499
        assert to_bytes(made) == (tmp_path / "out.onnx").read_bytes()
        assert skeleton(made).ByteSize() < 400


def test_metadata_of_tensors_does_not_multiply(tmp_path: Path) -> None:
    proto = simple(tensor("w", 4))
    proto.graph.initializer[0].metadata_props.add(key="k", value="v")
    for _ in range(3):
        proto = onnx.ModelProto.FromString(to_bytes(read_model(proto)[0]))
    assert len(proto.graph.initializer[0].metadata_props) == 1


def test_a_skeleton_reads_no_weight(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", simple(tensor("w", 500), tensor("small", 4)))
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
    assert inferred.graph.output[0].type.tensor_type.HasField("shape")
    with pytest.raises(ModelError, match="became shorter while it was in use"):
        write_model(loaded, tmp_path / "out.onnx")
    assert sorted(contents(tmp_path)) == ["m.onnx"]


# Replacing files


def test_in_place(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", simple(tensor("w"), tensor("v")))
    for _ in range(2):
        loaded, source = read_model(path)
        loaded.graph.initializers["v"].const_value = ir.Tensor(np.full(500, 7, np.float32))
        write_model(loaded, path, source=source)
        assert floats(loaded)[-1] == 499  # the open file still has the old weights
    again, _ = read_model(path)
    assert (floats(again)[-1], floats(again, "v")[-1]) == (499, 7)
    assert sorted(contents(tmp_path)) == ["m.onnx"]


def test_in_place_with_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(simple(tensor("w")))[0], path, external=True)
    for expected in ("m.onnx.1.data", "m.onnx.data", "m.onnx.1.data"):
        loaded, source = read_model(path)
        write_model(loaded, path, source=source)
        assert sorted(contents(tmp_path)) == sorted(["m.onnx", expected])
        assert floats(loaded)[-1] == floats(read_model(path)[0])[-1] == 499
    loaded, source = read_model(path)
    write_model(loaded, path, source=source, external=False)
    assert sorted(contents(tmp_path)) == ["m.onnx"]


def test_data_files_of_others_are_left_alone(tmp_path: Path) -> None:
    onnx.save_model(simple(tensor("w")), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin")
    (tmp_path / "m.onnx.data").write_bytes(b"somebody's")
    loaded, source = read_model(tmp_path / "m.onnx")
    write_model(loaded, tmp_path / "m.onnx", source=source)
    assert sorted(contents(tmp_path)) == ["m.onnx", "m.onnx.1.data", "m.onnx.data", "w.bin"]
    assert (tmp_path / "m.onnx.data").read_bytes() == b"somebody's"


def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    loaded, _ = read_model(simple(tensor("w")))
    path = tmp_path / "m.onnx"
    write_model(loaded, path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    write_model(loaded, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_links_are_written_through(tmp_path: Path) -> None:
    loaded, _ = read_model(simple(tensor("w")))
    (tmp_path / "far").mkdir()
    (tmp_path / "link.onnx").symlink_to("far/real.onnx")
    for _ in range(2):
        write_model(loaded, tmp_path / "link.onnx")
        assert (tmp_path / "link.onnx").is_symlink()
        assert floats(read_model(tmp_path / "far/real.onnx")[0])[-1] == 499
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "link.onnx", external=True)
    assert str(caught.value) == (
        f"{tmp_path / 'link.onnx'}: external data cannot be saved through a link to another folder: "
        f"it would not be found\n  save to {tmp_path / 'far/real.onnx'}"
    )


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    loaded, _ = read_model(simple(tensor("w")))
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for path, what in [
        (tmp_path, "it is a directory"),
        (tmp_path / "no/m.onnx", "its folder does not exist"),
        (tmp_path / "file/m.onnx", "its folder is a file"),
        (tmp_path / "pipe", "it is not a regular file"),
        (Path("/dev/null"), "it is not a regular file"),
    ]:
        with pytest.raises(UsageError) as caught:
            write_model(loaded, path)
        assert caught.value.what == f"cannot be written: {what}"
        assert caught.value.where == str(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


# Failures on the way


def failing(code: int, after: int) -> Any:
    """A stand-in for os.write that fails after some bytes."""
    real, done = os.write, [0]

    def write_some(fd: int, data: Any) -> int:
        done[0] += len(data)
        if done[0] > after:
            raise OSError(code, os.strerror(code))
        return real(fd, data)

    return write_some


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("after", [0, 100, 2050])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, external: bool
) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(simple(tensor("w")))[0], path, external=external)
    before = contents(tmp_path)
    loaded, source = read_model(path)
    loaded.graph.initializers["w"].const_value = ir.Tensor(np.ones(500, np.float32))
    monkeypatch.setattr(files.os, "write", failing(errno.ENOSPC, after))
    with pytest.raises(UsageError) as caught:
        write_model(loaded, path, source=source)
    assert caught.value.what == "cannot be written: No space left on device"
    assert caught.value.hint == f"make room in {tmp_path}, or write to another disk; {UNTOUCHED}"
    assert contents(tmp_path) == before


def test_a_full_disk_while_the_kernel_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx", simple(tensor("w")))
    before = contents(tmp_path)
    loaded, source = read_model(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "copy_file_range", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_model(loaded, path, source=source)
    assert contents(tmp_path) == before


def test_without_kernel_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx", simple(tensor("w", 700_000)))

    def refused(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    loaded, source = read_model(path)
    monkeypatch.setattr(files.os, "copy_file_range", refused)
    write_model(loaded, tmp_path / "a.onnx", source=source)
    monkeypatch.delattr(files.os, "copy_file_range")
    write_model(loaded, tmp_path / "b.onnx", source=source)
    assert len(set(contents(tmp_path).values())) == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    loaded, _ = read_model(simple(tensor("w")))

    def denied(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: cannot be written: {os.strerror(code)}\n"
        f"  check the permissions of {tmp_path}, or write elsewhere"
    )


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("step", ["write", "finish", "commit"])
def test_an_interrupt_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, external: bool
) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(simple(tensor("w")))[0], path, external=external)
    before = contents(tmp_path)
    loaded, source = read_model(path)
    real, calls = getattr(files.Replacement, step), [0]
    last = 2 if external and step != "write" else 1  # the call that is about the model file

    def interrupted(self: files.Replacement, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == last:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(files.Replacement, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(loaded, path, source=source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("external", [False, True])
def test_a_kill_at_any_system_call_leaves_a_complete_model(tmp_path: Path, external: bool) -> None:
    """A child process saves in place and dies at its n-th call that changes the disk."""
    path = tmp_path / "m.onnx"
    initial, _ = read_model(simple(tensor("w"), tensor("v")))
    outcomes = set()
    for stop in range(1, 30):
        write_model(initial, path, external=external)
        code = save_and_die(path, stop)
        again, _ = read_model(path)
        assert floats(again)[-1] == 499
        outcomes.add(floats(again, "v")[-1])
        for left in tmp_path.iterdir():
            left.unlink()
        if code == 0:
            break
        assert code == 9
    assert code == 0
    assert outcomes == {499, 7}


def save_and_die(path: Path, stop: int) -> int:
    """Change the model in place in a forked process; it exits with 9 just before system call number `stop`."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def watched(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                os._exit(9)
            return real(*args, **kwargs)

        return call

    try:
        loaded, source = read_model(path)
        loaded.graph.initializers["v"].const_value = ir.Tensor(np.full(500, 7, np.float32))
        for name in ("open", "write", "copy_file_range", "ftruncate", "fsync", "close"):
            setattr(files.os, name, watched(getattr(os, name)))
        for name in ("replace", "unlink"):
            setattr(files.Path, name, watched(getattr(Path, name)))
        write_model(loaded, path, source=source)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_file_size_limit_is_like_a_full_disk(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", simple(tensor("w", 50_000)))
    script = """
import resource, sys
from graphopt.errors import UsageError
from graphopt.ir.load import read_model
from graphopt.ir.save import write_model
loaded, source = read_model(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_model(loaded, sys.argv[1], source=source)
except UsageError as error:
    print(error.what)
"""
    before = contents(tmp_path)
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.onnx")], capture_output=True, check=True)
    assert run.stdout.decode() == "cannot be written: File too large\n"
    assert contents(tmp_path) == before


def test_a_tensor_that_fails_names_itself(tmp_path: Path) -> None:
    loaded, _ = read_model(simple(tensor("w")))

    def broken() -> ir.TensorProtocol:
        raise ValueError("the disk is gone")

    loaded.graph.initializers["w"].const_value = ir.LazyTensor(broken, ir.DataType.FLOAT, ir.Shape([500]), name="w")
    with pytest.raises(ModelError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert caught.value.what == "tensor 'w' cannot be read: the disk is gone"
    assert contents(tmp_path) == {}


def test_what_cannot_be_serialised_is_said() -> None:
    loaded, _ = read_model(simple(tensor("w")))
    loaded.graph.node(0).attributes["bad"] = ir.Attr("bad", ir.AttributeType.SPARSE_TENSOR, object())
    with pytest.raises(ModelError, match="the model cannot be serialised: Sparse tensors are not supported"):
        to_bytes(loaded)


def test_weights_of_a_loaded_model_never_pass_through_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, source = read_model(write(tmp_path / "m.onnx", simple(tensor("w"))))

    def read(self: FileTensor) -> None:
        raise AssertionError("a weight was read")

    for name in ("numpy", "tobytes", "view"):
        monkeypatch.setattr(FileTensor, name, read)
    for external in (False, True):
        write_model(loaded, tmp_path / "out.onnx", source=source, external=external)
