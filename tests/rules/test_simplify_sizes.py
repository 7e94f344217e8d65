"""What shapes determine is a constant; what is equal is computed once."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.rules.exact import SIMPLIFY, fires, stays
from tests.rules.helpers import build, rewrite


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


DIMS = ({"N": 2}, {"N": 0}, {"N": 7})


def test_shape_of_a_static_tensor() -> None:
    fires("fixed_size", "(float[2,3] x) => (int64[2] y)", "y = Shape(x)", "")
    fires("fixed_size", "(float[N,3,4] x) => (int64[1] y)", "y = Shape<start=1,end=-1>(x)", "", dims=DIMS)
    fires("fixed_size", "(float[2,3] x) => (int64 y)", "y = Size(x)", "")


def test_static_part_of_a_dynamic_shape() -> None:
    fires(
        "fixed_size",
        "(float[N,3,4] x) => (int32 y)",
        "s = Shape(x) a = Gather(s, one) b = Gather(s, two) m = Mul(a, b) y = Cast<to=6>(m)",
        "",
        dims=DIMS,
        one=np.array(1),
        two=np.array(2),
    )


def test_only_what_others_read_becomes_constant() -> None:
    model = build(
        "(float[N,3,4] x) => (float[N,12] y)",
        "s = Shape(x) a = Slice(s, one, two) b = Slice(s, two, three) m = Mul(a, b) z = Concat<axis=0>(minus, m) "
        "y = Reshape(x, z)",
        one=i(1),
        two=i(2),
        three=i(3),
        minus=i(-1),
    )
    outcome = rewrite(model, SIMPLIFY, "exact")
    assert outcome.fired == {"fixed_size": 1} and outcome.ops == ["Reshape"]
    (target,) = outcome.after.graph.initializer
    assert numpy_helper.to_array(target).tolist() == [-1, 12]


def test_dynamic_sizes_stay() -> None:
    signature = "(float[N,3] x) => (int64[2] y)"
    assert rewrite(build(signature, "y = Shape(x)"), SIMPLIFY).ops == ["Shape"]
    stays("fixed_size", None, signature, "y = Shape(x)")


def test_equal_sizes_of_different_tensors() -> None:
    fires(
        "same_size",
        "(float[N,3] x, float[N,5] z) => (float[N,4] y, float[N,2] w)",
        "s = Shape(x) t = Shape(z) a = Slice(s, zero, one) b = Slice(t, zero, one) "
        "p = Concat<axis=0>(a, four) q = Concat<axis=0>(b, two) y = ConstantOfShape(p) w = ConstantOfShape(q)",
        "Shape Slice Concat Concat ConstantOfShape ConstantOfShape",
        dims=DIMS,
        zero=i(0),
        one=i(1),
        two=i(2),
        four=i(4),
    )


def test_sizes_of_different_symbols_stay() -> None:
    stays(
        "same_size",
        None,
        "(float[N] x, float[M] z) => (float[N] y, float[M] w)",
        "s = Shape(x) t = Shape(z) y = ConstantOfShape(s) w = ConstantOfShape(t)",
    )


def test_size_as_another_type_stays() -> None:
    stays("same_size", None, "(float[N] x) => (int64[1] y, int32[1] w)", "y = Shape(x) w = Cast<to=6>(y)")


def test_equal_sizes_in_a_branch() -> None:
    body = (
        "s = Shape(x) y = If(c) <then_branch = t () => (float[N] p) { u = Shape(x) p = ConstantOfShape(u) }, "
        "else_branch = e () => (float[N] q) { v = Shape(x) w = Shape(x) r = ConstantOfShape(v) o = ConstantOfShape(w) "
        "q = Add(r, o) }>"
    )
    model = build("(float[N] x, bool c) => (float[N] y, int64[1] s)", body)
    outcome = rewrite(model, SIMPLIFY, "exact")
    assert outcome.fired == {"same_size": 1}
