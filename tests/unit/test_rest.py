"""Half precision for what quantization leaves float: one type throughout, and integers as they were."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import QuantOptions
from tests.unit.placing import net, samples

CNN = "fixtures/models/residual_cnn.onnx"
DATA = "fixtures/data/digits_calib.npz"
W = {"w": (16, 16, 3, 3), "v": (16, 16, 3, 3), "b": (16,)}
BODY = "c = Conv(x, w, b) r = Relu(c) d = Conv(r, v, b) y = Relu(d)"


def small(weights: dict[str, object] | None = None, opset: int = 17) -> Model:
    return net(BODY, "float[1,16,12,12] x", "y", {**W, **(weights or {})}, opset=opset)  # type: ignore[arg-type]


def optimized(m: Model, passes: str = "quant", target: str = "tensorrt-rtx", **more: object) -> Model:
    data = to_bytes(m.ir)
    done = graphopt.optimize(data, passes, target=target, data=samples(m), **more)  # type: ignore[call-overload]
    NOTES[:] = [note for item in done.report.passes for note in item.notes]
    return Model(*read_model(done.model))


NOTES: list[str] = []


def types(m: Model, op: str) -> set[str]:
    return {str(v.dtype.name) for n in m.main.find(op) for v in (*n.inputs, *n.outputs) if v is not None and v.dtype}


def test_everything_between_the_casts_at_the_ends_is_half() -> None:
    m = optimized(small())
    ops = Counter(n.op for n in m.main.nodes)
    assert ops == {"Cast": 2, "QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 2, "Relu": 2}
    assert types(m, "Conv") == types(m, "Relu") == {"FLOAT16"}
    assert types(m, "QuantizeLinear") == types(m, "DequantizeLinear") == {"FLOAT16", "INT8"}
    assert [v.dtype.name for v in (*m.main.inputs, *m.main.outputs) if v.dtype] == ["FLOAT", "FLOAT"]
    assert m.opset() == 19


def test_integers_of_weights_are_those_of_float32() -> None:
    def stored(rest: str) -> dict[str, np.ndarray]:
        m = optimized(small(), f"quant{{rest={rest}}}")
        return {v.name: v.array() for v in m.main.initializers if v.name.endswith("_int8")}

    half, full = stored("float16"), stored("float32")
    assert set(half) == set(full) == {"w_int8", "v_int8"}
    assert all((half[name] == full[name]).all() for name in full)


def test_scales_that_a_half_cannot_hold_stay_float32_with_a_cast_behind() -> None:
    weight = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32) * 1e-6
    m = optimized(small({"v": weight}))
    kept = [n for n in m.main.find("DequantizeLinear") if n.outputs[0].dtype.name == "FLOAT"]
    assert len(kept) == 1 and kept[0].outputs[0].uses()[0][0].op == "Cast"
    assert "1 × float32: its scales are beyond float16" in NOTES


def test_numbers_that_a_half_cannot_hold_stay_float32() -> None:
    weight = np.full((16, 16, 3, 3), 5000.0, np.float32)
    m = optimized(small({"w": weight}))
    assert "FLOAT" in types(m, "Conv")


def test_the_rest_can_be_left_alone() -> None:
    for passes, more in (("quant{rest=float32}", {}), ("quant", {"ignore": ("quant.rest",)})):
        m = optimized(small(), passes, **more)
        assert not list(m.main.find("Cast")) and types(m, "Conv") == {"FLOAT"}


def test_other_targets_keep_float32_unless_asked() -> None:
    m = optimized(small(), target="ort-cpu")
    assert types(m, "Relu") <= {"FLOAT"}


def test_a_model_without_anything_to_quantize_stays_float32() -> None:
    m = net("y = Relu(x)", "float[1,4] x", "y", {})
    assert not list(optimized(m).main.find("Cast"))


def test_bfloat16_needs_opset_22_for_convolutions() -> None:
    m = optimized(small(), "quant{rest=bfloat16}", verify=False)
    assert m.opset() == 22 and types(m, "Conv") == {"BFLOAT16"}


def test_a_precision_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"quant\.rest cannot be 'float8'"):
        QuantOptions(rest="float8").check()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra [tensorrt] is not installed")
def test_a_trained_net_builds(tmp_path: Path) -> None:
    done = graphopt.optimize(CNN, "fuse,quant", target="tensorrt-rtx", data=DATA)
    assert Counter(n.op for n in done.model.main.nodes)["Cast"] == 2
    done.save(tmp_path / "net.engine", sm=(86,))
    assert (tmp_path / "net.engine").stat().st_size > 10_000
