"""Concat with what undoes, repeats or narrows it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.rules.exact import SIMPLIFY, fires, stays
from tests.rules.helpers import rewrite


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


ABC = "(float[N,2] a, float[N,3] b, float[N,4] c) => (float[N,{}] y)"
DIMS = ({"N": 2}, {"N": 0})


@pytest.mark.parametrize(
    ("signature", "body", "left"),
    [
        (ABC.format(9), "t = Concat<axis=1>(a, b) y = Concat<axis=-1>(t, c)", "Concat"),
        (
            ABC.format(18),
            "t = Concat<axis=1>(a, b, c) r = Abs(a) s = Concat<axis=1>(r, b, c) y = Concat<axis=1>(t, s)",
            "Concat Abs",
        ),
        ("(float[N,2] a) => (float[N,2] y)", "y = Concat<axis=1>(a)", ""),
        ("(float[N,2] a, float[N,0] b) => (float[N,2] y)", "y = Concat<axis=1>(b, a, b)", ""),
        ("(float[N,0] b) => (float[N,0] y)", "y = Concat<axis=1>(b, b)", ""),
        ("(float[N,6] a) => (float[N,6] y)", "t, u, v = Split<axis=-1>(a, k) y = Concat<axis=1>(t, u, v)", ""),
        (
            "(float[N,6] a, float[N,2] b) => (float[N,8] y)",
            "t, u, v = Split<axis=-1>(a, k) y = Concat<axis=1>(b, t, u, v)",
            "Concat",
        ),
    ],
)
def test_flat(signature: str, body: str, left: str) -> None:
    constants = {"k": i(1, 2, 3)} if "Split" in body else {}
    outcome = fires("concat_flat", signature, body, left, dims=DIMS, **constants)
    if "t, s" in body:
        assert len(outcome.node("Concat").input) == 6


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(float[2,2] a, float[2,2] b) => (float[4,4] y)", "t = Concat<axis=0>(a, b) y = Concat<axis=1>(t, t)"),
        (
            "(float[2,2] a, float[2,2] b) => (float[4,2] t, float[6,2] y)",
            "t = Concat<axis=0>(a, b) y = Concat<axis=0>(t, b)",
        ),
        ("(float[2,2] a, float[2,2] b) => (float[8,2] y)", "t = Concat<axis=0>(a, b) y = Concat<axis=0>(t, t)"),
        ("(float[N,6] a) => (float[N,6] y)", "t, u = Split<axis=1>(a, k) y = Concat<axis=1>(u, t)"),
        ("(float[N,6] a) => (float[M,3] y)", "t, u = Split<axis=1>(a, k) y = Concat<axis=0>(t, u)"),
    ],
)
def test_not_flat(signature: str, body: str) -> None:
    constants = {"k": i(3, 3)} if "Split" in body else {}
    stays("concat_flat", "nothing to flatten", signature, body, **constants)


def test_flattening_is_linear() -> None:
    def seconds(count: int) -> float:
        nodes = [helper.make_node("Concat", ["x", "x"], ["t0"], axis=0)]
        nodes += [helper.make_node("Concat", [f"t{n}", "x"], [f"t{n + 1}"], axis=0) for n in range(count)]
        vector = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        result = helper.make_tensor_value_info(f"t{count}", TensorProto.FLOAT, [count + 2])
        graph = helper.make_graph(nodes, "chain", [vector], [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        start = time.perf_counter()
        outcome = rewrite(model, SIMPLIFY)
        assert len(outcome.node("Concat").input) == count + 2
        return time.perf_counter() - start

    few = seconds(250)
    assert seconds(2000) < 8 * 4 * few


def test_split_of_concat() -> None:
    three = ABC.split("=>")[0] + "=> (float[N,2] p, float[N,3] q, float[N,4] r)"
    fires(
        "split_of_concat",
        three,
        "t = Concat<axis=1>(a, b, c) p, q, r = Split<axis=-1>(t, k)",
        "",
        dims=DIMS,
        k=i(2, 3, 4),
    )
    fires(
        "split_of_concat",
        "(float[N] a, float[M] b) => (float[N] p)",
        "t = Concat<axis=0>(a, b) n = Shape(a) m = Shape(b) k = Concat<axis=0>(n, m) p, q = Split(t, k)",
        "",
        dims=({"N": 2, "M": 3}, {"N": 0, "M": 1}),
    )


@pytest.mark.parametrize(
    ("reason", "body", "k"),
    [
        ("no part", "t = Concat<axis=1>(a, b) p, q = Split<axis=1>(t, k)", i(3, 2)),
        ("another axis", "t = Concat<axis=1>(a, b) p, q = Split<axis=0>(t, k)", i(1, 1)),
        ("no Concat", "t = Abs(a) p, q = Split<axis=1>(t, k)", i(1, 1)),
    ],
)
def test_split_of_concat_stays(reason: str, body: str, k: np.ndarray) -> None:
    stays("split_of_concat", reason, "(float[2,2] a, float[2,3] b) => (float[P,Q] p, float[R,S] q)", body, k=k)


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_split_of_which_one_part_is_used(opset: int) -> None:
    split = "<axis=1>(x, k)" if opset >= 13 else "<axis=1,split=[2,3,1]>(x)"
    constants = {"k": i(2, 3, 1)} if opset >= 13 else {}
    fires(
        "split_to_slice",
        "(float[N,6] x) => (float[N,3] y)",
        f"a, y, b = Split{split}",
        "Slice",
        opset=opset,
        dims=DIMS,
        **constants,
    )


def test_split_of_which_more_is_used_stays() -> None:
    stays(
        "split_to_slice", "several parts", "(float[6] x) => (float[3] y, float[3] z)", "y, z = Split<num_outputs=2>(x)"
    )
    stays("split_to_slice", "not fixed", "(float[N] x) => (float[M] z)", "y, z = Split<num_outputs=2>(x)")


CONCAT = "t = Concat<axis=1>(a, b, c)"


@pytest.mark.parametrize(
    ("width", "s", "e", "left"),
    [
        (3, 2, 5, ""),
        (2, 0, 2, ""),
        (4, -4, 2**63 - 1, ""),
        (2, 3, 5, "Slice"),
        (1, -1, 9, "Slice"),
    ],
)
def test_slice_of_concat(width: int, s: int, e: int, left: str) -> None:
    fires(
        "slice_of_concat", ABC.format(width), f"{CONCAT} y = Slice(t, s, e, k)", left, dims=DIMS, s=i(s), e=i(e), k=i(1)
    )


def test_slice_of_concat_before_opset_10() -> None:
    fires(
        "slice_of_concat",
        ABC.format(2),
        f"{CONCAT} y = Slice<starts=[6],ends=[8],axes=[1]>(t)",
        "Slice",
        opset=9,
        dims=DIMS,
    )


@pytest.mark.parametrize(
    ("reason", "s", "e", "k", "d"),
    [
        ("in several operands", i(1), i(3), i(1), i(1)),
        ("another axis", i(0), i(1), i(0), i(1)),
        ("takes steps", i(0), i(2), i(1), i(2)),
        ("several axes", i(0, 0), i(1, 1), i(0, 1), i(1, 1)),
        ("empty", i(4), i(2), i(1), i(1)),
    ],
)
def test_slice_of_concat_stays(reason: str, s: np.ndarray, e: np.ndarray, k: np.ndarray, d: np.ndarray) -> None:
    stays(
        "slice_of_concat",
        reason,
        ABC.format("Q").replace("[N,Q]", "[P,Q]"),
        f"{CONCAT} y = Slice(t, s, e, k, d)",
        s=s,
        e=e,
        k=k,
        d=d,
    )


def test_slice_beyond_a_dynamic_operand() -> None:
    signature = "(float[2] a, float[N] b, float[3] c) => (float[P] y)"
    body = "t = Concat<axis=0>(a, b, c) y = Slice(t, s, e)"
    fires("slice_of_concat", signature.replace("P", "2"), body, "", dims=DIMS, s=i(0), e=i(2))
    stays("slice_of_concat", "before it are not fixed", signature, body, s=i(2), e=i(3))
    stays("slice_of_concat", "counts from an end", signature, body, s=i(-2), e=i(2**63 - 1))


@pytest.mark.parametrize(
    ("index", "out"), [(np.array(3), "N"), (i(2, 4), "N,2"), (np.array(-9), "N"), (i(-1, -2), "N,2")]
)
def test_gather_of_concat(index: np.ndarray, out: str) -> None:
    fires(
        "gather_of_concat",
        f"{ABC.split('=>')[0]} => (float[{out}] y)",
        f"{CONCAT} y = Gather<axis=1>(t, k)",
        "Slice" if index.tolist() == [2, 4] else "Gather",  # every other element
        dims=DIMS,
        k=index,
    )


@pytest.mark.parametrize(
    ("reason", "axis", "k"),
    [("in several operands", 1, i(1, 2)), ("another axis", 0, i(0, 1)), ("not fixed", 1, i(-1, 0))],
)
def test_gather_of_concat_stays(reason: str, axis: int, k: np.ndarray) -> None:
    stays(
        "gather_of_concat",
        reason,
        f"{ABC.split('=>')[0]} => (float[P,Q] y)",
        f"{CONCAT} y = Gather<axis={axis}>(t, k)",
        k=k,
    )
