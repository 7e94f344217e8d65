"""Packages: weights travel as places in files, are read once, and never taken from a file that changed."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import ModelError
from graphopt.runtime.compiled import optimized_graph
from graphopt.runtime.latency import latency
from graphopt.runtime.package import package
from graphopt.runtime.run import open_session, release_weights, run_model
from graphopt.runtime.weights import Store

WEIGHT = np.arange(4096, dtype=np.float32).reshape(64, 64) / 4096


def linear(path: Path, weight: np.ndarray = WEIGHT, *, bias: float = 1.0) -> ir.Model:
    """x @ weight + bias, the weight in a file of its own."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([bias]), "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return ir.load(path)


def test_weights_in_files_travel_as_places(tmp_path: Path) -> None:
    packed = package(linear(tmp_path / "m.onnx"))
    (weight,) = packed.weights
    assert (weight.name, weight.length, weight.path) == ("w", WEIGHT.nbytes, str(tmp_path / "m.onnx.data"))
    assert weight.data is None and len(packed.proto) < 1024 and packed.weight_bytes == WEIGHT.nbytes
    x = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    assert np.allclose(run_model(packed, {"x": x})["y"], x @ WEIGHT + 1, atol=1e-5)


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_weights_in_memory_travel_beside_the_pickle(tmp_path: Path, optimized: bool, repeated: bool) -> None:
    model = linear(tmp_path / "m.onnx")
    model.graph.initializers["w"].const_value = ir.tensor(WEIGHT * 2, name="w")
    packed = package(model)
    assert packed.weights[0].path is None and packed.weights[0].data is not None
    x = np.ones((2, 64), np.float32)
    with open_session(packed, optimized=optimized, repeated=repeated, threads=1) as session:
        for _ in range(2):
            assert np.allclose(session.run({"x": x})["y"], x @ (WEIGHT * 2) + 1, atol=1e-4)


def test_a_weight_is_read_once_for_several_packages(tmp_path: Path) -> None:
    store = Store()
    model = linear(tmp_path / "m.onnx")
    (first,) = store.load(package(model).weights)
    (second,) = store.load(package(ir.load(tmp_path / "m.onnx")).weights)
    assert second is first and first.ctypes.data % 64 == 0
    assert np.array_equal(first.view(np.float32), WEIGHT.ravel())
    store.load([])
    (third,) = store.load(package(model).weights)
    assert third is not first


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    packed = package(linear(tmp_path / "m.onnx"))
    run_model(packed, {"x": np.ones((1, 64), np.float32)})
    changed = package(linear(tmp_path / "m.onnx", WEIGHT + 1))
    release_weights()
    with pytest.raises(
        ModelError, match=r"m\.onnx\.data: the file changed while it was in use\n  load the model again"
    ):
        run_model(packed, {"x": np.ones((1, 64), np.float32)})
    found = run_model(changed, {"x": np.ones((1, 64), np.float32)})["y"]
    assert np.allclose(found, (WEIGHT + 1).sum(0) + 1, rtol=1e-5)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    model = linear(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(ModelError, match="the file ends 4 bytes before a weight does"):
        Store().load(package(model).weights)


def test_further_outputs_are_values_of_the_graph(tmp_path: Path) -> None:
    packed = package(linear(tmp_path / "m.onnx"), outputs=["xw", "y"])
    assert [port.name for port in packed.outputs] == ["y", "xw"]
    found = run_model(packed, {"x": np.ones((1, 64), np.float32)})
    assert np.allclose(found["y"], found["xw"] + 1)
    assert list(run_model(packed, {"x": np.ones((1, 64), np.float32)}, fetch=["xw"])) == ["xw"]


def test_big_constants_of_the_main_graph_become_weights() -> None:
    model = text(
        "c = Constant<value = float[300] {" + ",".join(["2"] * 300) + "}>() y = Mul(x, c)",
        "(float[300] x) => (float[300] y)",
    )
    packed = package(model)
    assert [weight.name for weight in packed.weights] == ["c"]
    assert run_model(packed, {"x": np.ones(300, np.float32)})["y"].tolist() == [2] * 300


def test_overridable_initializers_keep_their_default() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 3, opset_import: ["": 18]> g (float[2] x, float[2] w) => (float[2] y)'
        " <float[2] w = {3, 4}> { y = Mul(x, w) }"
    )
    packed = package(model)
    assert [port.name for port in packed.inputs] == ["x"]
    assert run_model(packed, {"x": np.ones(2, np.float32)})["y"].tolist() == [3, 4]


def test_what_a_file_claims_about_inner_values_is_not_believed() -> None:
    model = text("a = Neg(x) y = Neg(a)", "(float[2] x) => (float[2] y)")
    model.graph.node(0).outputs[0].type = ir.TensorType(ir.DataType.INT8)
    assert run_model(package(model), {"x": np.ones(2, np.float32)})["y"].tolist() == [1, 1]


