"""Finding the first bad of many states by replays, of which each can show several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

__all__ = ["STOPS", "first_bad", "stops_between"]

T = TypeVar("T")

STOPS = 3
"""States that one replay shows: two halvings for the price of one run. More would mostly be thrown away unseen."""


def first_bad(
    good: int,
    bad: int,
    replay: Callable[[Sequence[int]], Mapping[int, T]],
    is_bad: Callable[[int, T], bool],
    stops: int = STOPS,
) -> int:
    """A number k in good < k <= bad whose state is bad, and whose predecessor's is not.

    `replay` returns the states with the numbers it is given, which ascend; `is_bad` judges one. State `good` is
    taken for good and state `bad` for bad, whatever lies between them: where states go bad, good and bad again, it is
    one of the places where they go bad. At most ceil(log(bad - good) / log(stops + 1)) replays, and
    ceil(log2(bad - good)) judgements if `stops` + 1 is a power of two.
    """
    while bad - good > 1:
        states = replay(stops_between(good, bad, stops))
        left = sorted(states)
        while left:
            middle = left[len(left) // 2]
            if is_bad(middle, states[middle]):
                bad = middle
            else:
                good = middle
            left = [number for number in left if good < number < bad]
        del states  # large, and not wanted during the next replay
    return bad


def stops_between(good: int, bad: int, stops: int) -> list[int]:
    """At most `stops` numbers that divide what lies between two numbers evenly."""
    inside = bad - good - 1
    if inside <= stops:
        return list(range(good + 1, bad))
    return [good + (bad - good) * i // (stops + 1) for i in range(1, stops + 1)]
