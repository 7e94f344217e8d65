"""The pass as a whole, on the networks of the fixtures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

import graphopt
from tests.rules.helpers import compare, run

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXPECTED = {
    "residual_cnn": {"BatchNormalization": 0, "Conv": 9},
    "depthwise_se": {"BatchNormalization": 0, "Conv": 22},
    "vit": {"ReduceMean": 0, "Erf": 0, "Softmax": 0, "LayerNormalization": 7, "Gelu": 3, "Attention": 3},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture(name: str) -> None:
    path = FIXTURES / "models" / f"{name}.onnx"
    fused = graphopt.optimize(path, "fuse", verify=False, as_="proto").model
    counts = Counter(node.op_type for node in fused.graph.node)
    assert {op: counts[op] for op in EXPECTED[name]} == EXPECTED[name]
    feeds = {"image": np.load(FIXTURES / "data" / "digits_test.npz")["image"][:8]}
    compare(run(onnx.load(path), feeds), run(fused, feeds))


def test_each_rule_states_its_equation_in_one_sentence() -> None:
    for rule in Fuse.rules():
        assert rule.doc.endswith(".") and rule.doc.count(". ") == 0 and "\n" not in rule.doc, rule.name
        assert rule.shapes, rule.name


def test_what_it_builds_on() -> None:
    assert Fuse.name == "fuse"
    assert Fuse.requires == ("cleanup", "fold", "simplify")
    assert Fuse().spelling() == "fuse"
