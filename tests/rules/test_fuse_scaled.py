"""A number by which the product of two tensors is scaled, in the weights of one of them."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, weight

FUSE = Fuse()
SIGNATURE = "(float[B,S,8] x, float[B,2,4,S] k) => (float[B,2,S,S] y)"
QUERIES = "m = MatMul(x, w) r = Reshape(m, shape) q = Transpose<perm=[0,2,1,3]>(r) p = MatMul(q, k) "
SIZES = {"B": 2, "S": 3}
CONSTANTS = {"w": weight(8, 8), "shape": np.array([0, 0, 2, 4])}


@pytest.mark.parametrize(
    ("last", "c"),
    [
        ("y = Mul(p, c)", np.float32(0.5)),
        ("y = Mul(c, p)", np.float32([-0.3])),
        ("y = Div(p, c)", np.float32([[4.0]])),
        ("s = Mul(p, c) y = Softmax(s)", np.float32(0.5)),
    ],
)
def test_the_number_goes_into_the_weights_of_queries(last: str, c: np.ndarray) -> None:
    model = build(SIGNATURE, QUERIES + last, c=c, **CONSTANTS)
    rest = ["Softmax"] if "Softmax" in last else []
    outcome = fires(FUSE, model, "scaled_scores", ["MatMul", "Reshape", "Transpose", "MatMul", *rest], dims=SIZES)
    assert outcome.fired["matmul_scale"] == 1


def test_and_into_a_bias() -> None:
    body = QUERIES.replace("m = MatMul(x, w)", "n = MatMul(x, w) m = Add(n, b)") + "y = Mul(p, c)"
    model = build(SIGNATURE, body, c=np.float32(0.5), b=weight(8, seed=1), **CONSTANTS)
    fires(FUSE, model, "scaled_scores", ["MatMul", "Add", "Reshape", "Transpose", "MatMul"], dims=SIZES)


def test_into_the_weights_of_the_right_operand_where_only_it_has_some() -> None:
    body = "q = MatMul(x, w) t = Transpose<perm=[0,2,1]>(q) p = MatMul(k, t) y = Mul(p, c)"
    signature = "(float[B,S,8] x, float[B,T,6] k) => (float[B,T,S] y)"
    model = build(signature, body, c=np.float32(0.5), w=weight(8, 6))
    fires(FUSE, model, "scaled_scores", ["MatMul", "Transpose", "MatMul"], dims={"B": 2, "S": 3, "T": 5})


@pytest.mark.parametrize(
    ("last", "c", "reason"),
    [
        ("y = Mul(p, c)", np.float32(2), "between a thousandth and 1"),  # q may overflow
        ("y = Mul(p, c)", np.float32(1e-30), "between a thousandth and 1"),  # weights are no normal numbers any more
        ("y = Mul(p, c)", np.float32(0), "between a thousandth and 1"),
        ("y = Div(c, p)", np.float32(0.5), "not scaled by one number"),
        ("y = Mul(p, c)", np.float32([0.5, 0.25]).reshape(2, 1, 1), "not scaled by one number"),
        ("y = Mul(p, c) z = Neg(w)", np.float32(0.5), "no operand is made with weights"),  # they are read twice
        ("y = Mul(p, c) z = Neg(q)", np.float32(0.5), "no operand is made with weights"),  # somebody reads the queries
    ],
)
def test_what_stays(last: str, c: np.ndarray, reason: str) -> None:
    signature = SIGNATURE.replace("y)", "y, float[P,...] z)".replace(",...", ",Q" if "(w)" in last else ",Q,R,T"))
    model = build(signature if "z" in last else SIGNATURE, QUERIES + last, c=c, **CONSTANTS)
    declines(FUSE, model, "scaled_scores", reason)


def test_half_precision_stays() -> None:
    model = build(
        SIGNATURE.replace("float[", "float16["), QUERIES + "y = Mul(p, c)",
        c=np.float16(0.5), w=weight(8, 8, dtype=np.float16), shape=np.array([0, 0, 2, 4]),
    )  # fmt: skip
    declines(FUSE, model, "scaled_scores", "no longer normal")


def test_scores_that_somebody_else_reads_stay() -> None:
    model = build(SIGNATURE.replace("y)", "y, float[B,2,S,S] p)"), QUERIES + "y = Mul(p, c)",
                  c=np.float32(0.5), **CONSTANTS)  # fmt: skip
    declines(FUSE, model, "scaled_scores", None)
