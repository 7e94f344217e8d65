"""Sizes that are set and freed: what follows from them, what is mended, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import UsageError, VerificationError
from tests.rules.helpers import build, run


def sizes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*model.graph.input, *model.graph.output]
    }


def resized(model: onnx.ModelProto, passes: str = "O0", **options: Any) -> onnx.ModelProto:
    result: onnx.ModelProto = graphopt.optimize(model, passes, **options).model
    onnx.checker.check_model(result, full_check=True)
    return result


# -- setting -----------------------------------------------------------------------------------------------------

TWO = build(
    "(float[N,S,4] x, float[N,?] z) => (float[N,S,4] y, float[?,?] w)", "y = Relu(x) w = Concat<axis=1>(z, z)"
)


def test_a_name_is_set_wherever_it_occurs() -> None:
    assert sizes(resized(TWO, dims={"N": 2})) == {"x": [2, "S", 4], "z": [2, 0], "y": [2, "S", 4], "w": [2, 0]}


def test_a_shape_gives_its_names_numbers() -> None:
    found = sizes(resized(TWO, shapes={"x": (2, None, 4), "z": (2, 5)}))
    assert found == {"x": [2, "S", 4], "z": [2, 5], "y": [2, "S", 4], "w": [2, 10]}


def test_one_axis_of_one_input() -> None:
    assert sizes(resized(TWO, dims={"z:1": 3, "x:-2": 0}))["z"] == ["N", 3]


def test_the_only_input_needs_no_name() -> None:
    model = build("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    assert sizes(resized(model, shapes=(3, 4))) == {"x": [3, 4], "y": [3, 4]}


def test_names_inside_of_branches_are_set_too() -> None:
    body = "y = If(c) <then_branch = t () => (float[N] p) {p = Relu(x)}, else_branch = e () => (float[N] q) {q = Neg(x)}>"
    result = resized(build("(bool c, float[N] x) => (float[N] y)", body), dims={"N": 3})
    assert sizes(result)["y"] == [3] and '"N"' not in str(result)


def test_the_model_that_was_given_stays_as_it_was() -> None:
    before = TWO.SerializeToString()
    resized(TWO, dims={"N": 2})
    assert TWO.SerializeToString() == before


def test_setting_simplifies() -> None:
    model = build(
        "(float[N,S] x) => (float[?] y)",
        "s = Shape(x) n = Gather(s, zero) m = Gather(s, one) p = Mul(n, m) y = Reshape(x, p)",
        zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip
    result = resized(model, "O1", dims={"N": 2, "S": 3})
    assert [n.op_type for n in result.graph.node] == ["Reshape"] and sizes(result)["y"] == [6]


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"dims": {"M": 2}}, "no input has a size that is called 'M'", "known: N, S"),
        ({"dims": {"N": -1}}, "a size cannot be -1", "whole numbers"),
        ({"dims": {"N": 2.5}}, "a size cannot be 2.5", "INPUT:AXIS=1"),
        ({"dims": {"N": True}}, "a size cannot be True", "INPUT:AXIS=1"),
        ({"dims": {"N": "two"}}, "a size cannot be 'two'", "INPUT:AXIS=1"),
        ({"dims": {"q:0": 2}}, "there is no input 'q'", "x, z"),
        ({"dims": {"z:2": 2}}, "there is no axis 2", "[N, ?]"),
        ({"dims": {"N": 2, "x:0": 3}}, "a size cannot be 3: it is also set to 2", "[N, S, 4]"),
        ({"shapes": {"x": (2, 3, 5)}}, "a size cannot be 5: the model has 4", "[N, S, 4]"),
        ({"shapes": {"x": (2, 3)}}, "the shape has 2 axes, but the input has 3", "[N, S, 4]"),
        ({"shapes": (2, 3)}, "the model has 2 inputs", "x, z"),
        ({"shapes": {"q": (2, 3)}}, "there is no input 'q'", "x, z"),
        ({"shapes": {"x": (2, 3, 4), "z": (3, 3)}}, "a size cannot be 3: it is also set to 2", "[N, ?]"),
        ({"shapes": {"x": "234"}}, "a shape cannot be '234'", "(1, 3, 224, 224)"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        resized(TWO, **options)
    assert error.value.what == what and hint in str(error.value)


@pytest.mark.parametrize(("shape", "hint"), [("?,3", "name one as INPUT:AXIS: x is [?, 3]"), ("2,3", "none has a name")])
def test_sizes_without_a_name_are_named_by_their_place(shape: str, hint: str) -> None:
    model = build(f"(float[{shape}] x) => (float[?] y)", "y = Relu(x)")
    with pytest.raises(UsageError, match=re.escape(hint)):
        resized(model, dims={"batch": 4})


def test_an_operand_that_does_not_fit() -> None:
    model = build("(float[N,K] x) => (float[N,3] y)", "y = MatMul(x, w)", w=np.ones((4, 3), np.float32))
    assert sizes(resized(model, dims={"K": 4}))["y"] == ["N", 3]
    with pytest.raises(UsageError, match="an operator does not fit"):
        resized(model, dims={"K": 5})


# -- freeing -----------------------------------------------------------------------------------------------------


def freed(model: onnx.ModelProto, count: int = 4, **dims: str) -> onnx.ModelProto:
    """The model with its batch free, after a comparison with it of our own; the batch comes first in all ports."""
    result = resized(model, dims=dims or {"batch": "?"})
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    random = np.random.default_rng(3)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    samples = [[random.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(count)]
    names = [v.name for v in model.graph.input]
    alone = [run(model, dict(zip(names, sample, strict=True))) for sample in samples]
    together = run(result, {n: np.concatenate(parts) for n, *parts in zip(names, *samples, strict=True)})
    for found, *wanted in zip(together, *alone, strict=True):
        np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-4, atol=1e-5)
        assert len(found) % (count * size) == 0
    return result


def test_the_target_of_a_reshape() -> None:
    model = build(
        "(float[1,3,4] x) => (float[1,12] y, float[1,3,2,2] z, float[3,4] w)",
        "y = Reshape(x, a) z = Reshape(x, b) w = Reshape(x, c)",
        a=np.array([1, -1]), b=np.array([1, 3, 2, 2]), c=np.array([3, 4]),
    )  # fmt: skip
    result = freed(model)
    assert sizes(result) == {"x": ["batch", 3, 4], "y": ["batch", 12], "z": ["batch", 3, 2, 2], "w": [0, 4]}


def test_samples_that_do_not_come_first() -> None:
    model = build(
        "(float[1,3,4] x) => (float[1,3,4] y)",
        "t = Transpose<perm=[1,0,2]>(x) r = Reshape(t, to) s = Relu(r) b = Reshape(s, back) "
        "y = Transpose<perm=[1,0,2]>(b)", to=np.array([3, 1, 2, 2]), back=np.array([3, 1, 4]),
    )  # fmt: skip
    assert sizes(freed(model))["y"] == ["batch", 3, 4]


def test_a_token_put_in_front() -> None:
    model = build(
        "(float[1,3,4] x) => (float[1,4,4] y)", "t = Expand(token, to) y = Concat<axis=1>(t, x)",
        token=np.arange(4, dtype=np.float32).reshape(1, 1, 4), to=np.array([1, 1, 4]),
    )  # fmt: skip
    assert sizes(freed(model))["y"] == ["batch", 4, 4]


def test_expand_of_what_depends_on_the_samples() -> None:
    model = build("(float[2,1,4] x) => (float[2,3,4] y)", "y = Expand(x, to)", to=np.array([2, 3, 4]))
    assert sizes(freed(model))["y"] == ["batch", 3, 4]


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_slices_and_axes_of_size_1(opset: int) -> None:
    cut = "s = Slice<starts=[0,1],ends=[2,3],axes=[0,1]>(x)" if opset < 10 else "s = Slice(x, start, end, axes)"
    given = {} if opset < 10 else {"start": np.array([0, 1]), "end": np.array([2, 3]), "axes": np.array([0, 1])}
    model = build("(float[2,3,1] x) => (float[2,2] y)", f"{cut} y = Squeeze(s)", opset=opset, **given)
    assert sizes(freed(model))["y"] == ["batch", 2]


@pytest.mark.parametrize("opset", [13, 18])
def test_resize_to_given_sizes(opset: int) -> None:
    model = build(
        "(float[1,2,3,3] x) => (float[1,2,6,6] y)", "y = Resize<mode=\"nearest\">(x, , , to)", opset=opset,
        to=np.array([1, 2, 6, 6]),
    )  # fmt: skip
    assert sizes(freed(model))["y"] == ["batch", 2, 6, 6]


def test_initial_states() -> None:
    model = build(
        "(float[1,5,3] x) => (float[1,5,2] y)",
        "t = Transpose<perm=[1,0,2]>(x) o, h, c = LSTM<hidden_size=2>(t, w, r, b, , s, s) q = Squeeze(o, one) "
        "y = Transpose<perm=[1,0,2]>(q)",
        w=np.full((1, 8, 3), 0.3, np.float32), r=np.full((1, 8, 2), 0.1, np.float32),
        b=np.zeros((1, 16), np.float32), s=np.full((1, 1, 2), 0.5, np.float32), one=np.array([1]),
    )  # fmt: skip
    assert sizes(freed(model))["y"] == ["batch", 5, 2]


def test_a_constant_with_a_part_for_each_sample() -> None:
    model = build(
        "(float[2,3] x) => (float[2,3] y)", "y = Add(x, c)", c=np.array([[1, 2, 3], [1, 2, 3]], np.float32)
    )
    assert sizes(freed(model))["y"] == ["batch", 3]


def test_an_axis_by_name_and_its_companion() -> None:
    model = build("(float[1,3] x, float[2,1,3] h) => (float[2,1,3] y)", "y = Add(x, h)")
    result = resized(model, dims={"x:0": "B", "h:1": "B"})
    assert sizes(result) == {"x": ["B", 3], "h": [2, "B", 3], "y": [2, "B", 3]}
    with pytest.raises(UsageError, match="the first axes of the inputs differ"):
        resized(model, dims={"batch": "?"})


def test_what_is_free_stays_free() -> None:
    model = build("(float[batch,3] x) => (float[batch,3] y)", "y = Relu(x)")
    result = graphopt.optimize(model, "O0", dims={"batch": "?"})
    assert result.report.notes == ["'batch' is free already"]


@pytest.mark.parametrize(
    ("signature", "body", "what"),
    [
        ("(float[2,3] x) => (float[3] y)", "y = ReduceMean<keepdims=0>(x, zero)", "it works across samples"),
        ("(float[2,3] x) => (float[3] y)", "y = Gather(x, first)", "it works across samples"),
        ("(float[2,3] x) => (float[1,3] y)", "y = Slice(x, zero, one)", "it takes some of the samples"),
        ("(float[1,3] x) => (float[3] y)", "y = Squeeze(x, zero)", "it removes the axis of the samples"),
        ("(float[2,3] x) => (float[4,3] y)", "y = Concat<axis=0>(x, x)", "it puts samples beside one another"),
        ("(float[2,3] x) => (float[2,3] y)", "y = Add(x, c)", "a constant differs between samples"),
        ("(float[2,3] x) => (float[3,2] y)", "y = Reshape(x, turned)", "samples along axis 0 of [2, 3] are torn"),
    ],
)
def test_what_cannot_be_mended_names_the_node(signature: str, body: str, what: str) -> None:
    model = build(
        signature, body, zero=np.array([0]), one=np.array([1]), first=np.array(0), turned=np.array([3, 2]),
        c=np.arange(6, dtype=np.float32).reshape(2, 3),
    )  # fmt: skip
    with pytest.raises(UsageError) as error:
        resized(model, dims={"batch": "?"})
    assert what in error.value.what and error.value.where == f"{model.graph.node[0].op_type} of 'y'"


def test_samples_that_influence_one_another() -> None:
    model = build(
        "(float[1,3] x) => (float[1,3] y)", "t = Transpose(x) m = MatMul(t, x) y = MatMul(x, m)",
    )  # fmt: skip
    with pytest.raises(VerificationError, match="with 2 at once, output 'y'"):
        resized(model, dims={"batch": "?"})


def test_a_target_that_callers_may_override() -> None:
    model = build("(float[1,4] x, int64[2] to) => (float[?,?] y)", "y = Reshape(x, to)", to=np.array([1, 4]))
    with pytest.raises(UsageError, match="its target is an initializer that callers may override"):
        resized(model, dims={"batch": "?"})


def test_a_name_that_is_taken() -> None:
    model = build("(float[1,S] x) => (float[1,S] y)", "y = Relu(x)")
    with pytest.raises(UsageError, match="there is a size called 'S' already"):
        resized(model, dims={"S": "?"})
