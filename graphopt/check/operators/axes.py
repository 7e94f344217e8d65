"""Axes: where an operator counts them from the front or from the end, and where two operators take the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.values import Want

_AGAIN = 0.7  # that axes which another operator took are taken again


def draw_axis(call: Call, rank: int, *, usual: Sequence[int] = (-1, 1)) -> int:
    """One axis of `rank`, counted from the front or from the end."""
    if rank == 0:
        raise Rejected(f"{call.op} has no axis to take")
    rng = call.rng
    seen = [s[0] for s in call.emitter.axes if len(s) == 1 and s[0] < rank]
    if seen and rng.random() < _AGAIN:
        axis = seen[-1]
    elif rng.random() < 0.4:
        axis = rng.choice(usual) % rank
    else:
        axis = rng.randrange(rank)
    call.emitter.axes.append((axis,))
    return signed(call, axis, rank)


def draw_axes(call: Call, rank: int, least: int = 1, most: int | None = None) -> list[int]:
    """Different axes of `rank`, from the front, in order."""
    rng = call.rng
    most = rank if most is None else min(most, rank)
    if most < least:
        raise Rejected(f"{call.op} has too few axes to take")
    seen = [s for s in call.emitter.axes if least <= len(s) <= most and all(a < rank for a in s)]
    if seen and rng.random() < _AGAIN:
        axes = sorted(seen[-1])
    elif rng.random() < 0.5 and most:
        axes = list(range(rank - rng.randint(max(1, least), max(1, least, min(2, most))), rank))
    else:
        axes = sorted(rng.sample(range(rank), rng.randint(least, most)))
    call.emitter.axes.append(tuple(axes))
    return axes


def from_front(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front, those that there are."""
    return [a % rank for a in axes if -rank <= a < rank]


def signed(call: Call, axis: int, rank: int) -> int:
    """An axis as the operator may write it: before opset 11 mostly from the front only."""
    if call.version < 11 and call.step.domain == "":
        return axis
    return axis - rank if call.rng.random() < 0.4 else axis


def give_axes(call: Call, index: int, axes: Sequence[int], rank: int, usual: float = 0.95) -> bool:
    """Write axes: as the operand at `index` if it is there, else as the attribute; whether they are written."""
    written = [signed(call, a, rank) for a in axes]
    if call.has(index):
        call.put(index, Want(content=np.array(written, np.int64)))
        return True
    return call.attr("axes", lambda: written, usual) is not None
