"""Reshape, Flatten, Squeeze and Unsqueeze: alone, in a row, and with computed targets."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tests.rules.exact import fires, stays
from tests.rules.helpers import Outcome


def i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def target(outcome: Outcome) -> list[int]:
    name = outcome.node("Reshape").input[1]
    (tensor,) = [t for t in outcome.after.graph.initializer if t.name == name]
    return numpy_helper.to_array(tensor).tolist()


@pytest.mark.parametrize(
    ("signature", "body", "constants"),
    [
        ("(float[2,3] x) => (float[2,3] y)", "y = Reshape(x, s)", {"s": i(2, 3)}),
        ("(float[N,3] x) => (float[N,3] y)", "y = Reshape(x, s)", {"s": i(-1, 3)}),
        ("(float[N,M] x) => (float[N,M] y)", "y = Reshape(x, s)", {"s": i(0, 0)}),
        ("(float[N,M] x) => (float[N,M] y)", "s = Shape(x) y = Reshape(x, s)", {}),
        ("(float[N,3] x) => (float[N,3] y)", "y = Flatten(x)", {}),
        ("(float[1,3] x) => (float[1,3] y)", "y = Flatten<axis=0>(x)", {}),
        ("(float[2,3] x) => (float[2,3] y)", "y = Squeeze(x)", {}),
        ("(float[2,3] x) => (float[2,3] y)", "y = Squeeze(x, s)", {"s": i()}),
        ("(int64[0,3] x) => (int64[0,3] y)", "y = Reshape<allowzero=1>(x, s)", {"s": i(0, 3)}),
    ],
)
def test_same_shape(signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    fires("reshape_noop", signature, body, "", dims=({"N": 2, "M": 5}, {"N": 1, "M": 1}), **constants)


@pytest.mark.parametrize(
    ("signature", "s"),
    [("(float[2,3] x) => (float[3,2] y)", i(3, 2)), ("(float[N,3] x) => (float[3,M] y)", i(3, -1))],
)
def test_other_shape_stays(signature: str, s: np.ndarray) -> None:
    stays("reshape_noop", "shape changes", signature, "y = Reshape(x, s)", s=s)


@pytest.mark.parametrize(
    ("signature", "body", "constants", "wanted"),
    [
        (
            "(float[2,3,4] x) => (float[4,6] y)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(6, 4), "z": i(4, 6)},
            [4, 6],
        ),
        # 0 copies from what is in between, so it cannot stay
        (
            "(float[2,3,4] x) => (float[6,2,2] y)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(6, 4), "z": i(0, 2, 2)},
            [6, 2, 2],
        ),
        (
            "(float[N,3,4] x) => (float[N,6,2] y)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(0, 12), "z": i(0, 6, 2)},
            [0, 6, 2],
        ),
        (
            "(float[N,3,4] x) => (float[M,2] y)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(0, 12), "z": i(-1, 2)},
            [-1, 2],
        ),
        ("(float[N,3,1,1] x) => (float[N,1,3] y)", "t = Flatten(x) y = Unsqueeze(t, z)", {"z": i(1)}, [0, 1, 3]),
        ("(float[1,3,1,4] x) => (float[3,4,1] y)", "t = Squeeze(x) y = Unsqueeze(t, z)", {"z": i(-1)}, [3, 4, 1]),
        (
            "(float[3,1,N] x) => (float[M,1] y)",
            "t = Squeeze(x, s) y = Reshape(t, z)",
            {"s": i(1), "z": i(-1, 1)},
            [-1, 1],
        ),
    ],
)
def test_chain(signature: str, body: str, constants: dict[str, np.ndarray], wanted: list[int]) -> None:
    outcome = fires("reshape_chain", signature, body, "Reshape", dims=({"N": 2}, {"N": 1}, {"N": 0}), **constants)
    assert target(outcome) == wanted


@pytest.mark.parametrize(
    ("signature", "body", "constants"),
    [
        ("(float[N,M] x) => (float[N,M] y)", "t = Unsqueeze(x, s) y = Squeeze(t, s)", {"s": i(1)}),
        ("(float[N,1,M] x) => (float[N,1,M] y)", "t = Squeeze(x, s) y = Unsqueeze(t, z)", {"s": i(1), "z": i(-2)}),
        (
            "(float[N,3,4] x) => (float[N,3,4] y)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(-1, 12), "z": i(-1, 3, 4)},
        ),
    ],
)
def test_chain_that_comes_back(signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    fires(
        "reshape_chain", signature, body, "", dims=({"N": 2, "M": 3}, {"N": 0, "M": 3}, {"N": 1, "M": 1}), **constants
    )


def test_chain_that_comes_back_before_opset_13() -> None:
    fires(
        "reshape_chain",
        "(float[N,M] x) => (float[N,M] y)",
        "t = Unsqueeze<axes=[1]>(x) y = Squeeze<axes=[1]>(t)",
        "",
        opset=11,
    )


@pytest.mark.parametrize(
    ("reason", "signature", "body", "constants"),
    [
        (
            "stands beside",
            "(float[N,3,A,B] x) => (float[N,3,C] y)",
            "t = Flatten(x) y = Reshape(t, z)",
            {"z": i(0, 3, -1)},
        ),
        (
            "other readers",
            "(float[2,6] x) => (float[3,4] y, float[12] t)",
            "t = Reshape(x, s) y = Reshape(t, z)",
            {"s": i(-1), "z": i(3, 4)},
        ),
        (
            "more than one size",
            "(float[A,B,C,D] x) => (float[P,1,Q] y)",
            "t = Flatten<axis=2>(x) y = Unsqueeze(t, z)",
            {"z": i(1)},
        ),
    ],
)
def test_chain_stays(reason: str, signature: str, body: str, constants: dict[str, np.ndarray]) -> None:
    stays("reshape_chain", reason, signature, body, **constants)


# -- computed targets: `b` and `l` are sizes of the operand, the rest is constant

BATCH = "sh = Shape(x) b = Gather(sh, zero)"
SIZES = BATCH + " l = Gather(sh, one)"
DIMS = ({"B": 2, "L": 3}, {"B": 0, "L": 3}, {"B": 1, "L": 0}, {"B": 1, "L": 1})


@pytest.mark.parametrize(
    ("signature", "sizes", "parts", "wanted", "dims"),
    [
        ("(float[B,L,8] x) => (float[B,L,2,4] y)", SIZES, "b, l, two, four", [0, 0, 2, 4], DIMS),
        ("(float[B,8,L] x) => (float[B,4,M] y)", BATCH, "b, four, minus", [0, 4, -1], DIMS[:1]),
        ("(float[B,L,8] x) => (float[B,M] y)", BATCH, "b, minus", [0, -1], DIMS[:1]),
    ],
)
def test_computed_target(
    signature: str, sizes: str, parts: str, wanted: list[int], dims: tuple[dict[str, int], ...]
) -> None:
    outcome = fires(
        "reshape_to_constant",
        signature,
        f"{sizes} s = Concat<axis=0>({parts}) y = Reshape(x, s)",
        "Reshape",
        dims=dims,
        zero=i(0),
        one=i(1),
        two=i(2),
        four=i(4),
        minus=i(-1),
    )
    assert target(outcome) == wanted


def test_computed_product_is_inferred() -> None:
    outcome = fires(
        "reshape_to_constant",
        "(float[B,L,8] x) => (float[M,8] y)",
        f"{SIZES} m = Mul(b, l) s = Concat<axis=0>(m, eight) y = Reshape(x, s)",
        "Reshape",
        dims=DIMS[:2],
        zero=i(0),
        one=i(1),
        eight=i(8),
    )
    assert target(outcome) == [-1, 8]


@pytest.mark.parametrize(
    ("reason", "signature", "parts"),
    [
        ("more than one size", "(float[B,L,4] x) => (float[L,B,4] y)", "l, b, four"),
        ("stands beside", "(float[B,2,L] x) => (float[B,L,2] y)", "b, l2, two"),
    ],
)
def test_computed_target_stays(reason: str, signature: str, parts: str) -> None:
    gathers = SIZES + " l2 = Gather(sh, two)"
    stays(
        "reshape_to_constant",
        reason,
        signature,
        f"{gathers} s = Concat<axis=0>({parts}) y = Reshape(x, s)",
        zero=i(0),
        one=i(1),
        two=i(2),
        four=i(4),
    )


def test_target_from_a_caller_stays() -> None:
    stays(
        "reshape_to_constant",
        "stands beside|more than one|rank",
        "(float[B,L] x, int64[2] s) => (float[P,Q] y)",
        "y = Reshape(x, s)",
    )


# -- axes of both


@pytest.mark.parametrize(
    ("first", "then", "wanted"),
    [((1,), (1,), [1, 2]), ((0,), (2,), [0, 2]), ((-1,), (0,), [0, 3]), ((0, 1), (0, 4), [0, 1, 2, 4])],
)
def test_unsqueezes(first: tuple[int, ...], then: tuple[int, ...], wanted: list[int]) -> None:
    out = iter("NM")
    shape = ",".join("1" if a in wanted else next(out) for a in range(2 + len(wanted)))
    signature = f"(float[N,M] x) => (float[{shape}] y)"
    outcome = fires(
        "unsqueeze_unsqueeze",
        signature,
        "t = Unsqueeze(x, s) y = Unsqueeze(t, z)",
        "Unsqueeze",
        dims=({"N": 2, "M": 3}, {"N": 0, "M": 3}),
        s=i(*first),
        z=i(*then),
    )
    (axes,) = [t for t in outcome.after.graph.initializer if t.name == outcome.node("Unsqueeze").input[1]]
    assert numpy_helper.to_array(axes).tolist() == wanted


def test_unsqueezes_before_opset_13() -> None:
    outcome = fires(
        "unsqueeze_unsqueeze",
        "(float[N,M] x) => (float[N,1,1,M] y)",
        "t = Unsqueeze<axes=[1]>(x) y = Unsqueeze<axes=[1]>(t)",
        "Unsqueeze",
        opset=11,
    )
    assert outcome.attrs("Unsqueeze") == {"axes": [1, 2]}


@pytest.mark.parametrize(
    ("first", "then", "wanted"), [((0,), (0,), [0, 1]), ((-1,), (-2,), [2, 4]), ((2, 0), (0,), [0, 1, 2])]
)
def test_squeezes(first: tuple[int, ...], then: tuple[int, ...], wanted: list[int]) -> None:
    names = iter("NMK")
    shape = ["1" if a in wanted else next(names) for a in range(5)]
    left = ",".join(d for d in shape if d != "1")
    outcome = fires(
        "squeeze_squeeze",
        f"(float[{','.join(shape)}] x) => (float[{left}] y)",
        "t = Squeeze(x, s) y = Squeeze(t, z)",
        "Squeeze",
        s=i(*first),
        z=i(*then),
    )
    (axes,) = [t for t in outcome.after.graph.initializer if t.name == outcome.node("Squeeze").input[1]]
    assert numpy_helper.to_array(axes).tolist() == wanted


def test_squeeze_of_whatever_is_1_stays() -> None:
    stays(
        "squeeze_squeeze",
        "depends on the sizes",
        "(float[1,1,N,3] x) => (float[N,3] y)",
        "t = Squeeze(x, s) y = Squeeze(t)",
        s=i(0),
    )


def test_chains_that_share_the_first() -> None:
    body = "t = Reshape(x, s) y = Reshape(t, z) w = Unsqueeze(t, one)"
    fires(
        "reshape_chain",
        "(float[2,6] x) => (float[4,3] y, float[3,1,4] w)",
        body,
        "Reshape Reshape",
        s=i(3, 4),
        z=i(4, 3),
        one=i(1),
    )