def test_external_weights_inside_bodies_are_put_inline(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.full(512, 5, np.float32).tobytes())
    model = text(
        "y = If(c) <then_branch = t () => (float[512] a) <float[1] w = {0}> { a = Identity(w) },"
        " else_branch = e () => (float[512] b) { b = Neg(x) }>",
        "(bool c, float[512] x) => (float[512] y)",
    )
    body = model.graph.node(0).attributes["then_branch"].as_graph()
    body.initializers["w"].const_value = ir.ExternalTensor(
        "w.bin", 0, 2048, ir.DataType.FLOAT, shape=ir.Shape([512]), name="w", base_dir=tmp_path
    )
    body.initializers["w"].shape = ir.Shape([512])
    packed = package(model)
    assert packed.weights == () and len(packed.proto) > 2048
    feeds = {"c": np.array(True), "x": np.ones(512, np.float32)}
    assert run_model(packed, feeds)["y"].tolist() == [5] * 512


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_numpy_does_not_know(kind: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, kind))
    onnx_type = ir.DataType.from_numpy(dtype)
    x = ir.Value(name="x", type=ir.TensorType(onnx_type), shape=ir.Shape(["n"]))
    node = ir.node("Identity", [x], name="copy")
    node.outputs[0].name = "y"
    model = ir.Model(ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 21}, name="g"), ir_version=10)
    array = np.array([0.5, -2, 8], dtype)
    found = run_model(package(model), {"x": array})["y"]
    assert found.dtype == dtype and found.tobytes() == array.tobytes()


def test_packed_integers_reach_the_kernel() -> None:
    weight = np.arange(4096).astype(ml_dtypes.int4).reshape(64, 64)
    q = ir.Value(name="q", const_value=ir.tensor(weight, name="q"))
    scale = ir.Value(name="s", const_value=ir.tensor(np.float32(0.5), name="s"))
    node = ir.node("DequantizeLinear", [q, scale])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([], [node.outputs[0]], nodes=[node], initializers=[q, scale], opset_imports={"": 21}, name="g")
    packed = package(ir.Model(graph, ir_version=10))
    assert packed.weights[0].packed and packed.weights[0].length == 2048
    assert np.array_equal(run_model(packed, {})["y"], weight.astype(np.float32) / 2)


def test_strings_sequences_and_maps() -> None:
    split = text("y = SplitToSequence(x)", "(string[2] x) => (seq(string[n]) y)")
    found = run_model(package(split), {"x": np.array(["a", "ü"], object)})
    assert {name: array.tolist() for name, array in found.items()} == {"y[0]": ["a"], "y[1]": ["ü"]}


def test_the_compiled_graph_shows_what_the_runtime_fused(tmp_path: Path) -> None:
    graph = optimized_graph(package(linear(tmp_path / "m.onnx")))
    assert sum(graph.histogram.values()) == len(graph.nodes)
    assert graph.nodes[0].op in ("Gemm", "MatMul", "FusedGemm")
    assert graph.nodes[0].dtypes[:2] == ("FLOAT", "FLOAT")


def test_latency_times_models_side_by_side(tmp_path: Path) -> None:
    packed = package(linear(tmp_path / "m.onnx"))
    one, two = latency([packed, packed], {"x": np.ones((4, 64), np.float32)}, 0.1, threads=1)
    assert one.runs == two.runs >= 5
    assert 0 < one.low <= one.median <= one.high


def text(body: str, signature: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 9, opset_import: ["": 18]> g {signature} {{ {body} }}')


def test_texts_in_attributes_travel_like_other_constants() -> None:
    """`cleanup` makes initializers of Constants, and what they hold is bytes in a file."""
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 19]>
        g () => (string[2] y, string z) {
            a = Constant <value_strings = ["abc", "d"]> () y = Identity (a)
            b = Constant <value_string = "ü"> () z = Identity (b) }""")
    result = graphopt.optimize(graphopt.load(proto), "cleanup").model
    found = run_model(package(result.ir), {})
    assert found["y"].tolist() == ["abc", "d"] and found["z"].tolist() == "ü"


@pytest.mark.parametrize("optimized", [False, True])
def test_a_weight_that_nobody_reads_stays_behind(optimized: bool) -> None:
    model = text("y = Relu(x)", "(float[2] x) => (float[2] y)")
    spare = ir.Value(name="spare", const_value=ir.tensor(np.ones(1000, np.float32)))
    model.graph.register_initializer(spare)
    packed = package(model)
    assert not packed.weights
    with open_session(packed, optimized=optimized) as session:
        assert session.run({"x": np.array([-1, 1], np.float32)})["y"].tolist() == [0, 1]
