"""Arithmetic on shapes, as exporters write it, and what is done with its result."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.movement import with_axes
from tests.fuzz.values import F32, I32, I64, Val


def _known(b: Builder, op: str, inputs: list[Val | None], content: np.ndarray, **attributes: object) -> Val:
    return b.node(op, inputs, content=np.asarray(content), **attributes)


def _shape_of(b: Builder, x: Val) -> Val:
    if b.opset >= 15 and b.rng.random() < 0.35:
        start, end = b.rng.choice((0, 1, -1, -2)), b.rng.choice((None, -1, 2, 1))
        return _known(b, "Shape", [x], np.array(x.dims[start:end], np.int64), start=start, end=end)
    return _known(b, "Shape", [x], np.array(x.dims, np.int64))


def _step(b: Builder, s: Val) -> Val:
    """One step of the chain; contents are computed beside it."""
    rng, held = b.rng, s.content
    assert held is not None
    kind = rng.choice(("pick", "pick", "arithmetic", "arithmetic", "divide", "cast", "slice", "concat", "unsqueeze", "product"))
    if kind == "pick" and held.ndim == 1 and held.size:
        index = rng.choice(([0], [held.size - 1], list(range(held.size)), [-1] if b.opset >= 11 else [0]))
        found: object = index[0] if len(index) == 1 and rng.random() < 0.5 else index
        return _known(b, "Gather", [s, b.const(found, I64, plain=True)], held[np.asarray(found)], axis=0)
    if kind == "arithmetic":
        op, number = rng.choice(("Add", "Mul", "Mul", "Sub")), rng.choice((1, 2, 0, 3, 1))
        content = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract}[op](held, np.int64(number))
        return _known(b, op, [s, b.const(number, s.dtype)], content)
    if kind == "divide" and (held >= 0).all():
        number = rng.choice((1, 2, 3))
        return _known(b, "Div", [s, b.const(number, s.dtype, plain=True)], held // number)
    if kind == "cast":
        return _known(b, "Cast", [_known(b, "Cast", [s], held, to=rng.choice((I32, I64, F32)))], held, to=I64)
    if kind == "slice" and held.ndim == 1 and b.opset >= 10:
        first = rng.choice((0, 1, -1))
        return _known(b, "Slice", [s, b.ints(first), b.ints(2**63 - 1)], held[first:])
    if kind == "concat" and held.ndim == 1:
        more = b.ints(rng.choice((1, 2, -1)))
        assert more.content is not None
        return _known(b, "Concat", [s, more], np.concatenate([held, more.content]), axis=0)
    if kind == "unsqueeze" and held.ndim == 0:
        y = with_axes(b, "Unsqueeze", s, [0], 13)
        return b.add(Val(y.name, y.dtype, (1,), held[None]))
    if kind == "product" and held.ndim == 1:
        y = with_axes(b, "ReduceProd", s, [0], 18, keepdims=1)
        return b.add(Val(y.name, y.dtype, (1,), np.prod(held, keepdims=True)))
    raise Reject


def chain(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=1)
    s = _shape_of(b, x) if rng.random() < 0.9 else _known(b, "Size", [x], np.array(x.size))
    for _ in range(rng.randint(0, 4)):
        try:
            s = _step(b, s)
        except Reject:
            continue
    held = s.content
    if held is None or s.dtype != I64:
        raise Reject
    if held.ndim == 0 and b.opset >= 11 and 0 <= held < 100:
        b.node("Range", [b.const(0, I64, plain=True), s, b.const(1, I64, plain=True)])
    elif held.ndim == 1 and held.size:
        _use(b, s, held)


def _use(b: Builder, s: Val, held: np.ndarray) -> None:
    rng = b.rng
    small = bool((held >= 0).all()) and np.prod(held, dtype=np.float64) < 500
    kind = rng.choice(("fill", "expand", "reshape", "reshape", "tile", "slice"))
    if kind == "fill" and small and b.opset >= 9:
        value = numpy_helper.from_array(b.numbers((1,), rng.choice((F32, I64))))
        b.node("ConstantOfShape", [s], value=value)
    elif kind == "expand" and small:
        b.node("Expand", [b.pick(), s])
    elif kind == "tile" and small:
        b.node("Tile", [b.pick(lambda v: v.rank == held.size), s])
    elif kind == "reshape":
        fits = abs(int(np.prod(held)))
        b.node("Reshape", [b.pick(lambda v: v.size == fits or (-1 in held and fits and v.size % fits == 0)), s])
    elif kind == "slice" and held.size == 1 and b.opset >= 10:
        b.node("Slice", [b.pick(least=1), b.ints(0), s, b.ints(0)])


def reshaped(b: Builder) -> None:
    """One size is kept, what remains is joined; and perhaps the old shape again."""
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=2)
    shape = _known(b, "Shape", [x], np.array(x.dims, np.int64))
    i = rng.randrange(x.rank)
    if rng.random() < 0.5:
        kept = _known(b, "Gather", [shape, b.ints(i)], np.array([x.dims[i]]), axis=0)
    else:
        scalar = _known(b, "Gather", [shape, b.const(i, I64, plain=True)], np.array(x.dims[i]), axis=0)
        y = with_axes(b, "Unsqueeze", scalar, [0], 13)
        kept = b.add(Val(y.name, y.dtype, (1,), np.array([x.dims[i]])))
    rest = [b.ints(-1)] if rng.random() < 0.6 else [b.ints(*(d for j, d in enumerate(x.dims) if j != i))]
    parts = [kept, *rest] if rng.random() < 0.7 else [*rest, kept]
    content = np.concatenate([p.content for p in parts if p.content is not None])
    if any(p.content is None for p in parts):
        raise Reject
    y = b.node("Reshape", [x, _known(b, "Concat", list(parts), content, axis=0)])
    if rng.random() < 0.5:
        b.node("Reshape", [y, shape])


GENERATORS = {chain: 6, reshaped: 3}
