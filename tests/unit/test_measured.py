"""What a target has against rewrites: reasons in its file, measurements, and how both are heeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from onnx import parser

import graphopt
from graphopt.engine.registry import usable_passes
from graphopt.errors import UsageError
from graphopt.targets.measured import Measured, read_measured, slowest
from graphopt.targets.target import load_target

SIGMOID = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2] x) => (float[N, 2] y) { s = Sigmoid(x) y = Mul(x, s) }'
SHARED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
  <int8[2, 2] w = {1, 2, 3, 4}, int8[2, 2] v = {1, 2, 3, 4}, float s = {0.5}, float r = {0.5}>
  { a = DequantizeLinear(w, s)  b = DequantizeLinear(v, r)  y = MatMul(x, a)  z = MatMul(x, b) }"""


def rewrites(target: graphopt.Target, text: str = SIGMOID, passes: str = "O3") -> set[str]:
    result = graphopt.optimize(parser.parse_model(text), passes, target=target)
    return {entry.rule for entry in result.journal.entries}


def declined(target: graphopt.Target) -> list[str]:
    result = graphopt.optimize(parser.parse_model(SIGMOID), "O3", target=target)
    return [r for item in result.report.passes for r in item.declined.get("contrib.quick_gelu", ())]


def test_slower_beyond_noise() -> None:
    cases = (Measured("a", 1.31, 1.2, 1.4), Measured("b", 2.0, 0.9, 3.0), Measured("c", 1.02, 1.01, 1.03))
    assert [c.slower for c in cases] == [True, False, False]
    assert slowest(cases) == cases[0] and slowest(cases[1:]) is None


def test_a_slower_rule_declines_with_the_ratio_where_it_matches() -> None:
    target = load_target("ort-cpu")
    assert "contrib.quick_gelu" in rewrites(target)
    slow = replace(target, measured={"contrib.quick_gelu": (Measured("2×2", 1.31, 1.2, 1.4),)})
    assert "contrib.quick_gelu" not in rewrites(slow)
    assert declined(slow) == ["measured slower on ort-cpu: 1.31x for 2×2"]


def test_what_a_target_avoids_is_said_and_may_be_a_pattern() -> None:
    target = replace(load_target("ort-cpu"), avoid={"contrib.quick*": "the accelerator does not like it"})
    assert declined(target) == ["the accelerator does not like it"]
    assert target.objection("contrib.gelu") is None


def test_whole_graph_rewrites_heed_it_too() -> None:
    assert "cleanup.duplicate_constant" in rewrites(load_target("onnx"), SHARED, "cleanup")
    target = replace(load_target("onnx"), avoid={"cleanup.duplicate_constant": "no"})
    assert "cleanup.duplicate_constant" not in rewrites(target, SHARED, "cleanup")


def test_tensorrt_keeps_quantized_weights_apart() -> None:
    assert rewrites(load_target("onnx"), SHARED) >= {"cleanup.duplicate_constant", "cleanup.common_subexpression"}
    for name in ("tensorrt", "tensorrt-rtx"):
        made = rewrites(load_target(name), SHARED)
        assert not made & {"cleanup.duplicate_constant", "cleanup.common_subexpression"}
        assert load_target(name).objection("fuse.parallel_matmul")


def test_every_name_in_the_files_is_that_of_a_rewrite() -> None:
    known = {f"{kind.name}.{rule.name}" for kind in usable_passes() for rule in kind.rules()}
    known |= {name for kind in usable_passes() for name in kind.rewrites}
    for name in ("ort-cpu", "ort-cuda", "tensorrt", "tensorrt-rtx"):
        target = load_target(name)
        assert {*target.avoid, *target.measured} <= known


def test_every_contributed_operator_was_measured() -> None:
    (kind,) = (kind for kind in usable_passes() if kind.name == "contrib")
    assert {f"contrib.{rule.name}" for rule in kind.rules()} <= set(load_target("ort-cpu").measured)


@pytest.mark.parametrize("text", ["rules = 3", "[rules.x]", '[rules.x]\ncases = [{ case = "a" }]', "rules = "])
def test_files_that_are_no_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="no table of measurements"):
        read_measured(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_measured(tmp_path / "none.toml")


def test_contributed_operators_have_types() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
      g (float[B, K, M] a, float[B, K, N] b, float[1, 2, 8, 9] x, float[3, 2, 3, 3] w) => (float[B, M, N] y, float[1, 3, 3, 4] z)
      { y = com.microsoft.FusedMatMul<transA = 1>(a, b)
        c = com.microsoft.FusedConv<strides = [2, 2], activation = "Relu">(x, w)  z = Relu(c)  q = com.microsoft.QuickGelu(c) }"""
    model = graphopt.load(parser.parse_model(text))
    shapes = {node.op: node.outputs[0].shape for node in model.main.nodes}
    assert shapes["FusedConv"] == shapes["QuickGelu"] == (1, 3, 3, 4)
    assert [str(size) for size in shapes["FusedMatMul"] or ()] == ["B", "M", "N"]


def test_quantization_of_contributed_operators_has_types() -> None:
    """Before opset 13 these are the ones that have an axis; without their types a second run knows less."""
    text = """<ir_version: 8, opset_import: ["" : 11, "com.microsoft" : 1]>
      g (float[B, 3] x, float[3] scale, uint8[3] zero) => (float[B, 3] y)
      { q = com.microsoft.QuantizeLinear<axis = 1>(x, scale, zero)
        d = com.microsoft.DequantizeLinear<axis = 1>(q, scale, zero)  y = Relu(d) }"""
    quantized, plain, _ = graphopt.load(parser.parse_model(text)).main.nodes
    for node, dtype in ((quantized, "UINT8"), (plain, "FLOAT")):
        (value,) = node.outputs
        assert value.dtype is not None and value.dtype.name == dtype
        assert [str(size) for size in value.shape or ()] == ["B", "3"]


def test_initializers_of_ir_3_count_for_shapes() -> None:
    text = """<ir_version: 3, opset_import: ["" : 7]> g (float[1, 1, 4, 4] x) => (float[1, 2, 3, 3] y)
      <float[2, 1, 2, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { c = Conv(x, w)  y = Relu(c) }"""
    (conv, _) = graphopt.load(parser.parse_model(text)).main.nodes
    assert conv.outputs[0].shape == (1, 2, 3, 3)
