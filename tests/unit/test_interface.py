"""Parts of models, with other names and in another order."""

from __future__ import annotations

import numpy as np
import onnx_ir as oir
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt.interop.convert import to_ir
from graphopt.ir.interface import InterfaceRequest, change_interface, parse_pairs
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4] x, float[N,4] z, bool c) => (float[N,4] y, float[N,3] p) {
    a = Relu(x)
    b = Add(a, z)
    p = MatMul(b, w)
    y = If(c) <then_branch = t () => (float[N,4] q) { q = Neg(b) }, else_branch = e () => (float[N,4] r) { r = Identity(a) }>
}
"""


def model() -> oir.Model:
    proto = parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w"))
    return to_ir(proto)[0]


def changed(**request: object) -> oir.Model:
    made = model()
    change_interface(made, InterfaceRequest(**request))  # type: ignore[arg-type]
    graphopt.load(made)  # what is left is a valid model
    return made


def ends(made: oir.Model) -> tuple[list[str | None], list[str | None]]:
    return [v.name for v in made.graph.inputs], [v.name for v in made.graph.outputs]


def run(made: oir.Model, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    return run_model(package(made), feeds)


X = np.array([[1, -2, 3, -4]], np.float32)
Z = np.array([[5, 6, 7, 8]], np.float32)


def test_an_output_alone_takes_what_it_needs() -> None:
    made = changed(outputs=("p",))
    assert ends(made) == (["x", "z"], ["p"])
    assert [n.op_type for n in made.graph] == ["Relu", "Add", "MatMul"]
    assert np.array_equal(run(made, x=X, z=Z)["p"], run(model(), x=X, z=Z, c=np.array(True))["p"])


def test_a_value_inside_becomes_an_output_with_its_type() -> None:
    made = changed(outputs=("a", "b"))
    assert ends(made) == (["x", "z"], ["a", "b"])
    shape = made.graph.outputs[0].shape
    assert made.graph.outputs[0].dtype == oir.DataType.FLOAT and shape is not None
    assert [d if isinstance(d, int) else d.value for d in shape] == ["N", 4]
    assert not made.graph.initializers
    assert np.array_equal(run(made, x=X, z=Z)["b"], np.maximum(X, 0) + Z)


def test_a_value_inside_becomes_an_input_also_for_bodies() -> None:
    made = changed(inputs=("b", "a", "c"))
    assert ends(made) == (["b", "a", "c"], ["y", "p"])
    assert [n.op_type for n in made.graph] == ["MatMul", "If"]
    found = run(made, b=X, a=Z, c=np.array(True))
    assert np.array_equal(found["y"], -X)
    assert np.array_equal(run(made, b=X, a=Z, c=np.array(False))["y"], Z)


def test_the_order_is_that_of_the_names() -> None:
    assert ends(changed(inputs=("c", "z", "x"), outputs=("p", "y"))) == (["c", "z", "x"], ["p", "y"])


def test_an_initializer_may_become_an_input() -> None:
    made = changed(inputs=("x", "z", "w"), outputs=("p",))
    assert ends(made) == (["x", "z", "w"], ["p"]) and not made.graph.initializers
    assert run(made, x=X, z=Z, w=np.ones((4, 3), np.float32))["p"].shape == (1, 3)


def test_inputs_and_outputs_get_other_names() -> None:
    made = changed(renames={"x": "image", "p": "logits", "y": "x"})
    assert ends(made) == (["image", "z", "c"], ["x", "logits"])
    assert set(run(made, image=X, z=Z, c=np.array(True))) == {"x", "logits"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"outputs": ("q",)}, "the model has no value 'q'"),
        ({"outputs": ()}, "no output is named"),
        ({"outputs": ("y", "y")}, "'y' is named twice"),
        ({"inputs": ("x",)}, "the outputs also depend on the inputs 'z', 'c'"),
        ({"inputs": ("b",)}, "the outputs also depend on the inputs 'x', 'c'"),
        ({"renames": {"a": "n"}}, "no input or output is called 'a'"),
        ({"renames": {"x": "b"}}, "the name 'b' is taken"),
        ({"renames": {"x": "r"}}, "the name 'r' is taken"),
        ({"renames": {"x": "n", "z": "n"}}, "two values would have the same name"),
    ],
)
def test_what_cannot_be_is_an_error(request_: dict[str, object], words: str) -> None:
    with pytest.raises(graphopt.UsageError, match=words):
        changed(**request_)


@pytest.mark.parametrize("text", ["x", "=y", "x="])
def test_renames_are_old_and_new(text: str) -> None:
    with pytest.raises(graphopt.UsageError, match="these are no two names"):
        parse_pairs("--rename", [text])


def test_renames_of_defaults_keep_the_default() -> None:
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2] x, float[2] k = {3, 4}) => (float[2] y) { y = Mul(x, k) }'
    )
    made = to_ir(proto)[0]
    change_interface(made, InterfaceRequest(renames={"k": "factor"}))
    assert list(made.graph.initializers) == ["factor"] and [v.name for v in made.graph.inputs] == ["x", "factor"]
    assert np.array_equal(run(made, x=np.ones(2, np.float32))["y"], [3, 4])
    change_interface(made, InterfaceRequest(freeze=True))
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert np.array_equal(run(made, x=np.ones(2, np.float32))["y"], [3, 4])
