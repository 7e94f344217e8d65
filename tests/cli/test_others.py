"""Others' optimizers on the command line."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Cli

RULES = """
from onnxscript.rewriter import pattern
bn = pattern.RewriteRule(
    lambda op, x, a, b, c, d: op.BatchNormalization(x, a, b, c, d), lambda op, x, a, b, c, d: op.Identity(x), name="drop_bn"
)
"""


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_ort(cli: Cli, model: Path) -> None:
    code, out, err = cli("run", model, "-p", "ort", "-o", "out.onnx")
    assert (code, err) == (0, "")
    assert re.search(r"^ort +1 .* basic ×1$", out, re.M)
    assert re.search(r"^note +ort: by onnxruntime \d", out, re.M)
    assert "BatchNormalization" not in operators(Path("out.onnx"))


def test_ort_operators_that_the_target_does_not_take(cli: Cli, model: Path) -> None:
    code, out, err = cli("run", model, "-p", "ort{level=extended}", "-o", "out.onnx")
    assert (code, out) == (6, "")
    assert err == (
        "graphopt: error: target 'onnx': ort{level=extended} uses operators of com.microsoft, which the target does "
        "not take\n  use ort{level=basic}, or a target that takes them, such as ort-cpu\n"
    )
    assert not Path("out.onnx").exists()
    assert cli("run", model, "-p", "ort{level=extended}", "-t", "ort-cpu", "-o", "out.onnx").code == 0
    assert "FusedConv" in operators(Path("out.onnx"))


def test_an_unknown_level(cli: Cli, model: Path) -> None:
    code, _, err = cli("run", model, "-p", "ort{level=fast}")
    assert code == 2
    assert err.startswith("graphopt: error: ort.level cannot be 'fast'")


def test_a_missing_package(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxsim" else real(n, *a))
    code, out, err = cli("run", model, "-p", "fuse,onnxsim")
    assert (code, out) == (2, "")
    assert err == (
        "graphopt: error: the pass 'onnxsim' needs the package 'onnxsim', which is not installed\n"
        "  pip install 'graphopt[onnxsim]'\n"
    )


def test_a_wrong_rule_of_onnxscript_is_found(cli: Cli, model: Path) -> None:
    pytest.importorskip("onnxscript")
    Path("mine.py").write_text(RULES)
    passes = "cleanup,onnxscript{rules=mine.py:bn}"
    code, _, err = cli("run", model, "-p", passes, "-o", "out.onnx")
    assert code == 4
    assert "does not compute what the original computes" in err
    assert not Path("out.onnx").exists()
    code, out, _ = cli("run", model, "-p", passes, "--no-verify", "-o", "out.onnx", "--ignore", "onnxscript.drop_bn")
    assert code == 0
    assert "BatchNormalization" in operators(Path("out.onnx"))
    code, out, _ = cli("bisect", model, "-p", passes)
    assert code == 0
    assert "onnxscript.drop_bn" in out


def test_they_are_listed(cli: Cli) -> None:
    out = cli("passes").out
    for name, text in (("onnxscript", "Rewrite rules"), ("onnxsim", "onnxsim, run on"), ("ort", "ONNX Runtime's own")):
        assert re.search(rf"^{name} +{text}", out, re.M)
    assert "  rules = none" in out
