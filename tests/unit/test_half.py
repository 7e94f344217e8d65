"""Half precision, with float32 where it is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from tests.rules.helpers import build, weight

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
MLP = "(float[N,8] x) => (float[N,4] y)"


def converted(model: Any, options: str = "", **more: Any) -> tuple[onnx.ModelProto, list[str], Any]:
    """The result, its notes, and the report."""
    result = graphopt.optimize(model, f"half{{{options}}}" if options else "half", as_="proto", **more)
    return result.model, notes_of(result.report), result.report


def notes_of(report: Any) -> list[str]:
    return [note for summary in report.passes for note in summary.notes]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def dtypes(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def mlp(**more: Any) -> onnx.ModelProto:
    return build(MLP, "a = MatMul(x, w) b = Tanh(a) y = MatMul(b, v)", w=weight(8, 8), v=weight(8, 4, seed=1), **more)


def test_all_of_a_network_is_half_and_its_interface_is_not() -> None:
    model, notes, report = converted(mlp())
    assert operators(model) == {"Cast": 2, "MatMul": 2, "Tanh": 1}
    assert dtypes(model) == {onnx.TensorProto.FLOAT16}
    kinds = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert report.verification.status == "ok"
    assert any("3 nodes in float16" in note for note in notes)


@pytest.mark.parametrize("name", ["residual_cnn", "vit"])
def test_trained_networks_shrink_by_half(name: str) -> None:
    data = Path(__file__).parents[2] / "fixtures/data/digits_calib.npz"
    _, _, report = converted(MODELS / f"{name}.onnx", data=data)
    assert report.after.weight_bytes < 0.56 * report.before.weight_bytes
    assert report.verification.status == "ok"


def test_what_does_not_fit_stays_float32() -> None:
    big = build(MLP, "a = Mul(x, k) b = Exp(a) c = Log(b) y = MatMul(c, v)", k=np.float32(1), v=weight(8, 4))
    data = [{"x": np.full((2, 8), 12, np.float32)}]  # exp(12) is beyond the largest float16
    model, notes, _ = converted(big, data=data)
    assert operators(model)["Exp"] == 1
    assert any("reaches 1.63e+05" in note for note in notes)
    cast_of_exp = [n for n in model.graph.node if n.op_type == "Cast"]
    assert cast_of_exp, "the MatMul behind it computes in half precision"


def test_constants_that_overflow_stay_float32() -> None:
    model = build("(float[N,8] x) => (float[N,8] y)", "a = Mul(x, k) y = Div(a, m)", k=np.float32(1e6), m=weight(8) + 9)
    result, notes, _ = converted(model, data=[{"x": np.full((2, 8), 1e-6, np.float32)}])
    assert any("reaches 1e+06" in note or "reaches 5e+05" in note for note in notes)
    assert all(np.isfinite(onnx.numpy_helper.to_array(t)).all() for t in result.graph.initializer)


def test_noise_is_kept_out_by_islands() -> None:
    # What is left of the difference of nearly equal numbers is noise in half precision.
    body = "a = Add(x, k) b = Sub(a, k) c = Mul(b, w) y = Tanh(c)"
    model = build("(float[N,8] x) => (float[N,8] y)", body, k=np.float32(300.1), w=weight(8))
    rng = np.random.default_rng(3)
    data = [{"x": rng.standard_normal((16, 8)).astype(np.float32)} for _ in range(2)]
    result = graphopt.optimize(model, ["half{snr=40}"], data=data, as_="proto", accuracy="exact", ignore=["fuse.*", "simplify.*"])
    notes = notes_of(result.report)
    assert any("too much noise" in note for note in notes), notes
    assert result.report.verification.outputs[0].snr > 35
    assert any("nodes in float16" in note and not note.startswith("half: 0") for note in notes)


def test_skipped_nodes_stay() -> None:
    model = mlp()
    for i, node in enumerate(model.graph.node):
        node.name = f"/layer{i}"
    result, notes, _ = converted(model, "skip=/layer1")
    assert operators(result)["Cast"] == 4
    assert any("1 × float32: it was left out" in note for note in notes)


def test_values_that_both_read_are_cast_once() -> None:
    model = build("(float[N,8] x) => (float[N,4] y, float[N,8] z)", "a = MatMul(x, w) y = MatMul(a, v) z = Tanh(a) ",
                  w=weight(8, 8), v=weight(8, 4, seed=1))  # fmt: skip
    result, _, _ = converted(model)
    assert operators(result)["Cast"] == 3  # of x, y and z


def test_integers_and_bodies_are_left_alone() -> None:
    body = """i = ArgMax <axis = 1, keepdims = 0> (x)
              y = If (c) <then_branch = t () => (float[N,8] p) { p = Neg(x) }, else_branch = e () => (float[N,8] q) { q = Relu(x) }>
              z = Tanh(y)"""
    model = build("(float[N,8] x, bool c) => (float[N,8] z, int64[N] i)", body)
    result, notes, report = converted(model)
    assert report.verification.status == "ok"
    assert any("it has a body" in note for note in notes)
    assert operators(result)["If"] == 1


def test_bfloat16_rounds_more_and_says_so() -> None:
    model = mlp()
    result = graphopt.optimize(model, "half{dtype=bfloat16}", as_="proto", verify=False)
    assert dtypes(result.model) == {onnx.TensorProto.BFLOAT16}
    assert any("nodes in bfloat16" in note for note in notes_of(result.report))


def test_an_impossible_goal_leaves_all_in_float32() -> None:
    result, notes, _ = converted(mlp(), "snr=500")
    assert dtypes(result) == {onnx.TensorProto.FLOAT} and "Cast" not in operators(result)
    assert any("0 nodes in float16" in note for note in notes)


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(graphopt.UsageError, match="dtype"):
        converted(mlp(), "dtype=float8")
