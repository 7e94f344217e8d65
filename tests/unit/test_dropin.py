"""`quantize_static` and `quantize_dynamic` as people call them who come from ONNX Runtime."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as theirs
import pytest
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType

import graphopt
from graphopt import DataError, UsageError, quantize_dynamic, quantize_static
from graphopt.dropin_options import dynamic_options, static_options
from graphopt.quant.saturation import EXACT, neighbours

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = FIXTURES / "models" / "residual_cnn.onnx"
VIT = FIXTURES / "models" / "vit.onnx"


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """As the examples of ONNX Runtime have it: four batches, then None, and never again."""

    def __init__(self) -> None:
        with np.load(FIXTURES / "data" / "digits_calib.npz") as arrays:
            images = arrays["image"][:128]
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"image": images[i : i + 32]} for i in (0, 32, 64, 96)])

    def get_next(self) -> Any:
        return next(self._batches, None)


def operators(path: Path) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load(path).graph.node)


def static(**given: Any) -> Any:
    """What the pass is asked for these arguments."""
    plain: dict[str, Any] = {
        "quant_format": "QDQ", "op_types": None, "per_channel": None, "reduce_range": None, "activation_type": None,
        "weight_type": None, "method": "MinMax", "providers": None, "extra": {}, "cache": None,
    }  # fmt: skip
    return static_options(**{**plain, **given})


def test_the_arguments_are_theirs_in_their_order() -> None:
    for mine, known in ((quantize_static, theirs.quantize_static), (quantize_dynamic, theirs.quantize_dynamic)):
        positional = [p.name for p in inspect.signature(mine).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert positional == list(inspect.signature(known).parameters)


def test_every_extra_option_that_they_document_is_known() -> None:
    documented = set(re.findall(r"^ {16}(\w[\w.]+) = ", theirs.quantize_static.__doc__ or "", re.MULTILINE))
    documented |= set(re.findall(r"^ {16}(\w[\w.]+) ?= ?True/False", theirs.quantize_static.__doc__ or "", re.MULTILINE))
    assert len(documented) > 20
    for name in documented:
        try:
            static(extra={name: None})
        except UsageError as error:
            assert "unknown extra option" not in error.what, name


def test_static(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    result = quantize_static(str(CNN), str(made), Reader())
    found = operators(made)
    assert (found["QuantizeLinear"], found["Conv"], found["Gemm"]) == (15, 9, 1)
    assert result.report.calibration == "data"
    assert result.verification is not None and result.verification.status == "ok"


def test_a_model_in_memory_and_the_enumerations(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    result = quantize_static(
        onnx.load(CNN), made, Reader(), QuantFormat.QDQ, ["Conv"], False, True, QuantType.QUInt8, QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile, extra_options={"CalibPercentile": 99.9},
    )  # fmt: skip
    (item,) = [item for item in result.report.passes if item.name == "quant"]
    for part in ("per-channel=false", "method=percentile", "percentile=99.9", "reduce-range=true"):
        assert part in item.spelling
    arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(made).graph.initializer]
    weights = [a for a in arrays if a.dtype == np.int8 and a.ndim == 4]
    assert len(weights) == 9 and all(neighbours(w.astype(np.float32), "Conv", 0).max() <= EXACT for w in weights)


def test_nodes_by_their_names_in_the_file_also_where_they_are_fused(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    names = [n.name for n in onnx.load(CNN).graph.node if n.op_type == "Conv"]
    result = quantize_static(CNN, made, Reader(), nodes_to_exclude=names[:2])
    assert "2 × float: its name was to be skipped" in _notes(result)
    result = quantize_static(CNN, made, Reader(), nodes_to_quantize=names[:2])
    assert "8 × float: its name is not among those asked for" in _notes(result)


def _notes(result: graphopt.Result) -> list[str]:
    return [note for item in result.report.passes for note in item.notes]


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    quantize_static(CNN, made, Reader(), use_external_data_format=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_operators_that_read_and_write_integers(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    quantize_static(CNN, made, Reader(), QuantFormat.QOperator)
    assert operators(made)["QLinearConv"] == 9


def test_dynamic(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    result = quantize_dynamic(VIT, made, weight_type=QuantType.QInt8)
    assert operators(made)["DynamicQuantizeMatMul"] >= 10
    assert result.verification is not None and result.verification.status == "ok"


def test_for_another_target(tmp_path: Path) -> None:
    made = tmp_path / "int8.onnx"
    quantize_static(CNN, made, Reader(), activation_type="QInt8", target="tensorrt")
    assert operators(made)["QuantizeLinear"] < 15
    with pytest.raises(UsageError, match="takes symmetric int8 only"):
        quantize_static(CNN, made, Reader(), activation_type="QUInt8", target="tensorrt")


def test_int8_activations_get_the_type_that_is_fast(tmp_path: Path) -> None:
    result = quantize_static(CNN, tmp_path / "int8.onnx", Reader(), activation_type=QuantType.QInt8)
    assert any("activations are uint8" in note for note in result.report.notes)


def test_an_empty_reader_and_none_at_all(tmp_path: Path) -> None:
    reader = Reader()
    while reader.get_next() is not None:
        pass
    made = tmp_path / "int8.onnx"
    with pytest.raises(DataError):
        quantize_static(CNN, made, reader)
    with pytest.raises(UsageError, match="no calibration data"):
        quantize_static(CNN, made)
    assert not made.exists()


def test_names_that_no_node_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no node is called so"):
        quantize_static(CNN, tmp_path / "int8.onnx", Reader(), nodes_to_exclude=["conv_that_is_not_there"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "Entropy"}, {"method": "entropy"}),
        ({"method": CalibrationMethod.Percentile}, {"method": "percentile", "percentile": 99.999}),
        ({"extra": {"CalibMovingAverage": True}}, {"method": "average"}),
        ({"quant_format": QuantFormat.QOperator}, {"method": "minmax", "format": "qoperator"}),
        ({"reduce_range": False}, {"method": "minmax", "reduce_range": "false"}),
        ({"op_types": ["MatMul", "Relu"]}, {"method": "minmax", "ops": ("Gemm", "MatMul")}),
        ({"extra": {"WeightSymmetric": True, "AddQDQPairToWeight": False}}, {"method": "minmax"}),
        ({"providers": ["CPUExecutionProvider"]}, {"method": "minmax"}),
        ({"method": None}, {}),
        ({"method": None, "extra": {"CalibMovingAverage": True}}, {"method": "average"}),
    ],
)
def test_what_is_asked_of_the_pass(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert static(**given).options == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quant_format": "QDX"}, "quant_format cannot be 'QDX'"),
        ({"weight_type": QuantType.QUInt8}, "weight_type cannot be uint8"),
        ({"weight_type": "int9"}, "weight_type cannot be 'int9'"),
        ({"activation_type": QuantType.QUInt16}, "activation_type cannot be uint16"),
        ({"activation_type": QuantType.QFLOAT8E4M3FN}, "activation_type cannot be float8e4m3fn"),
        ({"method": CalibrationMethod.Distribution}, "8-bit floats"),
        ({"method": "Median"}, "calibrate_method cannot be 'Median'"),
        ({"per_channel": 1}, "per_channel cannot be 1"),
        ({"op_types": ["Convolution"]}, "cannot have 'Convolution'"),
        ({"op_types": "Conv"}, "cannot be 'Conv'"),
        ({"op_types": ["Relu"]}, "no operator with an integer kernel"),
        ({"providers": ["CUDAExecutionProvider"]}, "calibration runs on the CPU"),
        ({"cache": "ranges.json"}, "calibration_cache_path is not read"),
        ({"extra": {"WeightSymetric": True}}, "unknown extra option 'WeightSymetric'"),
        ({"extra": {"WeightSymmetric": False}}, "symmetric weights only"),
        ({"extra": {"SmoothQuant": True}}, "'SmoothQuant'"),
        ({"extra": {"TensorQuantOverrides": {"x": [{}]}}}, "'TensorQuantOverrides'"),
        ({"extra": {"CalibPercentile": 99.0}}, "needs calibrate_method Percentile"),
        ({"method": "Entropy", "extra": {"CalibMovingAverage": True}}, "needs calibrate_method MinMax"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        static(**given)
    assert caught.value.hint


def test_dynamic_options() -> None:
    plain: dict[str, Any] = {"op_types": None, "per_channel": None, "reduce_range": None, "weight_type": None}
    assert dynamic_options(**plain, extra={"MatMulConstBOnly": True}).options == {"kind": "dynamic"}
    found = dynamic_options(**{**plain, "op_types": ["MatMul", "Conv"], "weight_type": "QUInt8"}, extra={})
    assert found.options == {"kind": "dynamic", "weight": "uint8", "ops": ("Gemm", "MatMul")}
    assert found.notes and "Conv" in found.notes[0]
    with pytest.raises(UsageError, match="weight_type cannot be int4"):
        dynamic_options(**{**plain, "weight_type": QuantType.QInt4}, extra={})
    with pytest.raises(UsageError, match="for calibration"):
        dynamic_options(**plain, extra={"CalibMovingAverage": True})
