"""Casts that change nothing, and casts in a row."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rules.exact import SIMPLIFY, fires, same_bits, stays
from tests.rules.helpers import build, rewrite, run

CODE = {"float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
        "double": 11, "uint32": 12, "uint64": 13, "bfloat16": 16}  # fmt: skip


def chain(*types: str) -> tuple[str, str]:
    """Signature and body of a model that casts from each type to the next."""
    names = ["x", *(f"t{i}" for i in range(len(types) - 2)), "y"]
    steps = [f"{b} = Cast<to={CODE[t]}>({a})" for a, b, t in zip(names, names[1:], types[1:], strict=False)]
    return f"({types[0]}[N,20] x) => ({types[-1]}[N,20] y)", " ".join(steps)


@pytest.mark.parametrize("dtype", ["float", "float16", "int64", "bool", "uint8"])
@pytest.mark.parametrize("opset", [9, 18, 23])
def test_cast_to_the_same(dtype: str, opset: int) -> None:
    fires("cast_noop", *chain(dtype, dtype), "", opset=opset, dims=({}, {"N": 0}))


def test_cast_that_changes_stays() -> None:
    stays("cast_noop", "dtype changes", *chain("float", "float16"))


def test_cast_like() -> None:
    fires("cast_like_noop", "(float[N] x, float[M] t) => (float[N] y)", "y = CastLike(x, t)", "")
    fires("cast_like", "(float[N] x, float16[M] t) => (float16[N] y)", "y = CastLike(x, t)", "Cast")


@pytest.mark.parametrize(
    ("types", "left"),
    [
        (("float16", "float", "float16"), ""),
        (("float", "double", "float"), ""),
        (("int32", "int64", "int32"), ""),
        (("bool", "float", "bool"), ""),
        (("uint8", "float16", "uint8"), ""),
        (("int32", "double", "int32"), ""),
        (("float16", "float", "double"), "Cast"),
        (("int32", "double", "float"), "Cast"),
        (("int16", "int64", "uint8"), "Cast"),
        (("uint32", "int64", "int8"), "Cast"),
        (("uint8", "uint32", "int64"), "Cast"),
        (("bool", "int64", "float"), "Cast"),
        (("float", "double", "bool"), "Cast"),
        (("int8", "float16", "float"), "Cast"),
    ],
)
def test_widened_then_cast_on(types: tuple[str, ...], left: str) -> None:
    fires("cast_cast", *chain(*types), left)


@pytest.mark.parametrize(
    ("reason", "types"),
    [
        ("float16 does not hold every float", ("float", "float16", "float")),
        ("int32 does not hold every int64", ("int64", "int32", "int64")),
        ("float does not hold every int32", ("int32", "float", "int32")),
        ("float16 does not hold every int16", ("int16", "float16", "float")),
        ("uint64 does not hold every int8", ("int8", "uint64", "int64")),
        ("int8 does not hold every uint8", ("uint8", "int8", "int64")),
        ("bfloat16 does not hold every float16", ("float16", "bfloat16", "float")),
        ("float16 does not hold every bfloat16", ("bfloat16", "float16", "float")),
        ("bool does not hold every int64", ("int64", "bool", "int64")),
        ("no defined result", ("float16", "float", "int32")),
    ],
)
def test_what_loses_something_stays(reason: str, types: tuple[str, ...]) -> None:
    stays("cast_cast", reason, *chain(*types))


def test_cast_chain_with_another_reader() -> None:
    body = "t = Cast<to=1>(x) y = Cast<to=11>(t)"
    stays("cast_cast", "other readers", "(float16[3] x) => (double[3] y, float[3] t)", body)
    body = "t = Cast<to=1>(x) y = Cast<to=10>(t)"
    fires("cast_cast", "(float16[3] x) => (float16[3] y, float[3] t)", body, "Cast")


@pytest.mark.parametrize("opset", [13, 22])
def test_extremes_survive(opset: int) -> None:
    model = build(*chain("int64", "int64", "uint8"), opset=opset)
    outcome = rewrite(model, SIMPLIFY, "exact")
    feeds = {"x": np.array([[2**63 - 1, -(2**63), -1, 256] * 5], np.int64)}
    same_bits(run(outcome.before, feeds), run(outcome.after, feeds))
