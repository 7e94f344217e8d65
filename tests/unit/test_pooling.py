"""The size of what pooling gives where it rounds up: what onnx infers is not always what ONNX Runtime computes."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import parser

import graphopt
from graphopt.interop.convert import to_ir
from graphopt.ir.model import Model
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model

MODEL = """<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,2,{size}] x) => (int64[3] n, float[A,B,C] y)
    {{ p = {op} <ceil_mode = 1, kernel_shape = [{k}], strides = [{s}], pads = [{front}, {behind}]> (x)
       n = Shape (p)  y = Neg (p) }}"""

def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_model(package(Model(*to_ir(proto)).ir), feed)


CASES = [
    (k, s, size, front, behind)
    for k, s, size, front, behind in itertools.product((1, 2, 3), (2, 3), (2, 5), (0, 1), (0, 1))
    if max(front, behind) < k and size + front + behind >= k
]


@pytest.mark.parametrize("opset", [11, 20, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_what_is_claimed_is_computed(op: str, opset: int) -> None:
    open_ones = 0
    for k, s, size, front, behind in CASES:
        text = MODEL.format(op=op, opset=opset, k=k, s=s, size=size, front=front, behind=behind)
        proto = parser.parse_model(text)
        pool = next(iter(Model(*to_ir(proto)).main.nodes))
        claimed = pool.outputs[0].shape
        assert claimed is not None
        feed = {"x": np.zeros((1, 2, size), np.float32)}
        computed = run(proto, feed)["n"].tolist()
        assert [n if isinstance(n, int) else m for n, m in zip(claimed, computed, strict=True)] == computed, text
        open_ones += not isinstance(claimed[2], int)
        assert run(graphopt.optimize(proto, "O2", verify=False).model, feed)["n"].tolist() == computed
    assert 0 < open_ones < len(CASES) / 2 if opset < 22 else not open_ones


def test_a_pooling_in_a_function_whose_caller_says_how_it_rounds() -> None:
    text = """<ir_version: 8, opset_import: ["" : 20, "my" : 1]> g (float[1,1,2] x) => (float[A,B,C] y) { y = my.f <c = 1> (x) }
        <domain: "my", opset_import: ["" : 20]> f <c> (x) => (y)
        { p = MaxPool <ceil_mode: int = @c, kernel_shape = [1], strides = [2]> (x)  y = Neg (p) }"""
    proto = parser.parse_model(text)
    result = graphopt.optimize(proto, "inline,O2").model
    feed = {"x": np.ones((1, 1, 2), np.float32)}
    assert run(result, feed)["y"].shape == run(proto, feed)["y"].shape == (1, 1, 1)

