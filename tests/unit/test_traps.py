"""What breaks other tools: each a model that must come out right, small, and soon, or be refused clearly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from tests.unit.engine import ops

F = np.float32
HUGE = 2**62


def build(body: str, signature: str = "(float[4] x) => (float[4] y)", opset: int = 20, **constants: Any) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return model


def optimized(model: onnx.ModelProto, passes: str = "O2", **options: Any) -> graphopt.Result:
    return graphopt.optimize(model, passes, as_="model", **options)


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize(("a", "b"), [(-(2**31), -1), (7, 0)])
def test_integer_division_never_kills(op: str, a: int, b: int) -> None:
    """ONNX Runtime dies of SIGFPE at these operands, folding or running."""
    model = build(f"c = {op}(a, b) y = Add(x, c)", "(int32[1] x) => (int32[1] y)",
                  a=np.array([a], np.int32), b=np.array([b], np.int32))
    result = optimized(model)
    assert [n.op for n in result.model.main.nodes] == [op, "Add"]
    assert result.verification is not None
    assert result.verification.status in ("ok", "skipped")


BOMBS = {
    "ConstantOfShape": "b = ConstantOfShape(n)",
    "Expand": "b = Expand(one, n)",
    "Tile": "o = Reshape(one, ones1) b = Tile(o, n)",
    "Pad": "o = Reshape(one, ones1) z = Constant<value_ints = [0]>() p = Concat<axis=0>(z, n) b = Pad(o, p)",
    "Resize": "o = Reshape(one, ones3) b = Resize(o, , , sizes)",
    "Range": "zero = Constant<value_int = 0>() step = Constant<value_int = 1>() r = Range(zero, last, step) "
             "b = Cast<to = 1>(r)",
}  # fmt: skip
CONSTANTS = {
    "n": np.array([HUGE]), "one": np.array(1, F), "ones1": np.array([1]), "ones3": np.array([1, 1, 1]),
    "sizes": np.array([1, 1, HUGE]), "last": np.array(HUGE),
}  # fmt: skip


@pytest.mark.parametrize("live", [True, False], ids=["live", "in a branch never taken"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_model_cannot_become_a_large_one(name: str, live: bool, tmp_path: Path) -> None:
    bomb = f"{BOMBS[name]} t = ReduceSum<keepdims = 0>(b) "
    if live:
        body = f"{bomb} y = Add(x, t)"
    else:
        no = "no = Constant<value = bool {0}>()"
        body = (f"{no} s = If(no) <then_branch = th () => (float t) {{ {bomb} }}, "
                "else_branch = el () => (float e) { e = Neg(one) }> y = Add(x, s)")
    used = {k: v for k, v in CONSTANTS.items() if k in body}
    model = build(body, **used)
    result = optimized(model)
    written = result.save(tmp_path / "out.onnx")
    assert written.bytes < 10_000
    assert result.verification is not None
    assert result.verification.status in (("skipped",) if live else ("ok", "skipped"))


def test_doubling_does_not_grow_the_file(tmp_path: Path) -> None:
    body = " ".join(f"d{i + 1} = Concat<axis = 0>(d{i}, d{i})" for i in range(30))
    model = build(f"{body} s = ReduceSum<keepdims = 0>(d30) y = Add(x, s)", d0=np.ones(256, F))
    assert optimized(model, verify=False).save(tmp_path / "out.onnx").bytes < 4 << 20


def test_a_loop_of_many_steps_is_not_run() -> None:
    body = """y = Loop(n, , x) <body = b (int64 i, bool c, float[4] v) => (bool c2, float[4] w)
              { c2 = Identity(c) w = Add(v, v) }>"""
    result = optimized(build(body, n=np.array(HUGE)), verify=False)
    assert [n.op for n in result.model.main.nodes] == ["Loop"]


def test_functions_that_call_each_other_twice() -> None:
    """Inlining 26 levels would make 2^26 nodes."""
    levels = 26
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "f0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], imports)]
    for i in range(1, levels + 1):
        nodes = [helper.make_node(f"f{i - 1}", [a], [b], domain="local") for a, b in (("a", "t"), ("t", "b"))]
        functions.append(helper.make_function("local", f"f{i}", ["a"], ["b"], nodes, imports))
    graph = helper.make_graph(
        [helper.make_node(f"f{levels}", ["x"], ["y"], domain="local")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    model = helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)
    result = optimized(model, verify=False)
    assert result.report.after.nodes <= result.report.before.nodes


def test_a_lying_value_info_is_not_believed() -> None:
    """`a` has shape [4, 4]; believing [4] would make the Reshape a no-op."""
    model = build("a = Add(x, c) y = Reshape(a, s)", "(float[4] x) => (float[4,4] y)",
                  c=np.zeros((4, 4), F), s=np.array([4, 4]))
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [4]))
    result = optimized(model)
    assert result.model.main.outputs[0].shape == (4, 4)
    assert result.verification is not None
    assert result.verification.status == "ok"


def test_a_local_function_called_relu() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
    g (float[4] x) => (float[4] y) { a = local.Relu(x) b = local.Relu(a) y = Relu(b) }
    <opset_import: ["" : 20], domain: "local"> Relu (a) => (b) { b = Neg(a) }"""
    result = optimized(parser.parse_model(text))
    assert [(n.domain, n.op) for n in result.model.main.nodes] == [("local", "Relu"), ("local", "Relu"), ("", "Relu")]


