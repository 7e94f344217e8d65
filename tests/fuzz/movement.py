"""Operators that move elements: axes, shapes, parts and wholes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.values import BOOL, F32, F64, FLOATS, I32, I64, NUMBERS, Val

_FAR = 2**63 - 1


def signed(b: Builder, axis: int, rank: int, since: int = 11) -> int:
    """An axis counted from the front or from the end."""
    return axis - rank if b.opset >= since and b.rng.random() < 0.35 else axis


def with_axes(b: Builder, op: str, x: Val, axes: Sequence[int] | None, since: int, **attributes: object) -> Val:
    """Axes as an input from an opset on, as an attribute before."""
    if axes is None:
        return b.node(op, [x], **attributes)
    if b.opset >= since:
        return b.node(op, [x, b.ints(*axes)], **attributes)
    return b.node(op, [x], axes=list(axes), **attributes)


def transpose(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1)
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        perm = list(range(x.rank))
        rng.shuffle(perm)
        if rng.random() < 0.4 and x.rank >= 3:
            perm = rng.choice(([0, *range(2, x.rank), 1], [0, x.rank - 1, *range(1, x.rank - 1)]))
        x = b.node("Transpose", [x], perm=None if rng.random() < 0.15 else perm)
        if rng.random() < 0.5:
            x = between(b, x)


def between(b: Builder, x: Val) -> Val:
    """Something that axes may be moved through."""
    rng = b.rng
    op = rng.choice(("Relu", "Neg", "Sigmoid", "Add", "Mul", "Cast", "Softmax", "ReduceSum", "Concat", "Identity", "Abs"))
    if op in ("Add", "Mul"):
        from tests.fuzz.pointwise import operand

        return b.node(op, [x, operand(b, x)])
    if op == "Cast":
        return b.node(op, [x], to=rng.choice((F32, F64)))
    if op == "Softmax":
        return b.node(op, [x], axis=rng.randrange(x.rank))
    if op == "ReduceSum":
        return with_axes(b, op, x, [rng.randrange(x.rank)], 13, keepdims=1)
    if op == "Concat":
        return b.node(op, [x, b.pick(lambda v: v.dtype == x.dtype and v.shape == x.shape)], axis=rng.randrange(x.rank))
    return b.node(op, [x])


def reshape(b: Builder) -> None:
    rng = b.rng
    x = b.pick()
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        chance = rng.random()
        if chance < 0.55:
            target, allow = _target(b, x.dims)
            x = b.node("Reshape", [x, b.ints(*target)], allowzero=allow)
        elif chance < 0.65:
            x = b.node("Flatten", [x], axis=rng.randint(0 if b.opset < 11 else -x.rank, x.rank))
        else:
            x = squeeze(b, x) if chance < 0.82 else unsqueeze(b, x)


def _target(b: Builder, shape: tuple[int, ...]) -> tuple[list[int], int | None]:
    rng, size, target = b.rng, int(np.prod(shape, dtype=int)), list(shape)
    allow = 1 if b.opset >= 14 and rng.random() < 0.25 else None
    chance = rng.random()
    if chance < 0.2:
        target = [size]
    elif chance < 0.45 and len(shape) >= 2:
        i = rng.randrange(len(shape) - 1)
        target = [*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :]]
    elif chance < 0.6 and size:
        k = rng.choice([d for d in range(1, size + 1) if size % d == 0])
        target = [k, size // k]
    elif chance < 0.75:
        rng.shuffle(target)
    else:
        target.insert(rng.randint(0, len(target)), 1)
    if rng.random() < 0.4 and not allow:
        target = [0 if i < len(shape) and d == shape[i] and rng.random() < 0.6 else d for i, d in enumerate(target)]
    if target and size and rng.random() < 0.5:
        target[rng.randrange(len(target))] = -1
    return target, allow


def squeeze(b: Builder, x: Val) -> Val:
    ones = [i for i, d in enumerate(x.dims) if d == 1]
    axes = sorted(b.rng.sample(ones, b.rng.randint(0, len(ones))))
    if not axes:
        return with_axes(b, "Squeeze", x, None, 13)
    return with_axes(b, "Squeeze", x, [signed(b, a, x.rank) for a in axes], 13)


def unsqueeze(b: Builder, x: Val) -> Val:
    count = b.rng.choice((1, 1, 2))
    rank = x.rank + count
    if rank > 6:
        raise Reject
    return with_axes(b, "Unsqueeze", x, [signed(b, a, rank) for a in sorted(b.rng.sample(range(rank), count))], 13)


def slice_(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1)
    for _ in range(rng.choice((1, 2, 2, 3))):
        starts, ends, steps = [], [], []
        axes = rng.sample(range(x.rank), rng.randint(1, x.rank))
        for axis in axes:
            d, step = x.dims[axis], rng.choice((1, 1, 1, 2, -1, -2)) if b.opset >= 10 else 1
            steps.append(step)
            starts.append(rng.choice((0, 0, 1, -1, -2, d) if step > 0 else (-1, d - 1, _FAR, 1, d)))
            ends.append(rng.choice((d, d - 1, -1, _FAR, 2**31 - 1, 1, d + 3) if step > 0 else (-_FAR - 1, 0, -d - 1, -2, -d)))
        named = [signed(b, a, x.rank) for a in axes]
        if b.opset < 10:
            x = b.node("Slice", [x], starts=starts, ends=ends, axes=axes)
        elif set(steps) == {1} and rng.random() < 0.5:
            x = b.node("Slice", [x, b.ints(*starts), b.ints(*ends), b.ints(*named)])
        else:
            x = b.node("Slice", [x, *(b.ints(*part) for part in (starts, ends, named, steps))])


def gather(b: Builder) -> None:
    rng = b.rng
    x = b.pick(lambda v: 0 not in v.dims, least=1)
    axis = rng.randrange(x.rank)
    d = x.dims[axis]
    source = np.random.default_rng(rng.getrandbits(32))
    least = -d if b.opset >= 11 else 0
    kind = rng.randrange(6)
    if kind < 3:
        index = source.integers(least, d, rng.choice(((), (1,), (2,), (d,), (1, 1), (2, 1), (0,)))) if rng.random() < 0.7 else np.arange(d)
        b.node("Gather", [x, b.const(index, rng.choice((I64, I64, I32)), plain=True)], axis=signed(b, axis, x.rank))
    elif kind == 3:
        index = source.integers(least, d, x.dims)
        b.node("GatherElements", [x, b.const(index, I64, plain=True)], axis=signed(b, axis, x.rank))
    elif kind == 4:
        depth = rng.randint(1, x.rank)
        index = np.stack([source.integers(-s, s, (2,)) for s in x.dims[:depth]], -1)
        b.node("GatherND", [x, b.const(index, I64, plain=True)])
    else:
        depth = rng.randint(1, x.rank)
        index = np.stack([source.integers(-s, s, (2,)) for s in x.dims[:depth]], -1)
        updates = b.const(b.numbers((2, *x.dims[depth:]), x.dtype))
        b.node("ScatterND", [x, b.const(index, I64, plain=True), updates], reduction=rng.choice((None, None, "add", "mul", "max")) if b.opset >= 16 else None)


def scatter(b: Builder) -> None:
    rng = b.rng
    x = b.pick(lambda v: 0 not in v.dims, least=1, dtypes=NUMBERS)
    axis = rng.randrange(x.rank)
    index = np.random.default_rng(rng.getrandbits(32)).integers(-x.dims[axis], x.dims[axis], x.dims)
    updates = b.const(b.numbers(x.dims, x.dtype))
    b.node("ScatterElements", [x, b.const(index, I64, plain=True), updates], axis=signed(b, axis, x.rank))


def concat(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1)
    axis = rng.randrange(x.rank)
    parts = [x]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.2:
            dims = list(x.dims)
            dims[axis] = rng.choice((0, 1, 2))
            part = b.const(b.numbers(dims, x.dtype))
        else:
            part = b.pick(lambda v: v.dtype == x.dtype and v.rank == x.rank and all(p == q or i == axis for i, (p, q) in enumerate(zip(v.dims, x.dims, strict=True))), least=1)
        parts.insert(rng.randint(0, len(parts)), part)
    whole = b.node("Concat", parts, axis=signed(b, axis, x.rank))
    sizes = [p.dims[axis] for p in parts]
    if rng.random() < 0.3:
        split_by(b, whole, axis, sizes)
    elif rng.random() < 0.5 and b.opset >= 10:
        at = rng.randrange(len(parts))
        first = sum(sizes[:at]) + rng.choice((0, 0, 0, 1))
        b.node("Slice", [whole, b.ints(first), b.ints(sum(sizes[: at + 1])), b.ints(axis)])


def split_by(b: Builder, x: Val, axis: int, sizes: Sequence[int]) -> list[Val]:
    axis = signed(b, axis, x.rank)
    count = len(sizes)
    if b.opset < 13:
        return b.nodes_of("Split", [x], outputs=count, axis=axis, split=list(sizes))
    if len(set(sizes)) == 1 and b.rng.random() < 0.5:
        return b.nodes_of("Split", [x], outputs=count, axis=axis, num_outputs=count if b.opset >= 18 else None)
    return b.nodes_of("Split", [x, b.ints(*sizes)], outputs=count, axis=axis)


def split(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1)
    axis = rng.randrange(x.rank)
    d = x.dims[axis]
    cuts = sorted(rng.randint(0, d) for _ in range(rng.randint(0, 2)))
    edges = [0, *cuts, d]
    parts = split_by(b, x, axis, [q - p for p, q in itertools.pairwise(edges)])
    if rng.random() < 0.5:
        if rng.random() < 0.3:
            rng.shuffle(parts)
        b.node("Concat", parts, axis=axis)


def pad(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1, dtypes=(F32, F64, I64, I32, b.float))
    for _ in range(rng.choice((1, 1, 2))):
        pads = [rng.choice((0, 0, 0, 1, 2, -1 if rng.random() < 0.3 else 0)) for _ in range(2 * x.rank)]
        pads = [0] * len(pads) if rng.random() < 0.2 else pads
        mode = rng.choice((None, None, None, "constant", "edge", "reflect"))
        value = rng.choice((None, 0, 0, 1, -0.0))
        if b.opset < 11:
            x = b.node("Pad", [x], pads=pads, mode=mode, value=None if value is None else float(value))
            continue
        filler = None if value is None else b.const(value, x.dtype)
        if b.opset >= 18 and rng.random() < 0.4:
            axes = rng.sample(range(x.rank), rng.randint(1, x.rank))
            x = b.node("Pad", [x, b.ints(*pads[: 2 * len(axes)]), filler, b.ints(*(signed(b, a, x.rank) for a in axes))], mode=mode)
        else:
            x = b.node("Pad", [x, b.ints(*pads), filler], mode=mode)


def expand(b: Builder) -> None:
    rng = b.rng
    x = b.pick()
    if rng.random() < 0.3:
        repeats = [rng.choice((1, 1, 2, 0 if b.zero else 1)) for _ in range(x.rank)]
        b.node("Tile", [x, b.ints(*repeats)])
        return
    target = [rng.choice((1, 2, 3)) if d == 1 and rng.random() < 0.4 else 1 if rng.random() < 0.3 else d for d in x.dims]
    target = [rng.choice((1, 2)), *target] if rng.random() < 0.2 else target
    b.node("Expand", [x, b.ints(*target)])


def reduce(b: Builder) -> None:
    rng = b.rng
    op = rng.choice(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceL1", "ReduceSumSquare",
                     "ReduceLogSumExp", "ReduceLogSum", "ArgMax", "ArgMin", "ReduceSum", "ReduceMean"))
    x = b.pick(lambda v: v.size > 0 or rng.random() < 0.3, least=1, dtypes=(F32, F64, I64, I32, b.float))
    keep = rng.choice((None, 0, 1))
    if op.startswith("Arg"):
        axis = rng.choice((None, signed(b, rng.randrange(x.rank), x.rank)))
        b.node(op, [x], axis=axis, keepdims=keep, select_last_index=rng.choice((None, 1)) if b.opset >= 12 else None)
        return
    since = 13 if op == "ReduceSum" else 18
    axes = [signed(b, a, x.rank) for a in rng.sample(range(x.rank), rng.randint(1, x.rank))]
    noop = rng.choice((0, 1)) if b.opset >= since and rng.random() < 0.15 else None
    x = with_axes(b, op, x, None if noop is not None or rng.random() < 0.15 else axes, since, keepdims=keep, noop_with_empty_axes=noop)
    if rng.random() < 0.4 and x.rank > 0:
        second = rng.choice((op, op, "ReduceSum"))
        with_axes(b, second, x, [rng.randrange(x.rank)], 13 if second == "ReduceSum" else 18, keepdims=keep)
    elif rng.random() < 0.4:
        (squeeze if rng.random() < 0.5 else unsqueeze)(b, x)


def odd(b: Builder) -> None:
    """Operators of their own kind."""
    rng = b.rng
    x = b.pick(least=1)
    op = rng.choice(("CumSum", "Trilu", "TopK", "OneHot", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "EyeLike", "NonZero", "Compress", "Einsum"))
    if op == "CumSum":
        b.node(op, [x, b.const(rng.randrange(x.rank), I64, plain=True)], exclusive=rng.choice((None, 1)), reverse=rng.choice((None, 1)))
    elif op == "Trilu":
        b.node(op, [x, *([b.const(rng.choice((0, 1, -1)), I64)] if rng.random() < 0.5 else [])], upper=rng.choice((None, 0)))
    elif op == "TopK" and b.opset >= 11:
        b.nodes_of(op, [x, b.ints(rng.randint(0, x.dims[-1]))], outputs=2, axis=-1, largest=rng.choice((None, 0)))
    elif op == "OneHot" and b.opset >= 9:
        index = b.const(np.random.default_rng(rng.getrandbits(32)).integers(-3, 3, x.dims[:1]), I64, plain=True)
        b.node(op, [index, b.const(3, I64, plain=True), b.const([0, 1], rng.choice((F32, I64)))], axis=-1)
    elif op in ("DepthToSpace", "SpaceToDepth"):
        b.node(op, [x], blocksize=rng.choice((1, 2)))
    elif op == "ReverseSequence" and x.rank >= 2:
        b.node(op, [x, b.ints(*[rng.randint(0, x.dims[0]) for _ in range(x.dims[1])])])
    elif op == "EyeLike":
        b.node(op, [x], k=rng.choice((None, 1)), dtype=rng.choice((None, F32)))
    elif op == "NonZero":
        b.node("Shape", [b.node(op, [x])]) if rng.random() < 0.5 else b.node(op, [x])
    elif op == "Compress":
        keep = b.const(b.numbers((x.dims[0],), BOOL), plain=True)
        b.node(op, [x, keep], axis=0)
    elif op == "Einsum" and x.dtype in FLOATS and x.rank == 2:
        y = b.pick(lambda v: v.dtype == x.dtype and v.dims[0] == x.dims[1], least=2)
        b.node(op, [x, y] if y.rank == 2 else [x], equation="ij,jk->ik" if y.rank == 2 else "ij->ji")
    else:
        raise Reject


GENERATORS = {
    transpose: 6, reshape: 7, slice_: 5, gather: 4, scatter: 1, concat: 5, split: 4, pad: 3, expand: 3, reduce: 5, odd: 2,
}  # fmt: skip
