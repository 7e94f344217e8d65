"""Slice, Pad, Expand, Tile and Split: those that take or add nothing, and chains of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tests.rules.exact import fires, stays
from tests.rules.helpers import Outcome

BIG, LOW = 2**63 - 1, -(2**63)


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def given(outcome: Outcome, op: str) -> list[list[int]]:
    """The constant inputs of the one node of this kind."""
    tensors = {t.name: numpy_helper.to_array(t).tolist() for t in outcome.after.graph.initializer}
    return [tensors[name] for name in outcome.node(op).input[1:]]


@pytest.mark.parametrize(
    ("signature", "body", "constants"),
    [
        ("(float[N,4] x) => (float[N,4] y)", "y = Slice(x, s, e)", {"s": i(0), "e": i(BIG)}),
        ("(float[N,4] x) => (float[N,4] y)", "y = Slice(x, s, e, a)", {"s": i(-4), "e": i(4), "a": i(-1)}),
        (
            "(float[N,4] x) => (float[N,4] y)",
            "y = Slice(x, s, e, a, t)",
            {"s": i(LOW), "e": i(9), "a": i(1), "t": i(1)},
        ),
        ("(float[N,1] x) => (float[N,1] y)", "y = Slice(x, s, e, a, t)", {"s": i(0), "e": i(7), "a": i(1), "t": i(3)}),
    ],
)
def test_slice_of_everything(signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    fires("slice_noop", signature, body, "", dims=({"N": 2}, {"N": 0}), **constants)


def test_slice_of_everything_before_opset_10() -> None:
    fires(
        "slice_noop", "(float[N,4] x) => (float[N,4] y)", "y = Slice<starts=[0,0],ends=[9999999999,4]>(x)", "", opset=9
    )


@pytest.mark.parametrize(
    ("reason", "s", "e", "a", "t"),
    [
        ("step may be negative", -1, LOW, 1, -1),
        ("shape changes", 1, BIG, 1, 1),
        ("shape changes", 0, 4, 1, 2),
        ("shape changes", 0, 4, 0, 1),
    ],
)
def test_slice_of_something_stays(reason: str, s: int, e: int, a: int, t: int) -> None:
    stays(
        "slice_noop",
        reason,
        "(float[N,4] x) => (float[M,K] y)",
        "y = Slice(x, s, e, a, t)",
        s=i(s),
        e=i(e),
        a=i(a),
        t=i(t),
    )


S = "(float[N,12,6] x) => (float[P,Q,R] y)"
TWO = "t = Slice(x, s, e, a, d) y = Slice(t, s2, e2, a2, d2)"


@pytest.mark.parametrize(
    ("first", "then", "wanted"),
    [
        ((2, 9, 1, 1), (1, 5, 2, 1), [[2, 1], [9, 5], [1, 2]]),
        ((2, 9, 1, 1), (1, 5, -1, 1), [[2, 1], [9, 5], [1, 2]]),
        ((2, 9, 1, 1), (1, 5, 1, 1), [[3], [7], [1]]),
        ((2, 9, 1, 2), (1, BIG, 1, 2), [[4], [10], [1], [4]]),
        ((-1, LOW, 1, -1), (0, 3, 1, 1), [[11], [8], [1], [-1]]),
        ((-1, LOW, 1, -1), (-1, LOW, 1, -1), [[0], [12], [1]]),
        ((5, LOW, 1, -1), (0, BIG, 1, 1), [[5], [LOW], [1], [-1]]),
        ((4, 2, 1, 1), (0, 3, 1, 1), [[0], [0], [1]]),
        ((0, BIG, 1, 1), (-3, -1, 1, 1), [[9], [11], [1]]),
    ],
)
def test_slices(first: tuple[int, ...], then: tuple[int, ...], wanted: list[list[int]]) -> None:
    names = ("s", "e", "a", "d")
    constants = {n: i(v) for n, v in zip(names, first, strict=True)}
    constants |= {f"{n}2": i(v) for n, v in zip(names, then, strict=True)}
    if first == (0, BIG, 1, 1) or first[3] == -1 == then[3]:
        # The first one takes everything, or what is left does: another rule finishes it.
        fires(
            "slice_slice" if first[3] == -1 else "slice_noop",
            S,
            TWO,
            "" if first[3] == -1 else "Slice",
            dims=({"N": 2}, {"N": 0}),
            **constants,
        )
        return
    outcome = fires("slice_slice", S, TWO, "Slice", dims=({"N": 2}, {"N": 0}), **constants)
    assert given(outcome, "Slice") == wanted


def test_slices_of_a_dynamic_axis() -> None:
    dynamic = "(float[N,3] x) => (float[M,3] y)"
    # How much is left of N is not known as a polynomial, so the shapes are not provably equal.
    stays("slice_slice", "shape of the replacement", dynamic, "t = Slice(x, s, e) y = Slice(t, s, e)", s=i(1), e=i(BIG))
    stays("slice_slice", "counts from the end", dynamic, "t = Slice(x, s, e) y = Slice(t, s, e)", s=i(0), e=i(-1))


def test_slices_before_opset_10() -> None:
    outcome = fires(
        "slice_slice",
        "(float[6,8] x) => (float[P,Q] y)",
        "t = Slice<axes=[1],starts=[1],ends=[-1]>(x) y = Slice<starts=[1,2],ends=[4,5]>(t)",
        "Slice",
        opset=9,
    )
    assert outcome.attrs("Slice") == {"axes": [0, 1], "starts": [1, 3], "ends": [4, 6]}


def test_slices_with_another_reader() -> None:
    stays(
        "slice_slice",
        "other readers",
        "(float[6] x) => (float[2] y, float[4] t)",
        "t = Slice(x, s, e) y = Slice(t, s, z)",
        s=i(1),
        e=i(5),
        z=i(3),
    )


@pytest.mark.parametrize(
    ("signature", "body", "constants"),
    [
        ("(float[N,4] x) => (float[N,4] y)", "y = Expand(x, s)", {"s": i(1, 4)}),
        ("(float[N,4] x) => (float[N,4] y)", "y = Expand(x, s)", {"s": i(1)}),
        ("(float[N,4] x) => (float[N,4] y)", "s = Shape(x) y = Expand(x, s)", {}),
        ("(float[N,4] x) => (float[N,4] y)", "y = Tile(x, s)", {"s": i(1, 1)}),
        ("(float[N,0] x) => (float[N,0] y)", "y = Tile(x, s)", {"s": i(1, 3)}),
    ],
)
def test_expand_and_tile(signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    fires("expand_noop", signature, body, "", dims=({"N": 2}, {"N": 1}, {"N": 0}), **constants)


@pytest.mark.parametrize(
    ("body", "shape", "s"),
    [
        ("y = Expand(x, s)", "2,N,4", i(2, 1, 1)),
        ("y = Tile(x, s)", "N,8", i(1, 2)),
        ("y = Expand(x, s)", "P,4", i(3, 4)),
    ],
)
def test_expand_and_tile_stay(body: str, shape: str, s: np.ndarray) -> None:
    stays("expand_noop", "shape changes", f"(float[N,4] x) => (float[{shape}] y)", body, s=s)


def test_split_into_one() -> None:
    fires("split_noop", "(float[N,4] x) => (float[N,4] y)", "y = Split<axis=1>(x, s)", "", s=i(4))
    fires("split_noop", "(float[N,4] x) => (float[N,4] y)", "y = Split<axis=1>(x)", "", opset=11)
    fires("split_noop", "(float[N,4] x) => (float[N,4] y)", "y = Split<axis=1, num_outputs=1>(x)", "")
    stays("split_noop", "several parts", "(float[4] x) => (float[4] y, float[0] z)", "y, z = Split(x, s)", s=i(4, 0))


@pytest.mark.parametrize(
    ("body", "opset", "constants"),
    [
        ("y = Pad(x, p)", 18, {"p": i(0, 0, 0, 0)}),
        ('y = Pad<mode="reflect">(x, p)', 18, {"p": i(0, 0, 0, 0)}),
        ("y = Pad(x, p, v, a)", 21, {"p": i(0, 0), "v": np.float32(3), "a": i(-1)}),
        ("y = Pad(x, p)", 11, {"p": i(0, 0, 0, 0)}),
        ("y = Pad<pads=[0,0,0,0]>(x)", 9, {}),
    ],
)
def test_pad_by_nothing(body: str, opset: int, constants: dict[str, np.ndarray]) -> None:
    fires("pad_noop", "(float[N,4] x) => (float[N,4] y)", body, "", opset=opset, dims=({"N": 2},), **constants)


def test_pad_that_moves_stays() -> None:
    stays("pad_noop", "something is padded", "(float[4] x) => (float[4] y)", "y = Pad(x, p)", p=i(1, -1))
    stays("pad_noop", "not fixed", "(float[4] x, int64[2] p) => (float[M] y)", "y = Pad(x, p)")


P = "(float[N,4] x) => (float[P,Q] y)"
PADS = "t = Pad(x, p) y = Pad(t, q)"


@pytest.mark.parametrize(
    ("body", "opset", "constants", "wanted"),
    [
        (PADS, 18, {"p": i(0, 1, 0, 2), "q": i(3, 0, 1, 1)}, [[3, 1, 1, 3]]),
        (
            "t = Pad(x, p, v) y = Pad(t, q, v)",
            13,
            {"p": i(0, 1, 0, 2), "q": i(3, 0, 1, 1), "v": np.float32(5)},
            [[3, 1, 1, 3], 5.0],
        ),
        (
            "t = Pad(x, p, , a) y = Pad(t, q, v)",
            18,
            {"p": i(1, 2), "a": i(-1), "q": i(0, 1, 0, 0), "v": np.float32(0)},
            [[0, 2, 0, 2], 0.0],
        ),
    ],
)
def test_pads(body: str, opset: int, constants: dict[str, np.ndarray], wanted: list[object]) -> None:
    outcome = fires("pad_pad", P, body, "Pad", opset=opset, dims=({"N": 2},), **constants)
    assert given(outcome, "Pad") == wanted


def test_pads_before_opset_11() -> None:
    outcome = fires(
        "pad_pad", P, "t = Pad<pads=[0,1,0,2],value=2.0>(x) y = Pad<pads=[1,0,0,0],value=2.0>(t)", "Pad", opset=10
    )
    assert outcome.attrs("Pad") == {"pads": [1, 1, 0, 2], "value": 2.0}


@pytest.mark.parametrize(
    ("reason", "body", "constants"),
    [
        ("one of them crops", PADS, {"p": i(0, -1, 0, 2), "q": i(0, 1, 0, 0)}),
        ("constants differ", "t = Pad(x, p, v) y = Pad(t, p)", {"p": i(0, 1, 0, 2), "v": np.float32(5)}),
        ("constants differ", "t = Pad(x, p, v) y = Pad(t, p)", {"p": i(0, 1, 0, 2), "v": np.float32(-0.0)}),
        ("mode is not", 't = Pad<mode="edge">(x, p) y = Pad(t, p)', {"p": i(0, 1, 0, 2)}),
        ("mode is not", 't = Pad<mode="reflect">(x, p) y = Pad<mode="reflect">(t, p)', {"p": i(0, 1, 0, 2)}),
    ],
)
def test_pads_stay(reason: str, body: str, constants: dict[str, np.ndarray]) -> None:
    stays("pad_pad", reason, P, body, **constants)


def test_slices_that_share_the_first() -> None:
    body = "t = Slice(x, s, e, a) y = Slice(t, s, e, b) z = Slice(t, e, f, b)"
    fires(
        "slice_slice",
        "(float[6,6] x) => (float[2,2] y, float[2,3] z)",
        body,
        "Slice Slice",
        s=i(1),
        e=i(3),
        f=i(9),
        a=i(0),
        b=i(1),
    )
