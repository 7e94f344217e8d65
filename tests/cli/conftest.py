"""A command line that runs in this process, and small models for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs `graphopt` with the given arguments in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in args])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Conv, BatchNormalization and Relu between two Identities, with random weights."""
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[batch, 2, 8, 8] image) => (float[batch, 4, 8, 8] logits) {
            a = Identity (image)
            b = Conv <pads = [1, 1, 1, 1]> (a, w)
            c = BatchNormalization (b, gamma, beta, mean, var)
            d = Relu (c)
            logits = Identity (d)
        }""")
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 2, 3, 3))} | {
        n: rng.random(4) + 0.5 for n in ("gamma", "beta", "mean", "var")
    }
    for name, array in weights.items():
        graph.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    path = tmp_path / "net.onnx"
    path.write_bytes(graph.SerializeToString())
    return path
