"""Symbolic sizes: what is equal, what divides, what is at least as large."""

from __future__ import annotations

import pickle
import random

import pytest

from graphopt.ir.dims import (
    Dim,
    at_least,
    at_most,
    broadcast,
    exact_quotient,
    known,
    product,
    provably_equal,
    static,
)

N, M, H = Dim.symbol("N"), Dim.symbol("M"), Dim.symbol("H")


def test_polynomials_have_one_form() -> None:
    assert N * (M + 1) - N == M * N
    assert (N + M) * (N - M) == N * N - M * M
    assert N - N == 0 and isinstance(N - N, int)
    assert 2 * N != N and N != M and N != 3
    assert len({N + M, M + N, 1 + M + N - 1}) == 1


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * N * N - M + 1, "2*N*N - M + 1"),
        (-N, "-N"),
        (Dim.symbol("past + 1") * 2, "2*'past + 1'"),
        (Dim.unknown("?image.0"), "?image.0"),
        ((H + 1) // 2, "floor((H + 1)/2)"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text


def test_an_unnamed_size_is_not_the_named_one_of_the_same_text() -> None:
    assert Dim.symbol("?1") != Dim.unknown("?1")
    assert Dim.symbol("floor(H/2)") != H // 2
    assert Dim.unknown("k", size=False) != Dim.unknown("k")


def test_exact_quotients() -> None:
    assert exact_quotient(4 * N, 4) == N
    assert exact_quotient(4 * N + 2, 4) is None
    assert exact_quotient(N * M * 12, 4 * M) == 3 * N
    assert exact_quotient((N + 1) * (M + 2), M + 2) == N + 1
    assert exact_quotient(N * M, H) is None
    assert exact_quotient(N, 0) is None
    assert exact_quotient(12, N) is None


def test_rounding_down_takes_out_what_divides() -> None:
    assert (4 * N + H) // 4 == N + H // 4
    assert (H - 1) // 2 + 1 == (H + 1) // 2
    assert (2 * N) // 2 == N
    with pytest.raises(ValueError, match="divided by numbers above 0"):
        N // 0


def test_five_strided_convolutions_are_one_quotient() -> None:
    size: int | Dim = H
    for _ in range(5):
        size = (size - 1) // 2 + 1
    assert size == (H + 31) // 32


def test_bounds_hold_for_empty_tensors_too() -> None:
    assert at_least(N + 1, 1) and not at_least(N, 1)
    assert at_most(N, N + M) and not at_most(N, M) and not at_most(N, N * M)
    assert not at_least(Dim.unknown("k", size=False), 0)
    assert at_least((H + 1) // 2, 0)


def test_shapes() -> None:
    assert provably_equal((N, 3), (N, 3))
    assert not provably_equal((N, 3), (M, 3))
    assert not provably_equal((None, 3), (None, 3))
    assert not provably_equal(None, None)
    assert product([2, N, 3]) == 6 * N and product([]) == 1
    assert static((2, 3)) == (2, 3) and static((2, N)) is None
    assert known((2, N)) == (2, N) and known((2, None)) is None


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        ([(N, 1), (1, 4)], (N, 4)),
        ([(N,), (N,)], (N,)),
        ([(N,), (M,)], (None,)),
        ([(N,), (5,)], (5,)),
        ([(N,), (0,)], (0,)),
        ([(N + 2,), (M,)], (N + 2,)),
        ([(None,), (1,)], (None,)),
        ([(None,), (7,)], (7,)),
        ([(N, M), (5,), (1,)], (N, 5)),
        ([(), (2, 1)], (2, 1)),
    ],
)
def test_broadcasting(shapes: list[tuple[int | Dim | None, ...]], result: tuple[int | Dim | None, ...]) -> None:
    assert broadcast(shapes) == result


def test_broadcasting_refuses_two_sizes() -> None:
    with pytest.raises(ValueError, match="sizes 2 and 3 do not broadcast"):
        broadcast([(2,), (3,)])


def test_beyond_int64_is_an_error() -> None:
    with pytest.raises(OverflowError, match="does not fit into int64"):
        (N * 2**40) * 2**40
    with pytest.raises(OverflowError, match="does not fit into int64"):
        product([2**40, 2**40])
    total: int | Dim = 1
    with pytest.raises(OverflowError, match="too many terms"):
        for i in range(8):
            total = total * (Dim.symbol(f"a{i}") + 1)


def test_identities_hold_for_numbers() -> None:
    """Random expressions, built once from symbols and once from the numbers they stand for."""
    rng = random.Random(0)
    for _ in range(200):
        sizes = {name: rng.randrange(0, 40) for name in "abc"}
        pairs: list[tuple[int | Dim, int]] = [(Dim.symbol(name), size) for name, size in sizes.items()]
        for _ in range(6):
            (x, i), (y, j) = rng.choice(pairs), rng.choice(pairs)
            k = rng.randrange(1, 5)
            pairs += [(x + y, i + j), (x * k - 1, i * k - 1), ((x + k) // k, (i + k) // k)]
        equal: dict[int | Dim, int] = {}
        for symbolic, number in pairs:
            assert equal.setdefault(symbolic, number) == number
            if at_least(symbolic, 3):
                assert number >= 3


def test_dims_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps((H + 1) // 2 + N)) == (H + 1) // 2 + N