def test_two_initializers_of_one_name_are_refused() -> None:
    model = build("y = Mul(x, c)", c=F(1))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, F), "c"))
    with pytest.raises(graphopt.ModelError, match="'c'"):
        optimized(model)


def external(folder: Path) -> Path:
    folder.mkdir()
    model = build("y = MatMul(x, w)", "(float[2,64] x) => (float[2,64] y)", w=np.eye(64, dtype=F))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_carried_along(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    graphopt.optimize(path).save(tmp_path / "out" / "model.onnx")
    for name in ("model.onnx", "weights.bin"):
        (tmp_path / "in" / name).unlink()
    moved = onnx.load(tmp_path / "out" / "model.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(moved.graph.initializer[0]), np.eye(64, dtype=F))


def test_a_fifo_as_external_data_does_not_hang(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (path.parent / "weights.bin").unlink()
    os.mkfifo(path.parent / "weights.bin")
    with pytest.raises(graphopt.ModelError, match=r"weights\.bin"):
        graphopt.optimize(path)


def test_value_float_stays_float32() -> None:
    result = optimized(build("c = Constant<value_float = 0.1>() y = Mul(x, c)"))
    (value,) = result.model.main.initializers
    assert value.dtype == graphopt.DType.FLOAT
    assert value.array() == F(0.1)


@pytest.mark.slow
def test_a_long_chain_is_not_deep() -> None:
    count = 20_000
    body = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(count))
    model = build(f"v0 = Identity(x) {body} y = Identity(v{count})")
    assert len(optimized(model, "cleanup,fold", verify=False).model.main) == count


@pytest.mark.slow
def test_a_wide_concat() -> None:
    count = 5_000
    body = " ".join(f"v{i} = Neg(x)" if i % 2 else f"v{i} = Abs(x)" for i in range(count))
    names = ", ".join(f"v{i}" for i in range(count))
    model = build(f"{body} y = Concat<axis = 0>({names})", f"(float[4] x) => (float[{4 * count}] y)")
    assert optimized(model, "cleanup", verify=False).report.after.nodes == 3


def test_output_over_input_keeps_the_only_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build("a = Identity(x) y = Mul(a, c)", c=F(2)), path)
    before = path.read_bytes()
    result = graphopt.optimize(path)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            result.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    result.save(path)
    assert ops(graphopt.load(path)) == ["Mul"]
