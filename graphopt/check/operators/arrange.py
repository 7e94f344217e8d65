"""Operators that arrange elements anew and keep them all: Transpose, Reshape and their like, Concat, Split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.operators.axes import draw_axes, draw_axis, from_front, give_axes, signed
from graphopt.check.sizes import Shape
from graphopt.check.values import Want

_NEUTRAL = 0.3  # that an operator is given what leaves its operand as it is
_MOST_AXES = 6
_BACK = 0.4  # that a shape is one that some value has


def transpose(call: Call) -> Shape | None:
    """Any permutation; more often none at all, the last two axes, or what undoes an earlier one."""
    given = call.foresee("perm")
    rank = len(given) if given is not None else call.rank_of(0)
    if rank is None:
        rank = len(call.want) if call.want is not None else None
    order = list(given) if given is not None else None if rank is None else _permutation(call, rank)
    wish = call.want if call.want is not None and order is not None and len(order) == len(call.want) else None
    shape: Shape | None = None
    if wish is not None and order is not None:
        shape = tuple(wish[order.index(i)] for i in range(len(order)))
    elif rank is not None:
        shape = call.sizes.shape(rank)
    x = call.put(0, Want(shape=shape)).shape
    fitting = None if call.want is None else _leading_to(x, call.want)
    if fitting is not None and call.rng.random() < 0.7:
        order = fitting
    drawn = order if order is not None and len(order) == len(x) else _permutation(call, len(x))
    perm = call.attr("perm", lambda: drawn, usual=0.85, valid=lambda p: len(p) == len(x))
    if perm is None:
        perm = list(range(len(x)))[::-1]
    if sorted(perm) != list(range(len(x))):
        raise Rejected("perm does not permute the axes")
    call.emitter.perms.append(tuple(perm))
    return tuple(x[a] for a in perm)


def _leading_to(x: Shape, wish: Shape) -> list[int] | None:
    """The permutation that gives the wished shape, if sizes tell which."""
    if len(x) != len(wish) or len(set(wish)) < len(wish) or set(x) != set(wish):
        return None
    return [x.index(s) for s in wish]


def _permutation(call: Call, rank: int) -> list[int]:
    rng = call.rng
    earlier = [p for p in call.emitter.perms if len(p) == rank]
    if earlier and rng.random() < 0.3:
        return [earlier[-1].index(i) for i in range(rank)]
    kind = rng.random()
    order = list(range(rank))
    if kind < 0.15:
        return order
    if kind < 0.4 and rank >= 2:
        return [*order[:-2], rank - 1, rank - 2]
    if kind < 0.55:
        return order[::-1]
    rng.shuffle(order)
    return order


def reshape(call: Call) -> Shape | None:
    """To the shape that it has, one that another value has, or any other; sizes may be copied (0) or left open (-1)."""
    rng = call.rng
    wish = call.want
    written = call.integers(1)
    source = None if wish is None else regrouped(wish, rng)
    if written is not None:
        source = _source_of(call, written)
    x = call.put(0, Want(shape=source)).shape
    if not call.is_open(1):
        call.put(1)
        return None
    target = _target(call, x, wish)
    zero = call.attr("allowzero", lambda: 1, usual=0.3)
    call.put(1, Want(content=np.array(_written(target, x, bool(zero), rng), np.int64)))
    return target


def _source_of(call: Call, target: Sequence[int]) -> Shape:
    """A shape that Reshape can make the target of: sizes that it copies stay, the rest is as many elements."""
    copied = max((i + 1 for i, n in enumerate(target) if n == 0), default=0)
    if -1 in target:
        return call.sizes.shape(max(copied, 1, call.rng.choice((len(target), len(target) + 1))))
    return tuple(call.sizes.fresh() if n == 0 else n for n in target)


def _target(call: Call, x: Shape, wish: Shape | None) -> Shape:
    rng, count = call.rng, _count(x)
    if wish is not None and _count(wish) == count:
        return wish
    if wish is not None:
        fitted = _fitted(x, wish)
        if fitted is not None:
            return fitted
    if rng.random() < _NEUTRAL:
        return x
    known = [s for s in dict.fromkeys(call.emitter.shapes()) if _count(s) == count and s != x and s]
    if known and rng.random() < _BACK:
        return rng.choice(known)
    return regrouped(x, rng)


def _fitted(x: Shape, wish: Shape) -> Shape | None:
    """`x` with its last axis split in two, where that has the rank wished for."""
    if len(wish) != len(x) + 1 or not x:
        return None
    last = int(x[-1])
    parts = [d for d in range(2, last) if last % d == 0] or [1]
    return (*x[:-1], parts[0], last // parts[0])


def regrouped(shape: Shape, rng: Random) -> Shape:
    """The same number of elements in another shape: axes merged, one split, a 1 put in or taken out, or flat."""
    kinds = ["flat", "one"]
    if len(shape) >= 2:
        kinds += ["merge", "merge", "merge", *(["last"] * (len(shape) - 2))]
    splittable = [i for i, s in enumerate(shape) if any(s % d == 0 for d in range(2, s))]
    if splittable:
        kinds += ["split", "split"]
    if 1 in shape:
        kinds.append("drop")
    kind = rng.choice(kinds)
    if kind in ("merge", "last"):
        i = len(shape) - 2 if kind == "last" else rng.randrange(len(shape) - 1)
        return (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])
    if kind == "split":
        i = rng.choice(splittable)
        d = rng.choice([d for d in range(2, shape[i]) if shape[i] % d == 0])
        return (*shape[:i], d, shape[i] // d, *shape[i + 1 :])
    if kind == "one":
        i = rng.randint(0, len(shape))
        return (*shape[:i], 1, *shape[i:])
    if kind == "drop":
        i = shape.index(1)
        return (*shape[:i], *shape[i + 1 :])
    return (_count(shape),)


def _written(target: Shape, x: Shape, zero: bool, rng: Random) -> list[int]:
    """A target as Reshape may write it: one size left open, sizes at their place copied."""
    found = [int(s) for s in target]
    if not zero and rng.random() < 0.3:
        found = [0 if i < len(x) and x[i] == s else s for i, s in enumerate(found)]
    open_to = [i for i, s in enumerate(found) if s > 0]
    if open_to and 0 not in target and rng.random() < 0.35:
        found[rng.choice(open_to)] = -1
    return found


def flatten(call: Call) -> Shape:
    """Into a matrix, cut at any axis; more often one that is a matrix already."""
    rng = call.rng
    plain = rng.random() < _NEUTRAL
    x = call.put(0, Want(shape=call.sizes.shape(2) if plain else call.want)).shape
    usual = 0.1 if plain else 0.5
    axis = call.attr("axis", lambda: signed(call, rng.randint(0, len(x)), len(x)) if x else 0, usual=usual)
    at = axis + len(x) if axis < 0 else axis
    if not 0 <= at <= len(x):
        raise Rejected("Flatten has no such axis")
    return (_count(x[:at]), _count(x[at:]))


def squeeze(call: Call) -> Shape:
    """Of an operand with some sizes of 1; all of those, or some of them by their axes."""
    rng = call.rng
    written = call.integers(1) or call.foresee("axes")
    x = call.put(0, Want(shape=_with_ones(call, written))).shape
    if written:
        give_axes(call, 1, written, len(x))
        gone = from_front(written, len(x))
        return tuple(s for i, s in enumerate(x) if i not in gone)
    ones = [i for i, s in enumerate(x) if s == 1]
    again = [s for s in call.emitter.axes if s and set(s) <= set(ones)]
    if again and rng.random() < 0.75:
        axes = list(again[-1])
    else:
        axes = sorted(rng.sample(ones, rng.randint(1, len(ones)))) if ones else []
    call.emitter.axes.append(tuple(axes))
    if not (call.has(1) or axes) or not give_axes(call, 1, axes, len(x), usual=0.85):
        axes = ones
    return tuple(s for i, s in enumerate(x) if i not in axes)


def _with_ones(call: Call, axes: Sequence[int] | None) -> Shape:
    """A shape with some sizes of 1, or with those at the axes."""
    base = list(call.want if call.want is not None else call.sizes.shape())
    if axes:
        base = list(call.sizes.shape(max(len(base), *(a + 1 if a >= 0 else -a for a in axes))))
        for axis in axes:
            base[axis] = 1
        return tuple(base)
    for _ in range(call.rng.choice((0, 1, 1, 1, 2))):
        base.insert(call.rng.randint(0, len(base)), 1)
    return tuple(base[:_MOST_AXES])


def unsqueeze(call: Call) -> Shape | None:
    """One or two axes of size 1, at places that an earlier operator may have taken them from."""
    written = call.integers(1) or call.foresee("axes")
    if written:
        reach = max(a + 1 if a >= 0 else -a for a in written)
        x = call.put_data(reach - len(written))
        give_axes(call, 1, written, len(x) + len(written))
        return None
    x = call.put(0, Want(shape=call.want[1:] if call.want else None)).shape
    earlier = [s for s in call.emitter.axes if s and max(s) < len(x) + len(s) <= _MOST_AXES]
    count = len(earlier[-1]) if earlier and call.rng.random() < 0.75 else call.rng.choice((1, 1, 2))
    rank = len(x) + count
    axes = draw_axes(call, rank, count, count)
    give_axes(call, 1, axes, rank)
    left = list(x)
    return tuple(1 if i in axes else left.pop(0) for i in range(rank))


def concat(call: Call) -> Shape:
    """Operands that differ along the axis only."""
    wish = call.want if call.want else None
    first = call.put(0, Want(shape=wish if wish is not None else call.sizes.shape() or call.sizes.shape(1))).shape
    rank = len(first)
    axis = call.attr("axis", lambda: draw_axis(call, rank), valid=lambda a: -rank <= a < rank)
    if not -rank <= axis < rank:
        raise Rejected("Concat has no such axis")
    axis %= rank
    shapes = [first]
    for index in range(1, call.count):
        size = first[axis] if call.rng.random() < 0.3 else call.sizes.fresh()
        own = (*first[:axis], size, *first[axis + 1 :])
        shapes.append(call.put(index, Want(shape=own, strict=True, fits=lambda s: _joins(s, first, axis))).shape)
    return (*first[:axis], sum(int(s[axis]) for s in shapes), *first[axis + 1 :])


def _joins(a: Shape, b: Shape, axis: int) -> bool:
    return len(a) == len(b) and all(x == y for i, (x, y) in enumerate(zip(a, b, strict=True)) if i != axis)


def split(call: Call) -> None:
    """Into equal or given parts; a pattern that looks at one part may stand for a Split into several."""
    rng = call.rng
    parts, written = call.outputs, call.integers(1)
    if parts == 1 and call.emitter.vary and rng.random() < 0.4 and not written:
        parts = rng.choice((2, 3))
    call.outputs = parts
    known = call.foresee("axis")
    base = list(call.sizes.shape() or call.sizes.shape(1))
    if isinstance(known, int) and not -len(base) <= known < len(base):
        base = list(call.sizes.shape(max(known + 1, -known)))
    at = known % len(base) if isinstance(known, int) else rng.randrange(len(base))
    base[at] = call.sizes.named(sum(written) if written else parts * rng.choice((1, 2, 2)), "parts")
    x = call.put(0, Want(shape=tuple(base))).shape
    if not x:
        raise Rejected("Split of a scalar")
    at = at if at < len(x) and x[at] % parts == 0 else rng.randrange(len(x))
    axis = call.attr("axis", lambda: signed(call, at, len(x)), usual=0.9)
    size = int(x[axis]) if -len(x) <= axis < len(x) else 0
    sizes = _cuts(size, parts, rng)
    if call.has(1):
        call.put(1, Want(content=np.array(sizes, np.int64)))
    elif call.schema is not None and "num_outputs" in call.schema.attributes:
        call.attr("num_outputs", lambda: parts, usual=1.0)
    else:
        call.attr("split", lambda: sizes, usual=0.5 if size % parts == 0 else 1.0)


def _cuts(size: int, parts: int, rng: Random) -> list[int]:
    if size % parts == 0 and rng.random() < 0.5:
        return [size // parts] * parts
    edges = sorted(rng.randint(0, size) for _ in range(parts - 1))
    return [b - a for a, b in zip([0, *edges], [*edges, size], strict=True)]


def depth_to_space(call: Call) -> None:
    block = call.attr("blocksize", lambda: call.rng.choice((1, 2)))
    n, c, h, w = (call.sizes.fresh() for _ in range(4))
    deep = call.op == "DepthToSpace"
    shape = (n, int(c) * block * block, h, w) if deep else (n, c, int(h) * block, int(w) * block)
    call.put(0, Want(shape=shape, strict=True, fits=lambda s: len(s) == 4))
    call.attr("mode", lambda: call.rng.choice(("DCR", "CRD")))


def shape_of(call: Call) -> None:
    """Shape, of all axes or from one to another."""
    call.put(0)
    call.attr("start", lambda: call.rng.choice((0, 1, -1, -2)))
    call.attr("end", lambda: call.rng.choice((1, 2, -1, 9)))


def _count(shape: Sequence[int]) -> int:
    found = 1
    for size in shape:
        found *= int(size)
    return found


PLANS: dict[str, Callable[[Call], Shape | None]] = {
    "Transpose": transpose, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Concat": concat, "Split": split, "DepthToSpace": depth_to_space, "SpaceToDepth": depth_to_space,
    "Shape": shape_of,
}  # fmt: skip
