"""Operators on constants: ONNX's semantics to the bit, refusals where it leaves things open, and no way to blow up."""

from __future__ import annotations

import time
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import onnx.reference
import pytest

from graphopt.ir.numeric import Undefined, Unsupported, evaluate, has_kernel

I64, I32, F32, F16, BF16 = np.int64, np.int32, np.float32, np.float16, ml_dtypes.bfloat16
MIN64, MAX64 = -(2**63), 2**63 - 1


def run(op: str, *inputs: Any, version: int = 21, n_outputs: int = 1, **attrs: Any) -> tuple[np.ndarray, ...]:
    return evaluate(op, "", version, inputs, attrs, n_outputs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal dtype, shape and bits, NaN payloads aside."""
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and bool(np.array_equal(found.astype(np.float64), expected.astype(np.float64), equal_nan=True))
        and bool(np.array_equal(np.signbit(found), np.signbit(expected)) or expected.dtype.kind not in "f")
    )


# -- integers ----------------------------------------------------------------------------------------------


def test_integer_division_rounds_toward_zero() -> None:
    (found,) = run("Div", np.array([-7, 7, -7, 7, 6, MIN64], I64), np.array([2, -2, -2, 2, -3, 1], I64))
    assert found.tolist() == [-3, -3, 3, 3, -2, MIN64]


def test_both_forms_of_mod() -> None:
    a, b = np.array([-7, 7, -7, 7], I32), np.array([3, -3, -3, 3], I32)
    assert run("Mod", a, b)[0].tolist() == [2, -2, -1, 1]
    assert run("Mod", a, b, fmod=1)[0].tolist() == [-1, 1, -1, 1]
    assert run("Mod", np.array([-7.5], F32), np.array([2.0], F32), fmod=1)[0].tolist() == [-1.5]


@pytest.mark.parametrize("dtype", [np.int8, I32, I64])
def test_what_kills_runtimes_is_refused(dtype: Any) -> None:
    low = np.array([np.iinfo(dtype).min], dtype)
    for op in ("Div", "Mod"):
        with pytest.raises(Undefined, match=f"{op} of the smallest {low.dtype} by -1"):
            run(op, low, np.array([-1], dtype))
        with pytest.raises(Undefined, match=f"{op} of integers by zero"):
            run(op, low, np.array([0], dtype))
    with pytest.raises(Undefined, match="Abs of the smallest"):
        run("Abs", low)


def test_integers_wrap_around_and_keep_their_dtype() -> None:
    assert run("Add", np.array([127], np.int8), np.array([1], np.int8))[0].tolist() == [-128]
    assert run("Mul", ints(MAX64), ints(2))[0].dtype == I64
    assert run("Pow", np.array([2, -3], I32), np.array([10, 3], I64))[0].tolist() == [1024, -27]
    with pytest.raises(Undefined, match="beyond what int32 holds"):
        run("Pow", np.array([2], I32), np.array([31], I64))


# -- floating point ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F16, BF16, F32, np.float64])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"])
def test_the_dtype_is_never_promoted(op: str, dtype: Any) -> None:
    x, y = np.array([1.5, 2.0], dtype), np.array(2.0, dtype)
    (found,) = run(op, x, y)
    assert found.dtype == dtype and found.shape == (2,)
    for unary in ("Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Floor", "ReduceSum", "ReduceMean"):
        assert run(unary, x)[0].dtype == dtype


def test_mixed_dtypes_are_refused() -> None:
    with pytest.raises(Undefined, match="Add of float32 and float64"):
        run("Add", np.zeros(1, F32), np.zeros(1, np.float64))


def test_special_values() -> None:
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 0.5, 2.5, -1.5], F32)
    assert same(run("Neg", special)[0], -special)
    assert same(run("Round", special)[0], np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 0.0, 2.0, -2.0], F32))
    assert same(run("Add", special, np.zeros(8, F32))[0], special + F32(0))
    assert run("Equal", special, special)[0].tolist() == [True, True, False, True, True, True, True, True]
    assert np.isnan(run("Max", np.array([1.0], F32), np.array([np.nan], F32))[0]).all()
    with pytest.raises(Undefined, match="Sign of NaN"):
        run("Sign", special)
    with pytest.raises(Undefined, match="a NaN among them"):
        run("ReduceMax", special)


def test_half_precision_rounds_once_at_the_end() -> None:
    x = np.full((1, 4096), 1.0, F16)
    assert run("ReduceSum", x)[0].item() == 4096.0
    assert run("MatMul", x, x.T)[0].item() == 4096.0
    assert run("MatMul", x.astype(BF16), x.T.astype(BF16))[0].dtype == BF16


def test_wide_keeps_what_rounding_would_lose() -> None:
    big, one = np.array([2048.0], F16), np.array([1.0], F16)
    assert run("Add", big, one)[0].item() == 2048.0
    (total,) = evaluate("Add", "", 21, [big, one], {}, wide=True)
    assert total.dtype == F32 and total.item() == 2049.0
    assert evaluate("Add", "", 21, [np.ones(1, F32), np.full(1, 1e-9, F32)], {}, wide=True)[0].dtype == np.float64
    assert evaluate("Cast", "", 21, [total], {"to": 10}, wide=True)[0].item() == 2049.0
    assert evaluate("Shape", "", 21, [big], {}, wide=True)[0].dtype == I64


# -- casts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "to", "expected"),
    [
        (np.array([1.9, -1.9, 0.0], F32), 7, np.array([1, -1, 0], I64)),
        (np.array([0.0, -0.0, 0.1, np.nan, np.inf], F32), 9, np.array([False, False, True, True, True])),
        (np.array([300, -1], I32), 2, np.array([44, 255], np.uint8)),
        (np.array([True, False]), 1, np.array([1.0, 0.0], F32)),
        (np.array([1e39, -1e39], np.float64), 1, np.array([np.inf, -np.inf], F32)),
        (np.array([65520.0, 1.0009765625], F32), 10, np.array([np.inf, 1.0009765625], F16)),
        (np.array([2**24 + 1], I32), 1, np.array([2**24], F32)),
        (np.array([1.0, 448.0], F32), 17, np.array([1.0, 448.0], ml_dtypes.float8_e4m3fn)),
        (np.array([7, -8], I64), 22, np.array([7, -8], ml_dtypes.int4)),
    ],
)
def test_casts(array: np.ndarray, to: int, expected: np.ndarray) -> None:
    (found,) = run("Cast", array, to=to)
    assert found.dtype == expected.dtype
    assert found.astype(np.float64).tobytes() == expected.astype(np.float64).tobytes()


@pytest.mark.parametrize(
    ("array", "to"),
    [
        (np.array([np.nan], F32), 7),
        (np.array([2.0**63], F32), 7),
        (np.array([-1.0], F32), 2),
        (np.array([2**31], np.float64), 6),
        (np.array([2**25 + 1], I64), 10),
        (np.array([1.0 + 2.0**-30], np.float64), 16),
    ],
)
def test_casts_that_onnx_leaves_open(array: np.ndarray, to: int) -> None:
    with pytest.raises(Undefined):
        run("Cast", array, to=to)


@pytest.mark.parametrize(("array", "to"), [(np.array([1e4], F32), 17), (np.array([9], I32), 22), (np.array(["a"]), 1)])
def test_casts_that_are_not_exact(array: np.ndarray, to: int) -> None:
    with pytest.raises(Unsupported):
        run("Cast", array, to=to)


# -- data movement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (1, MAX64, 1, [1, 2, 3, 4]),
        (-2, MAX64, 1, [3, 4]),
        (MAX64, MIN64, -1, [4, 3, 2, 1, 0]),
        (-1, -3, -1, [4, 3]),
        (-100, MIN64, -1, [0]),
        (0, 100, 2, [0, 2, 4]),
        (3, 1, 1, []),
    ],
)
def test_slice(start: int, end: int, step: int, expected: list[int]) -> None:
    x = np.arange(5)
    assert run("Slice", x, ints(start), ints(end), ints(0), ints(step))[0].tolist() == expected
    if step == 1:
        assert run("Slice", x, version=9, starts=[start], ends=[end])[0].tolist() == expected


def test_slice_backwards_to_the_largest_integer_is_ambiguous() -> None:
    with pytest.raises(Undefined, match="in two ways"):
        run("Slice", np.arange(3), ints(2), ints(MAX64), ints(0), ints(-1))


def test_reshape() -> None:
    x = np.zeros((2, 3, 4), F32)
    assert run("Reshape", x, ints(0, -1))[0].shape == (2, 12)
    assert run("Reshape", np.zeros((0, 3), F32), ints(3, 0), allowzero=1)[0].shape == (3, 0)
    for wanted in (ints(5, -1), ints(-1, -1), ints(2, 3), ints(1, 1, 1, 0), ints(2, 3, 4, -1, 0)):
        with pytest.raises(Undefined):
            run("Reshape", x, wanted)
    with pytest.raises(Undefined):
        run("Reshape", np.zeros((0, 3), F32), ints(0, -1))


def test_axes_are_attributes_or_inputs_by_version() -> None:
    x = np.zeros((2, 1, 3), F32)
    assert run("Squeeze", x, ints(1))[0].shape == (2, 3)
    assert run("Squeeze", x, version=11, axes=[-2])[0].shape == (2, 3)
    assert run("Unsqueeze", x, ints(0, -1))[0].shape == (1, 2, 1, 3, 1)
    assert run("Unsqueeze", x, version=11, axes=[0, 4])[0].shape == (1, 2, 1, 3, 1)
    assert run("ReduceMax", x, ints(0), keepdims=0)[0].shape == (1, 3)
    assert run("ReduceMax", x, version=13, axes=[0], keepdims=0)[0].shape == (1, 3)
    assert run("ReduceSum", x, ints(), noop_with_empty_axes=1)[0].shape == x.shape
    assert [p.shape for p in run("Split", x, ints(1, 2), axis=2, n_outputs=2)] == [(2, 1, 1), (2, 1, 2)]
    assert [p.shape for p in run("Split", np.zeros(7), num_outputs=3, n_outputs=3)] == [(3,), (3,), (1,)]
    with pytest.raises(Undefined, match="Split of 7 into 2 equal parts"):
        run("Split", np.zeros(7), version=13, n_outputs=2)


def test_gather_pad_tile_range_and_others() -> None:
    x = np.arange(6, dtype=I32).reshape(2, 3)
    assert run("Gather", x, ints(-1, 0), axis=1)[0].tolist() == [[2, 0], [5, 3]]
    with pytest.raises(Undefined, match="index out of range"):
        run("Gather", x, ints(3), axis=1)
    assert run("Pad", x, ints(0, 1, 0, -1), np.array(9, I32))[0].tolist() == [[9, 0, 1], [9, 3, 4]]
    assert run("Tile", x, ints(1, 2))[0].tolist() == [[0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]
    assert run("Range", *(np.array(v, I64) for v in (5, 0, -2)))[0].tolist() == [5, 3, 1]
    assert run("Expand", x, ints(2, 1, 1))[0].shape == (2, 2, 3)
    assert run("Flatten", x, axis=-1)[0].shape == (2, 3)
    assert run("Shape", x, start=-1)[0].tolist() == [3]
    assert run("Size", x)[0].tolist() == 6
    assert run("ConstantOfShape", ints(2), value=np.array([7], np.int8))[0].tolist() == [7, 7]
    assert run("Where", np.array([True, False]), np.array([1], F16), np.array([2], F16))[0].dtype == F16
    with pytest.raises(Undefined, match="cannot broadcast"):
        run("Add", np.zeros(2), np.zeros(3))


def test_gemm() -> None:
    a, b, c = np.ones((3, 2), F32), np.ones((4, 3), F32), np.arange(4, dtype=F32)
    assert run("Gemm", a, b, c, transA=1, transB=1, alpha=0.5, beta=2.0)[0].tolist() == [[1.5, 3.5, 5.5, 7.5]] * 2
    with pytest.raises(Undefined, match="Gemm cannot add float32"):
        run("Gemm", a, b, np.zeros((3, 2, 4), F32), transA=1, transB=1)


# -- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("ConstantOfShape", [ints(2**31, 2**31)], {}),
        ("Expand", [np.zeros(1, F32), ints(2**62)], {}),
        ("Tile", [np.zeros(2, F32), ints(2**62)], {}),
        ("Range", [np.array(0), np.array(MAX64), np.array(1)], {}),
        ("Range", [np.array(0.0), np.array(1e18), np.array(1.0)], {}),
        ("Pad", [np.zeros(1, F32), ints(0, 2**62)], {}),
        ("Add", [np.zeros((2**16, 1), F32), np.zeros((1, 2**16), F32)], {}),
        ("Gather", [np.zeros((1, 2**20), F32), np.zeros(2**20, I64)], {}),
        ("MatMul", [np.zeros((2**16, 1), F32), np.zeros((1, 2**16), F32)], {}),
        ("MatMul", [np.zeros((2**13, 2**10), I32), np.zeros((2**10, 2**11), I32)], {}),
        ("Where", [np.zeros((2**16, 1), bool), np.zeros((1, 2**16), F32), np.zeros((), F32)], {}),
    ],
)
def test_nothing_large_is_allocated(op: str, inputs: list[np.ndarray], attrs: dict[str, Any]) -> None:
    start = time.perf_counter()
    with pytest.raises((Unsupported, Undefined)):
        evaluate(op, "", 21, inputs, attrs)
    assert time.perf_counter() - start < 1


def test_the_budget_is_the_callers() -> None:
    x = np.zeros(1024, F32)
    assert evaluate("Tile", "", 21, [x, ints(4)], {}, budget=16384)[0].nbytes == 16384
    with pytest.raises(Unsupported, match="the result of Tile would have 16384 bytes, more than 16383"):
        evaluate("Tile", "", 21, [x, ints(4)], {}, budget=16383)


@pytest.mark.parametrize("op", ["RandomNormal", "If", "Loop", "Dropout", "OneHot", "Resize", "Conv", "Nonsense"])
def test_other_operators_are_refused(op: str) -> None:
    with pytest.raises(Unsupported, match=f"there is no kernel for {op}"):
        run(op, np.zeros(1, F32))


def test_other_domains_and_old_opsets_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"com.microsoft.Gelu is no standard operator"):
        evaluate("Gelu", "com.microsoft", 1, [np.zeros(1, F32)], {})
    with pytest.raises(Unsupported, match="Add of opset 6"):
        run("Add", np.zeros(1, F32), np.zeros(1, F32), version=6)
    assert has_kernel("Add") and not has_kernel("Softmax") and not has_kernel("Add", "my")


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("Relu", [np.array([-1.0, 2.0], F16)], {}),
        ("Softmax", [np.array([[1.0, 2.0]], F32)], {"axis": -1}),
        ("Erf", [np.array([0.5], F32)], {}),
        ("Clip", [np.array([-1.0, 9.0], F32), np.array(0.0, F32), None], {}),
        ("ArgMax", [np.array([[1.0, 5.0]], F32)], {"axis": 1}),
        ("NonZero", [np.array([0, 3], I64)], {}),
        ("CumSum", [np.array([1, 2], I64), np.array(0)], {}),
    ],
)
def test_the_reference_implementation_does_the_rest(op: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    names = [f"i{i}" if x is not None else "" for i, x in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, ["o"], **attrs)
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.ValueInfoProto(name=n) for n in names if n], [onnx.ValueInfoProto(name="o")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if n}
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    (found,) = run(op, *inputs, **attrs)
    assert found.dtype == np.asarray(expected).dtype and np.array_equal(found, expected)


def test_calls_that_make_no_sense_are_refused_and_never_crash() -> None:
    x = np.zeros((2, 2), F32)
    for op, inputs, attrs in (
        ("Concat", [x, x], {"axis": 7}),
        ("Transpose", [x], {"perm": [0, 0]}),
        ("Gather", [x], {}),
        ("Slice", [x, ints(0), ints(1), ints(0), ints(0)], {}),
        ("Cast", [x], {"to": 99}),
        ("Cast", [x], {}),
        ("ReduceSum", [x, ints(5)], {}),
        ("Unsqueeze", [x, ints(0, 0)], {}),
        ("ConstantOfShape", [ints(-1)], {}),
        ("Softmax", [x], {"axis": 9}),
    ):
        with pytest.raises((Undefined, Unsupported)):
            evaluate(op, "", 21, inputs, attrs)
