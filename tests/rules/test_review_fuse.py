"""What a review of the fusions and of the layout found: models that were made wrong, slower, or refused by runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from graphopt_passes.fuse import Fuse
from graphopt_passes.layout import Layout
from onnx import numpy_helper, parser

import graphopt
from tests.rules.helpers import build, declines, rewrite, weight


def test_a_rotation_by_one_angle_for_all_pairs() -> None:
    model = build(
        "(float[1,2,5,8] x, float[1,1,5,1] c, float[1,1,5,1] s) => (float[1,2,5,8] y)",
        """a, b = Split<axis=-1, num_outputs=2>(x)
        ac = Mul(a, c) bs = Mul(b, s) first = Sub(ac, bs)
        bc = Mul(b, c) as = Mul(a, s) second = Add(bc, as)
        y = Concat<axis=-1>(first, second)""",
        opset=23,
    )
    declines(Fuse(), model, "rotary", "several pairs are turned by the same angle")


def test_weights_that_would_vanish() -> None:
    model = build(
        "(float[1,1,4,4] x) => (float[1,2,2,2] y)", "z = Conv(x, w) y = Mul(z, c)",
        w=weight(2, 1, 3, 3) * np.float32(1e-30), c=np.full((2, 1, 1), 1e-20, np.float32),
    )  # fmt: skip
    declines(Fuse(), model, "conv_scale", "a computed constant is too small for float")


def test_one_channel_that_vanishes_among_others() -> None:
    scale = np.array([1.0, 1e-40], np.float32).reshape(2, 1, 1)
    model = build(
        "(float[1,1,4,4] x) => (float[1,2,2,2] y)", "z = Conv(x, w) y = Mul(z, c)", w=weight(2, 1, 3, 3), c=scale
    )
    assert rewrite(model, Fuse()).fired["conv_scale"]


def test_a_scale_near_one_is_one_that_interpolates() -> None:
    text = """a = Transpose<perm=[0,2,1,3]>(x) b = Resize<mode="cubic">(a,, scales) y = Transpose<perm=[0,2,1,3]>(b)"""
    signature = "(float[1,8,6,8] x) => (float[1,8,6,16] y)"
    near, one = np.array([1, 1, 1.1, 2], np.float32), np.array([1, 1, 1, 2], np.float32)
    assert rewrite(build(signature, text, scales=near), Layout()).ops == ["Resize", "Transpose", "Transpose"]
    assert rewrite(build(signature, text, scales=one), Layout()).ops == ["Resize"]


# -- what is computed once in front of a loop stays there -------------------------------------------


def loop(inputs: str, before: str, body: str, state: str, opset: int, **constants: Any) -> onnx.ModelProto:
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]> g (int64 n, {inputs}, {state} s0) => ({state} s) {{
        {before}  go = Constant<value = bool {{1}}>()
        s = Loop(n, go, s0) <body = b (int64 i, bool ci, {state} si) => (bool co, {state} so) {{
            co = Identity(ci) {body} }}> }}"""
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(model)
    return model


def test_probabilities_in_front_of_a_loop() -> None:
    shape = "float[1,2,4,8]"
    before = "kt = Transpose<perm=[0,1,3,2]>(k) scores = MatMul(q, kt) p = Softmax(scores)"
    model = loop(f"{shape} q, {shape} k", before, "so = MatMul(p, si)", shape, 23)
    declines(Fuse(), model, "attention", "a part stands outside of the body")


def test_products_in_front_of_a_loop() -> None:
    body = "all = Concat<axis=1>(a, b, si) so = Slice(all, three, nine, one)"
    ints = {name: np.array([n]) for name, n in (("one", 1), ("three", 3), ("nine", 9))}
    model = loop("float[40,5] x", "a = MatMul(x, v) b = MatMul(x, w)", body, "float[40,6]", 18,
                 v=weight(5, 3), w=weight(5, 3, seed=1), **ints)  # fmt: skip
    declines(Fuse(), model, "joined_products", "a part stands outside of the body")


# -- half precision ---------------------------------------------------------------------------------


def test_a_weight_that_callers_may_override_is_cast() -> None:
    text = "z = MatMul(x, w) y = Relu(z)"
    model = build("(float[2,8] x, float[8,8] w) => (float[2,8] y)", text, w=weight(8, 8))
    result = graphopt.optimize(model, "half").model
    assert [i.name for i in result.graph.input] == ["x", "w"]
    assert sorted(n.op_type for n in result.graph.node) == ["Cast", "Cast", "Cast", "MatMul", "Relu"]
