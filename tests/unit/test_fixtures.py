"""The committed networks are what their README says, and the generators make what they promise."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODELS = ("residual_cnn", "depthwise_se", "vit", "bilstm")


def _script(name: str) -> ModuleType:
    """Import a file of `fixtures/`, which is a folder of scripts and no package."""
    spec = importlib.util.spec_from_file_location(f"fixtures_{name}", FIXTURES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks up its module there
    spec.loader.exec_module(module)
    return module


accuracy = _script("accuracy").accuracy
generate = _script("generate")


def _load(name: str) -> onnx.ModelProto:
    return onnx.load(FIXTURES / "models" / f"{name}.onnx")


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------------------------- trained networks


@pytest.mark.parametrize("name", MODELS)
def test_network_recognizes_held_out_digits(name: str) -> None:
    session = _session(FIXTURES / "models" / f"{name}.onnx")
    assert accuracy(lambda feeds: {"logits": session.run(["logits"], feeds)[0]}) >= 96.0


@pytest.mark.parametrize("name", MODELS)
def test_network_is_valid_small_and_has_the_common_signature(name: str) -> None:
    model = _load(name)
    onnx.checker.check_model(model, full_check=True)
    assert [(value.name, _shape(value)) for value in model.graph.input] == [("image", ["batch", 1, 8, 8])]
    assert [(value.name, _shape(value)) for value in model.graph.output] == [("logits", ["batch", 10])]
    assert (FIXTURES / "models" / f"{name}.onnx").stat().st_size < 600_000


@pytest.mark.parametrize("name", MODELS)
def test_network_names_no_file_of_the_machine_that_exported_it(name: str) -> None:
    data = (FIXTURES / "models" / f"{name}.onnx").read_bytes()
    for trace in ("stack_trace", "site-packages", '.py"', str(Path.home()), str(FIXTURES)):
        assert trace.encode() not in data


@pytest.mark.parametrize("name", ["residual_cnn", "depthwise_se"])
def test_batch_norm_is_not_folded_and_does_not_train(name: str) -> None:
    model = _load(name)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    assert len(norms) >= 9
    assert {producers[node.input[0]] for node in norms} == {"Conv"}
    assert all(len(node.output) == 1 for node in norms)
    assert not any(a.name == "training_mode" and a.i for node in norms for a in node.attribute)


def test_depthwise_se_has_depthwise_convolutions_gates_and_both_activations() -> None:
    model = _load("depthwise_se")
    groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group"]
    operators = _operators(model)
    assert sum(group > 1 for group in groups) == 4
    assert operators["HardSigmoid"] == 4 and operators["GlobalAveragePool"] == 5
    assert operators["HardSwish"] > 0 and operators["Sigmoid"] > 0


def test_vit_is_decomposed_at_an_opset_that_has_the_fused_operators() -> None:
    model = _load("vit")
    operators = _operators(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    assert not operators.keys() & {"LayerNormalization", "Gelu", "Attention", "RMSNormalization"}
    assert operators["Erf"] == operators["Softmax"] == 3  # one GELU and one attention in each layer
    assert operators["ReduceMean"] == 2 * operators["Sqrt"] == 14  # seven LayerNorms


def test_bilstm_reads_in_both_directions() -> None:
    lstms = [node for node in _load("bilstm").graph.node if node.op_type == "LSTM"]
    directions = [onnx.helper.get_node_attr_value(node, "direction") for node in lstms]
    assert directions == [b"bidirectional", b"bidirectional"]


def test_data_is_balanced_and_in_the_range_of_the_input() -> None:
    labels = np.load(FIXTURES / "data" / "digits_labels.npy")
    assert np.bincount(labels).tolist() == pytest.approx([45] * 10, abs=2)
    images = {}
    for name, count in (("digits_test", 450), ("digits_calib", 128)):
        with np.load(FIXTURES / "data" / f"{name}.npz") as arrays:
            assert arrays.files == ["image"]
            images[name] = arrays["image"]
        assert images[name].shape == (count, 1, 8, 8) and images[name].dtype == np.float32
        assert images[name].min() == 0.0 and images[name].max() == 1.0
    seen = {image.tobytes() for image in images["digits_calib"]}
    assert not any(image.tobytes() in seen for image in images["digits_test"])


def test_accuracy_counts_in_percent() -> None:
    labels = np.load(FIXTURES / "data" / "digits_labels.npy")
    assert accuracy(lambda _: {"logits": np.eye(10)[labels]}) == 100.0
    assert accuracy(lambda _: {"logits": np.eye(10)[(labels + 1) % 10]}) == 0.0


# ---------------------------------------------------------------------------------------- generated models


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("opset", [17, 20, 23])
def test_transformer_runs_and_is_decomposed(tmp_path: Path, opset: int, dynamic: bool) -> None:
    path = generate.transformer(tmp_path / "t.onnx", 2, layers=2, opset=opset, dynamic=dynamic)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    operators = _operators(model)
    assert operators["Erf"] == operators["Softmax"] == 2 and operators["Sqrt"] == 5
    assert ("Shape" in operators) == dynamic
    ids = np.random.default_rng(0).integers(0, 1024, (1, 128))
    hidden = _session(path).run(["hidden"], {"input_ids": ids})[0]
    assert hidden.shape == (1, 128, 128) and np.isfinite(hidden).all()
    assert hidden.std() == pytest.approx(1.0, abs=0.05)  # the last layer is a LayerNorm


def test_transformer_has_the_size_asked_for_and_repeats(tmp_path: Path) -> None:
    first = generate.transformer(tmp_path / "a.onnx", 20, layers=3)
    second = generate.transformer(tmp_path / "b.onnx", 20, layers=3)
    assert first.stat().st_size == pytest.approx(20e6, rel=0.25)
    assert first.read_bytes() == second.read_bytes()


def test_transformer_beyond_a_protobuf_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit into a protobuf, which ends at 2 GB"):
        generate.transformer(tmp_path / "t.onnx", 3000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", generate.KINDS)
def test_chain_has_exactly_the_nodes_asked_for_and_runs(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 4), dtype=np.float32)
    for nodes in (50, 501):
        model = generate.chain(nodes, kind)
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == nodes
        y = _session(model).run(["y"], {"x": x})[0]
        assert y.shape == x.shape and np.isfinite(y).all()


def test_chain_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no chain is of kind 'spiral'; there are plain, identity, "):
        generate.chain(10, "spiral")


def test_deep_and_wide_graphs_have_the_size_asked_for() -> None:
    assert len(generate.deep_chain(20_000).graph.node) == 20_000
    wide = generate.wide_concat(5_000)
    assert [len(node.input) for node in wide.graph.node if node.op_type == "Concat"] == [5_000]
    x = np.random.default_rng(0).standard_normal((2, 60), dtype=np.float32)
    y = _session(generate.wide_concat(60)).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(y, np.tanh(x), rtol=1e-5)
