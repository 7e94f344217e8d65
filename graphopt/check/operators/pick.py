"""Operators that take, repeat or add elements: Slice, Gather and their like, Pad, Expand, Tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.operators.axes import draw_axes, draw_axis, from_front, give_axes, signed
from graphopt.check.sizes import Shape, broadcast
from graphopt.check.values import Want

_NEUTRAL = 0.4  # that an operator is given what leaves its operand as it is
_FAR = (1 << 63) - 1


def slice_(call: Call) -> None:
    """Ranges of some axes: all of one, some of it, backwards, beyond its end."""
    rng = call.rng
    x = call.put_data(len(call.integers(1) or [1]), call.integers(3))
    named = call.has(3) or call.version < 10
    axes = _sliced(call, len(x), named)
    whole = rng.random() < _NEUTRAL
    usual = 1.0 if not call.has(4) else 0.9 if whole else 0.6
    steps = [1 if rng.random() < usual else rng.choice((2, -1, -2)) for _ in axes]
    starts, ends = [], []
    for axis, step in zip(axes, steps, strict=True):
        start, end = _range(call, int(x[axis]), step, whole)
        starts.append(start)
        ends.append(end)
    for index, name, values in ((1, "starts", starts), (2, "ends", ends)):
        if call.has(index):
            call.put(index, Want(content=np.array(values, np.int64)))
        else:
            call.attr(name, partial(list, values), usual=1.0)
    if named:
        give_axes(call, 3, axes, len(x))
    if call.has(4):
        call.put(4, Want(content=np.array(steps, np.int64)))


def _sliced(call: Call, rank: int, named: bool) -> list[int]:
    """The axes of a Slice: those that the pattern writes out, any, or the first ones."""
    written = call.integers(3)
    if written:
        return from_front(written, rank)
    return draw_axes(call, rank, 1, 2) if named else list(range(call.rng.randint(1, rank)))


def _range(call: Call, size: int, step: int, whole: bool) -> tuple[int, int]:
    rng = call.rng
    if step < 0:
        return (rng.choice((-1, size - 1)), -_FAR) if whole else (rng.randint(-size, size), rng.choice((0, -size - 1)))
    if whole:
        return rng.choice((0, -size, 0)), rng.choice((size, _FAR, size + 3))
    start = rng.randint(0, max(0, size - 1))
    end = rng.randint(min(size, start + (rng.random() < 0.9)), size)
    return rng.choice((start, start, start - size)), rng.choice((end, end, end - size if end < size else _FAR))


def gather(call: Call) -> None:
    """Along an axis, at indices from the front and from the end; one index, several or a matrix of them."""
    rng = call.rng
    x = call.put_data(1)
    axis = call.attr("axis", lambda: draw_axis(call, len(x)), valid=lambda a: -len(x) <= a < len(x))
    if not -len(x) <= axis < len(x) or x[axis] == 0:
        raise Rejected("Gather has nothing to take")
    shape = rng.choice(((), (), (), (1,), (2,), (2, 3)))
    call.put(1, Want(content=_indices(call, shape, int(x[axis]))))


def _indices(call: Call, shape: Shape, size: int) -> np.ndarray:
    low = -size if call.version >= 11 and call.rng.random() < 0.5 else 0
    flat = [call.rng.randrange(low, size) for _ in range(int(np.prod(shape)))]
    return np.array(flat, np.int64).reshape(shape)


def gather_elements(call: Call) -> None:
    """GatherElements, and ScatterElements with updates for the same places."""
    x = call.put_data(1)
    if 0 in x:
        raise Rejected(f"{call.op} has nothing to take")
    axis = call.attr("axis", lambda: draw_axis(call, len(x)))
    size = int(x[axis])
    shape = tuple(int(s) for s in x)
    if call.op.startswith("Scatter"):  # each place once, for which of two updates wins is not defined
        ranks = np.argsort([call.rng.random() for _ in range(size)])
        along = ranks.reshape([size if i == axis % len(x) else 1 for i in range(len(x))])
        call.put(1, Want(content=np.broadcast_to(along, shape).astype(np.int64)))
        call.put(2, Want(shape=shape, strict=True))
    else:
        call.put(1, Want(content=_indices(call, shape, size)))


def gather_nd(call: Call) -> None:
    x = call.put_data(1)
    if 0 in x:
        raise Rejected("GatherND has nothing to take")
    call.attr("batch_dims", lambda: 0)
    depth = call.rng.randint(1, len(x))
    rows = [[call.rng.randrange(int(s)) for s in x[:depth]] for _ in range(2)]
    call.put(1, Want(content=np.array(rows, np.int64)))


def pad(call: Call) -> None:
    """Nothing, some or all axes; before opset 11 by attributes, from 18 on for named axes."""
    rng = call.rng
    x = call.put_data(len(call.integers(1) or call.foresee("pads") or (1, 1)) // 2, call.integers(3))
    rank = len(x)
    axes = draw_axes(call, rank) if call.has(3) else list(range(rank))
    mode = call.attr("mode", lambda: rng.choice(("constant", "reflect", "edge")), usual=0.2)
    if mode not in (None, "constant") and 0 in x:
        raise Rejected("nothing to repeat")
    spatial = rng.random() < 0.5  # as before a convolution: batch and channels stay
    amounts = [0 if rng.random() < 0.4 or (spatial and axes[i % len(axes)] < 2) else rng.randint(1, 2)
               for i in range(2 * len(axes))]
    if mode == "reflect":
        amounts = [min(n, max(0, int(x[axes[i % len(axes)]]) - 1)) for i, n in enumerate(amounts)]
    elif call.emitter.vary and rng.random() < 0.06 and min(x) > 1:
        amounts[rng.randrange(len(amounts))] = -1
    if rng.random() < _NEUTRAL:
        amounts = [0] * len(amounts)
    if call.has(1):
        call.put(1, Want(content=np.array(amounts, np.int64)))
    else:
        call.attr("pads", lambda: amounts)
    if call.has(2):
        dtype = call.emitter.types[call.step.operands[0]]  # type: ignore[index]
        drawn = call.emitter.numbers.array((), dtype, "natural")
        call.put(2, Want(content=np.zeros_like(drawn) if rng.random() < 0.6 else drawn))
    call.attr("value", lambda: rng.choice((0.0, 1.5)))
    if call.has(3):
        give_axes(call, 3, axes, rank)


def expand(call: Call) -> Shape | None:
    """To the same shape, to one with sizes of 1 made larger, or with axes before it."""
    rng = call.rng
    written = call.integers(1)
    source = None if written is None else tuple(1 if rng.random() < 0.3 else n for n in written)
    x = call.put(0, Want(shape=source if source is not None else call.want)).shape
    if not call.is_open(1):
        call.put(1)
        return None
    kind = rng.random()
    if kind < _NEUTRAL:
        target: Shape = x
    elif kind < 0.5:
        target = tuple(1 if rng.random() < 0.6 else s for s in x)
    else:
        target = tuple(call.sizes.fresh() if s == 1 else s for s in x)
        if rng.random() < 0.4 and len(x) < 5:
            target = (call.sizes.fresh(), *target)
    call.put(1, Want(content=np.array([int(s) for s in target], np.int64)))
    return broadcast(x, target)


def tile(call: Call) -> Shape | None:
    rng = call.rng
    x = call.put_data(len(call.integers(1) or ()))
    if not call.is_open(1):
        call.put(1)
        return None
    whole = rng.random() < _NEUTRAL
    repeats = [1 if whole or rng.random() < 0.5 else rng.choice((2, 3)) for _ in x]
    call.put(1, Want(content=np.array(repeats, np.int64)))
    return tuple(s if r == 1 else int(s) * r for s, r in zip(x, repeats, strict=True))


def non_zero(call: Call) -> Shape:
    """As many columns as there are elements that are not 0, which must be known."""
    x = call.put(0, Want(shape=call.want))
    if x.array is None:
        raise Rejected("how many elements NonZero gives is not known")
    return (len(x.shape), int(np.count_nonzero(x.array)))


def constant_of_shape(call: Call) -> Shape:
    shape = call.want if call.want is not None else call.sizes.shape()
    call.put(0, Want(content=np.array([int(s) for s in shape], np.int64)))
    return shape


def range_(call: Call) -> None:
    start, step = call.rng.randint(0, 3), call.rng.choice((1, 2))
    for index, number in enumerate((start, start + step * call.rng.randint(1, 4), step)):
        call.put(index, Want(content=np.asarray(number)))


def one_hot(call: Call) -> None:
    indices = call.put(0, Want(shape=call.sizes.shape(2), kind="natural"))
    call.put(1, Want(content=np.asarray(5)))
    call.put(2, Want(shape=(2,), strict=True))
    call.attr("axis", lambda: signed(call, len(indices.shape), len(indices.shape) + 1))


PLANS: dict[str, Callable[[Call], Shape | None]] = {
    "Slice": slice_, "Gather": gather, "GatherElements": gather_elements, "ScatterElements": gather_elements,
    "GatherND": gather_nd, "Pad": pad, "Expand": expand, "Tile": tile, "ConstantOfShape": constant_of_shape,
    "NonZero": non_zero, "Range": range_, "OneHot": one_hot,
}  # fmt: skip
