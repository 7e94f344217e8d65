"""Transposes that move nothing, chains of them, and those that no element notices."""

from __future__ import annotations

import pytest

from tests.rules.exact import fires, stays


@pytest.mark.parametrize(
    ("signature", "perm", "left"),
    [
        ("(float[N,3,H] x) => (float[N,3,H] y)", "<perm=[0,1,2]>", ""),
        ("(float[N] x) => (float[N] y)", "", ""),
        ("(float[1,1,5] x) => (float[1,1,5] y)", "<perm=[1,0,2]>", "Reshape"),
        ("(float[N,1,5] x) => (float[1,N,5] y)", "<perm=[1,0,2]>", "Reshape"),
        ("(float[N,7,1,1] x) => (float[N,1,1,7] y)", "<perm=[0,2,3,1]>", "Reshape"),
        ("(int64[1,6] x) => (int64[6,1] y)", "", "Reshape"),
    ],
)
@pytest.mark.parametrize("opset", [7, 18, 22])
def test_nothing_moves(signature: str, perm: str, left: str, opset: int) -> None:
    # The Reshape of [1, 1, 5] to [1, 1, 5] goes as well.
    left = "" if "[1,1,5] y" in signature else left
    fires(
        "transpose_of_ones",
        signature,
        f"y = Transpose{perm}(x)",
        left,
        opset=opset,
        dims=({"N": 3, "H": 2}, {"N": 0, "H": 2}, {"N": 1, "H": 1}),
    )


@pytest.mark.parametrize(
    ("reason", "signature", "perm"),
    [
        ("change places", "(float[2,3] x) => (float[3,2] y)", "[1,0]"),
        ("change places", "(float[N,3] x) => (float[3,N] y)", "[1,0]"),
        ("more than one size", "(float[1,N,M] x) => (float[N,M,1] y)", "[1,2,0]"),
        ("stands beside", "(float[N,M,1,3] x) => (float[N,1,M,3] y)", "[0,2,1,3]"),
    ],
)
def test_something_moves(reason: str, signature: str, perm: str) -> None:
    stays("transpose_of_ones", reason, signature, f"y = Transpose<perm={perm}>(x)")


@pytest.mark.parametrize(
    ("first", "then", "shape", "left"),
    [
        ("<perm=[0,2,3,1]>", "<perm=[0,3,1,2]>", "N,4,5,6", ""),
        ("<perm=[0,2,3,1]>", "<perm=[0,2,3,1]>", "N,6,4,5", "Transpose"),
        ("", "", "N,4,5,6", ""),
        ("<perm=[1,0,2,3]>", "", "6,5,N,4", "Transpose"),
    ],
)
def test_chain(first: str, then: str, shape: str, left: str) -> None:
    out = {"N,6,4,5": "N,5,6,4", "6,5,N,4": "4,N,6,5"}.get(shape, shape)
    signature = f"(float[{shape}] x) => (float[{out}] y)"
    outcome = fires(
        "transpose_transpose",
        signature,
        f"t = Transpose{first}(x) y = Transpose{then}(t)",
        left,
        dims=({"N": 2}, {"N": 0}),
    )
    if left and first == then:
        assert outcome.attrs("Transpose") == {"perm": [0, 3, 1, 2]}


def test_chain_with_another_reader() -> None:
    two = "(float[2,3,4] x) => (float[{}] y, float[3,4,2] t)"
    fires(
        "transpose_transpose",
        two.format("2,3,4"),
        "t = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[2,0,1]>(t)",
        "Transpose",
    )
    stays(
        "transpose_transpose",
        "other readers",
        two.format("4,2,3"),
        "t = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[1,2,0]>(t)",
    )
