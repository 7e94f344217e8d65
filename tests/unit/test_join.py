"""Two models in a row as one."""

from __future__ import annotations

import numpy as np
import onnx_ir as oir
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt.interop.convert import to_ir
from graphopt.ir.join import join
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model

HEAD = "g (float[N,4] x) => (float[N,4] pixels, float[N,4] raw) { t = Mul(x, k) pixels = Tanh(t) raw = Neg(x) }"
TAIL = "g (float[M,4] image) => (float[M,4] y) { t = Add(image, k) n = Relu(t) y = Sub(n, k) }"


def model(text: str, factor: float = 2, opset: int = 20) -> oir.Model:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "k"))
    return to_ir(proto)[0]


def joined(first: oir.Model, second: oir.Model, **connect: str) -> oir.Model:
    join(first, second, connect, where="tail.onnx")
    graphopt.load(first)
    return first


X = np.array([[1, -2, 3, -4]], np.float32)


def test_what_one_gives_the_other_takes() -> None:
    made = joined(model(HEAD), model(TAIL, 3), pixels="image")
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert [v.name for v in made.graph.outputs] == ["raw", "y"]
    found = run_model(package(made), {"x": X})
    expected = np.maximum(np.tanh(2 * X) + 3, 0) - 3
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)
    assert np.array_equal(found["raw"], -X)
    assert len(made.graph.initializers) == 2, "the two constants had the same name"


def test_the_only_output_goes_to_the_only_input() -> None:
    made = joined(model(TAIL), model(TAIL.replace("=> (float[M,4] y)", "=> (float[M,4] z)").replace("y =", "z =")))
    assert [v.name for v in made.graph.outputs] == ["z"]


def test_equal_names_belong_together() -> None:
    made = joined(model(HEAD), model(TAIL.replace("image", "pixels")))
    assert [v.name for v in made.graph.outputs] == ["raw", "y"]


def test_bodies_read_what_is_connected() -> None:
    tail = """g (float[N,4] image, bool c) => (float[N,4] y)
              { y = If (c) <then_branch = a () => (float[N,4] p) { p = Neg(image) }, else_branch = b () => (float[N,4] q) { q = Add(image, k) }> }"""
    made = joined(model(HEAD), model(tail), pixels="image")
    found = run_model(package(made), {"x": X, "c": np.array(True)})
    np.testing.assert_allclose(found["y"], -np.tanh(2 * X), rtol=1e-6)


@pytest.mark.parametrize(
    ("second", "connect", "words"),
    [
        (model(TAIL), {}, "it is not clear what belongs together"),
        (model(TAIL), {"pixels": "picture"}, "there is no input 'picture'"),
        (model(TAIL), {"pixel": "image"}, "there is no output 'pixel'"),
        (model(TAIL, opset=19), {"pixels": "image"}, "different versions of the standard operators: 20 and 19"),
        (model(TAIL.replace("[M,4] image", "[M,5] image").replace("[M,4] y", "[M,5] y")), {"pixels": "image"}, "takes"),
        (model(TAIL.replace("float", "double").replace("k)", "image)")), {"pixels": "image"}, "takes"),
        (model(TAIL.replace(" y)", " raw)").replace("y =", "raw =")), {"pixels": "image"}, "both models have a value 'raw'"),
    ],
)
def test_what_does_not_fit_is_an_error(second: oir.Model, connect: dict[str, str], words: str) -> None:
    with pytest.raises(graphopt.GraphoptError, match=words):
        joined(model(HEAD), second, **connect)
