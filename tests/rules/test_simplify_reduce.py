"""Reductions, and Gathers of one index, whose result gets or loses the axes again."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rules.exact import fires, stays

REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp")
X = "(float[N,3,M,5] x) => (float[N,{},{},5] y)"
DIMS = ({"N": 2, "M": 4}, {"N": 1, "M": 1})


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_put_back_or_squeezed(op: str, opset: int) -> None:
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    reduce = f"t = {op}<keepdims={{}}>(x, a)" if as_input else f"t = {op}<keepdims={{}},axes=[-2,1]>(x)"
    signature = X.format(1, 1)
    for rule, after, keepdims, out in (
        ("reduce_unsqueeze", "Unsqueeze", 0, signature),
        ("reduce_squeeze", "Squeeze", 1, "(float[N,3,M,5] x) => (float[N,5] y)"),
    ):
        then = f"y = {after}(t, u)" if opset >= 13 else f"y = {after}<axes=[1,2]>(t)"
        constants = {**({"a": i(-2, 1)} if as_input else {}), **({"u": i(1, 2)} if opset >= 13 else {})}
        outcome = fires(rule, out, reduce.format(keepdims) + " " + then, op, opset=opset, dims=DIMS, **constants)
        assert outcome.attrs(op)["keepdims"] == 1 - keepdims


def test_reduction_of_everything() -> None:
    fires(
        "reduce_unsqueeze",
        "(float[N,3] x) => (float[1,1] y)",
        "t = ReduceSum<keepdims=0>(x) y = Unsqueeze(t, u)",
        "ReduceSum",
        u=i(0, 1),
    )


def test_index_of_the_largest() -> None:
    fires(
        "reduce_unsqueeze",
        "(float[N,3,5] x) => (int64[N,1,5] y)",
        "t = ArgMax<axis=-2,keepdims=0>(x) y = Unsqueeze(t, u)",
        "ArgMax",
        u=i(1),
    )
    fires(
        "reduce_squeeze",
        "(float[N,3,5] x) => (int64[N,5] y)",
        "t = ArgMin<axis=1>(x) y = Squeeze(t, u)",
        "ArgMin",
        u=i(-2),
    )


@pytest.mark.parametrize(
    ("rule", "reason", "signature", "body", "constants"),
    [
        (
            "reduce_unsqueeze",
            "keeps its dims",
            X.format("1,1", "M"),
            "t = ReduceMax(x, a) y = Unsqueeze(t, u)",
            {"a": i(1), "u": i(1)},
        ),
        (
            "reduce_unsqueeze",
            "other axes",
            "(float[N,3,5] x) => (float[1,N,5] y)",
            "t = ReduceMax<keepdims=0>(x, a) y = Unsqueeze(t, u)",
            {"a": i(1), "u": i(0)},
        ),
        (
            "reduce_unsqueeze",
            "other readers",
            "(float[N,3] x) => (float[N,1] y, float[N] t)",
            "t = ReduceMax<keepdims=0>(x, a) y = Unsqueeze(t, a)",
            {"a": i(1)},
        ),
        (
            "reduce_unsqueeze",
            "not fixed",
            "(float[2,3] x, int64[1] a) => (float[P,Q] y)",
            "t = ReduceMax<keepdims=0>(x, a) y = Unsqueeze(t, u)",
            {"u": i(1)},
        ),
        (
            "reduce_unsqueeze",
            "nothing is reduced",
            "(float[N,3] x) => (float[1,N,3] y)",
            "t = ReduceMax<keepdims=0,noop_with_empty_axes=1>(x) y = Unsqueeze(t, u)",
            {"u": i(0)},
        ),
        (
            "reduce_squeeze",
            "does not keep",
            "(float[N,1,3] x) => (float[3] y)",
            "t = ReduceMax<keepdims=0>(x, a) y = Squeeze(t, a)",
            {"a": i(0)},
        ),
        (
            "reduce_squeeze",
            "other axes",
            "(float[N,1,3] x) => (float[N,1] y)",
            "t = ReduceMax(x, a) y = Squeeze(t, u)",
            {"a": i(2), "u": i(1)},
        ),
        (
            "reduce_squeeze",
            "depends on the sizes",
            "(float[N,1,3] x) => (float[P] y)",
            "t = ReduceMax(x, a) y = Squeeze(t)",
            {"a": i(2)},
        ),
    ],
)
def test_stays(rule: str, reason: str, signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    stays(rule, reason, signature, body, **constants)


@pytest.mark.parametrize(("axis", "index"), [(0, 1), (1, -1), (-1, 0)])
def test_gather_of_one(axis: int, index: int) -> None:
    out = {0: "1,M,5", 1: "3,1,5", -1: "3,M,1"}[axis]
    fires(
        "gather_unsqueeze",
        f"(float[3,M,5] x) => (float[{out}] y)",
        f"t = Gather<axis={axis}>(x, k) y = Unsqueeze(t, u)",
        "Gather" if axis == 1 else "Slice",  # a range of an axis whose size is known
        k=np.array(index),
        u=i(axis),
    )


@pytest.mark.parametrize(
    ("reason", "out", "k", "u"),
    [("another one", "1,3,5", np.array(1), i(0)), ("several indices", "3,1,2,5", i(0, 1), i(1))],
)
def test_gather_stays(reason: str, out: str, k: np.ndarray, u: np.ndarray) -> None:
    stays(
        "gather_unsqueeze",
        reason,
        f"(float[3,4,5] x) => (float[{out}] y)",
        "t = Gather<axis=1>(x, k) y = Unsqueeze(t, u)",
        k=k,
        u=u,
    )
