"""Why a rule does not match: attributes, functions, nodes that onnx does not allow."""

from __future__ import annotations

import numpy as np

from graphopt import Const, Tensor, op, rule
from tests.unit.explaining import BODY, F, half_tanh, miss, reason


@rule(lambda x: op.Softmax(x, axis=-1))
def last_softmax(x: Tensor) -> Tensor:
    """A softmax over the last axis."""
    return x


def test_an_attribute() -> None:
    text = "g (float[4,4] x) => (float[4,4] y) { [/x/Softmax] y = Softmax <axis = 1>(x) }"
    assert reason(last_softmax, text.replace("[/x/Softmax]", "[sm]")) == "sm: axis is 1, expected -1"

    @rule(lambda x: op.Transpose(x, perm=[1, 0]))
    def swap(x: Tensor) -> Tensor:
        """A transposed matrix."""
        return x

    unset = "g (float[4,4] x) => (float[4,4] y) { [t] y = Transpose(x) }"
    assert reason(swap, unset) == "t: perm is not set, expected [1, 0]"

    @rule(lambda x: op.LeakyRelu(x, alpha=0.1))
    def leaky(x: Tensor) -> Tensor:
        """A LeakyRelu with a certain slope."""
        return x

    other = "g (float[4] x) => (float[4] y) { [l] y = LeakyRelu <alpha = 0.2>(x) }"
    assert reason(leaky, other) == "l: alpha is 0.2, expected 0.1"


def test_an_attribute_that_the_pattern_does_not_mention() -> None:
    @rule(lambda x, s: op.Reshape(x, s))
    def reshape(x: Tensor, s: Const) -> Tensor:
        """A Reshape."""
        return x

    text = "g (float[4] x) => (float[2,2] y) { [r] y = Reshape <allowzero = 1>(x, s) }"
    assert reason(reshape, text, s=np.array([2, 2])) == (
        "attribute allowzero = 1 of r is not mentioned by the pattern, and not the default 0"
    )

    @rule(lambda x, w: op.Conv(x, w))
    def conv(x: Tensor, w: Tensor) -> Tensor:
        """A plain Conv."""
        return x

    text = "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,6,6] y) { [c] y = Conv <pads = [1,1,1,1]>(x, w) }"
    assert reason(conv, text) == (
        "attribute pads = [1, 1, 1, 1] of c is not mentioned by the pattern, and has no default"
    )


FUNCTION = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[4,4] x) => (float[4,4] y) { y = own.F <a = 1>(x) }
    <opset_import: ["" : 20], domain: "own">
    F <a> (p) => (q) { [inner] q = Softmax <axis: int = @a>(p) }
"""


def test_parameters_of_functions() -> None:
    from onnx import parser

    import graphopt

    found = graphopt.load(parser.parse_model(FUNCTION))
    assert miss(last_softmax, found).reason == (
        "attribute axis of inner is a parameter of the function that it is in"
    )

    @rule(lambda x: op.Softmax(x))
    def softmax(x: Tensor) -> Tensor:
        """Any softmax."""
        return x

    assert miss(softmax, found).reason == "attribute axis of inner is a parameter of the function that it is in"


def test_functions_that_take_the_name_of_an_operator() -> None:
    from onnx import parser

    import graphopt

    found = graphopt.load(
        parser.parse_model("""
            <ir_version: 10, opset_import: ["" : 20]>
            g (float[4] x) => (float[4] y) { [t] u = Tanh(x) [s] y = Sub(u, x) }
            <opset_import: ["" : 20], domain: "">
            Tanh (p) => (q) { q = Neg(p) }
        """)
    )

    @rule(lambda x: op.Tanh(x) - x)
    def tanh_minus(x: Tensor) -> Tensor:
        """tanh of x minus x."""
        return x

    assert miss(tanh_minus, found).reason == "t calls a function of the model named Tanh, and is not the operator"


def test_nodes_that_onnx_does_not_allow() -> None:
    @rule(lambda x: op.Gelu(x))
    def gelu(x: Tensor) -> Tensor:
        """A Gelu."""
        return x

    found = reason(gelu, "g (float[4] x) => (float[4] y) { [n] y = Gelu(x) }", opset=13)
    assert found == "n is no valid Gelu at opset 13"
    found = reason(half_tanh, f"g (float[4] x) => (float[4] y) {{ {BODY} }}", c=np.zeros(3, F))
    assert found == "n_mul is not valid: Mul is refused: sizes 4 and 3 do not broadcast"
