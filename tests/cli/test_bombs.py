"""Small models that ask for exabytes or for ever: each preset, by the command line, with verification on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphopt.verify import validate

F = np.float32
HUGE = 2**62
SMALL = 64 << 20  # bytes that verification may take here
FOREVER = """t = Constant<value = bool {1}>()
    b = Loop(last, t, one) <body = g (int64 i, bool c, float v) => (bool d, float w) { d = Identity(c) w = Add(v, v) }>"""
GROWING = """t = Constant<value = bool {1}>()
    b = Loop(last, t) <body = g (int64 i, bool c) => (bool d, float w) { d = Identity(c) w = Identity(one) }>"""
BOMBS = {
    "ConstantOfShape": "b = ConstantOfShape(n)",
    "Expand": "b = Expand(one, n)",
    "Tile": "o = Reshape(one, ones1) b = Tile(o, n)",
    "Pad": "o = Reshape(one, ones1) z = Constant<value_ints = [0]>() p = Concat<axis = 0>(z, n) b = Pad(o, p)",
    "Resize": "o = Reshape(one, ones3) b = Resize(o, , , sizes)",
    "Range": "z = Constant<value_int = 0>() k = Constant<value_int = 1>() r = Range(z, last, k) b = Cast<to = 1>(r)",
    "Concat": "d0 = Reshape(one, ones1) "
              + " ".join(f"d{i + 1} = Concat<axis = 0>(d{i}, d{i})" for i in range(62)) + " b = Identity(d62)",
    "Loop": FOREVER,
    "growing Loop": GROWING,
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "n": np.array([HUGE]), "one": np.array(1, F), "ones1": np.array([1]), "ones3": np.array([1, 1, 1]),
    "sizes": np.array([1, 1, HUGE]), "last": np.array(HUGE),
}  # fmt: skip


def bomb(folder: Path, name: str, *, live: bool, dim: str = "4") -> Path:
    """y = x + the sum of all that; or x - 1, by a branch that is never the one with the bomb."""
    body = f"{BOMBS[name]} s = ReduceSum<keepdims = 0>(b) "
    if live:
        body += "y = Add(x, s)"
    else:
        body = (f"no = Constant<value = bool {{0}}>() r = If(no) <then_branch = yes () => (float s) {{ {body} }}, "
                "else_branch = not () => (float e) { e = Neg(one) }> y = Add(x, r)")  # fmt: skip
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{dim}] x) => (float[{dim}] y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in CONSTANTS.items())
    path = folder / "bomb.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def outcome(cli: Any, path: Path, *args: str) -> dict[str, Any]:
    """The verification in the report of a run that went well, kept the input and wrote a small file."""
    before = path.read_bytes()
    code, out, err = cli("run", path, *args, "--json", "-", "-q")
    assert code == 0, err
    assert path.read_bytes() == before
    assert path.with_name("bomb.opt.onnx").stat().st_size < 200_000
    found: dict[str, Any] = json.loads(out)["verification"]
    return found


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute and gigabytes by default is here over at once."""
    monkeypatch.setattr(validate, "TIMEOUT", 1.0)
    monkeypatch.setattr(validate, "_MEMORY", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_live(cli, tmp_path, name):
    path = bomb(tmp_path, name, live=True)
    for level in ("-O1", "-O2", "-O3"):
        found = outcome(cli, path, level)
        assert found["status"] == "skipped"
        if "Loop" not in name:
            assert found["reason"].startswith("nothing here runs the model. ONNX Runtime: ")
    assert sum(node.op_type == name.split()[-1] for node in onnx.load(path).graph.node) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_in_a_branch_that_is_never_taken(cli, tmp_path, name):
    path = bomb(tmp_path, name, live=False)
    for level in ("-O0", "-O1", "-O2", "-O3"):
        assert outcome(cli, path, level)["status"] == "ok"
    written = onnx.load(path.with_name("bomb.opt.onnx"))
    assert [node.op_type for node in written.graph.node] == ["Add"]


@pytest.mark.slow
@pytest.mark.parametrize("dim", ["4", "n"])
def test_an_endless_loop_is_given_up_on(cli, tmp_path, dim):
    found = outcome(cli, bomb(tmp_path, "Loop", live=True, dim=dim), "-O2")
    reason = "the model takes too long: stopped after 1 s without a result"
    assert (found["status"], found["reason"]) == ("skipped", reason)


def exploding(folder: Path, dim: str) -> Path:
    """26 functions, each of which calls the one before it twice: 2^26 nodes when they are inlined."""
    text = f"""<ir_version: 10, opset_import: ["" : 20, "f" : 1]>
    g (float[{dim}] x) => (float[{dim}] y) {{ y = f.f26(x) }}
    <opset_import: ["" : 20], domain: "f"> f0 (a) => (b) {{ b = Neg(a) }}"""
    for i in range(26):
        text += f"""
        <opset_import: ["" : 20, "f" : 1], domain: "f"> f{i + 1} (a) => (b) {{ t = f.f{i}(a) b = f.f{i}(t) }}"""
    path = folder / "bomb.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("dim", ["4", "n"])
def test_functions_that_explode(cli, tmp_path, dim, monkeypatch):
    """They stay functions; ONNX Runtime, which inlines them, is given up on after one timeout, not several."""
    opened = []
    real = validate.open_session

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return real(*args, **options)

    monkeypatch.setattr(validate, "open_session", counted)
    found = outcome(cli, exploding(tmp_path, dim), "-O3")
    reason = "the model takes too long: stopped after 1 s without a result"
    assert (found["status"], found["reason"]) == ("skipped", reason)
    assert len(opened) == 1
    assert len(onnx.load(tmp_path / "bomb.opt.onnx").functions) == 27


def test_patience_and_memory_have_limits(monkeypatch):
    """A minute and 2 GB, and more only for a model that has the weights to need it."""
    monkeypatch.undo()

    class Packed:
        weight_bytes = 0

    assert validate.patience(Packed) == 60
    assert validate.allowance(Packed) == 2**31
    Packed.weight_bytes = 10**9
    assert validate.patience(Packed) == 110
    assert validate.allowance(Packed) == 2**31 + 4 * 10**9


def test_calibration_of_a_model_that_cannot_be_run(cli, tmp_path):
    path = bomb(tmp_path, "Expand", live=True, dim="1, 4")
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=F), "w"))
    proto.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "w"], ["h"]))
    proto.graph.node[-1].input[0] = "h"
    path.write_bytes(proto.SerializeToString())
    before = path.read_bytes()
    code, out, err = cli("run", path, "-p", "quant", "-t", "ort-cpu", "-o", path)
    assert (code, out) == (2, "")
    assert err.startswith("graphopt: error: the model cannot be run for calibration: ")
    assert err.endswith("\n  give samples with --data\n")
    assert path.read_bytes() == before
