"""Slice, Pad, Expand, Tile and Split: those that take or add nothing, and chains of them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt_passes.simplify.reading import (
    INT64_MAX,
    INT64_MIN,
    fixed,
    from_front,
    ints,
    operand,
    require_gone,
    result_shape,
    same_sizes,
)

from graphopt import Const, Node, Tensor, op, require, rule


def _slice(x: Tensor, s: Tensor | None, e: Tensor | None, a: Tensor | None, t: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.Slice(x, s, e, a, t, ...))


def _slice_slice(
    x: Tensor, s: Const | None, e: Const | None, a: Const | None, t: Const | None,
    s2: Const | None, e2: Const | None, a2: Const | None, t2: Const | None, inner: Node, outer: Node,
) -> Tensor:  # fmt: skip
    return outer.bind(op.Slice(inner.bind(op.Slice(x, s, e, a, t, ...)), s2, e2, a2, t2, ...))


def _resized(x: Tensor, s: Tensor, n: Node) -> Tensor:
    return n.bind(op.any("Expand", "Tile")(x, s))


def _split(x: Tensor, s: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.Split(x, s, ...))


def _pad(x: Tensor, p: Tensor | None, v: Tensor | None, a: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.Pad(x, p, v, a, ...))


def _pad_pad(
    x: Tensor, p: Const | None, v: Const | None, a: Const | None,
    p2: Const | None, v2: Const | None, a2: Const | None, inner: Node, outer: Node,
) -> Tensor:  # fmt: skip
    return outer.bind(op.Pad(inner.bind(op.Pad(x, p, v, a, ...)), p2, v2, a2, ...))


@rule(_slice, accuracy="exact", single_use=False)
def slice_noop(
    x: Tensor, s: Tensor | None, e: Tensor | None, a: Tensor | None, t: Tensor | None, n: Node  # noqa: ARG001
) -> Tensor:
    """A Slice forwards that leaves every size as it is takes everything."""
    require(same_sizes(x.shape, result_shape(n)), "the shape changes")
    steps = None if t is None else fixed(t.value)
    require(t is None or (steps is not None and min(steps, default=1) > 0), "a step may be negative")
    return x


@dataclass(frozen=True)
class _Cut:
    """What a Slice takes of one axis, as Slice writes it."""

    start: int
    end: int
    step: int


@rule(_slice_slice, accuracy="exact", single_use=False, bounded=True)
def slice_slice(
    x: Tensor, s: Const | None, e: Const | None, a: Const | None, t: Const | None,
    s2: Const | None, e2: Const | None, a2: Const | None, t2: Const | None, inner: Node, outer: Node,
) -> Tensor:  # fmt: skip
    """A Slice of a Slice is one Slice: of more axes, or of a range within a range."""
    del s, e, a, t, s2, e2, a2, t2
    require_gone(inner, "Slice")
    rank = x.rank
    cuts = _cuts(inner, rank)
    for axis, cut in _cuts(outer, rank).items():
        cuts[axis] = _within(cuts[axis], cut, x.shape[axis]) if axis in cuts else cut
    axes = sorted(cuts)
    starts, ends = [cuts[i].start for i in axes], [cuts[i].end for i in axes]
    if outer.version < 10:
        return op.Slice(x, starts=starts, ends=ends, axes=axes)
    steps = [cuts[i].step for i in axes]
    return op.Slice(x, starts, ends, axes, None if set(steps) <= {1} else steps)


def _cuts(node: Node, rank: int) -> dict[int, _Cut]:
    """The cuts of a Slice by axis."""
    starts, ends = ints(node, 1, "starts", 10), ints(node, 2, "ends", 10)
    require(starts is not None and ends is not None, "starts or ends are missing")
    assert starts is not None and ends is not None
    axes = ints(node, 3, "axes", 10)
    steps = ints(node, 4, "steps", 10) if node.version >= 10 else None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    require(len(starts) == len(ends) == len(axes) == len(steps), "starts, ends, axes and steps differ in length")
    require(0 not in steps, "a step is 0")
    cuts = map(_Cut, starts, ends, steps)
    return dict(zip(from_front(axes, rank), cuts, strict=True))


def _within(first: _Cut, then: _Cut, size: object) -> _Cut:
    """The cut `then` of what the cut `first` takes of an axis."""
    if isinstance(size, int):
        taken = range(size)[first.start : first.end : first.step][then.start : then.end : then.step]
        if not taken:
            return _Cut(0, 0, 1)
        return _Cut(taken.start, taken.stop if taken.stop >= 0 else INT64_MIN, taken.step)
    forwards = first.step == then.step == 1 and min(first.start, first.end, then.start, then.end) >= 0
    require(forwards, "one range counts from the end of an axis whose size is not fixed")
    start, end = first.start + then.start, min(first.end, first.start + then.end, INT64_MAX)
    return _Cut(min(start, INT64_MAX), end, 1)


@rule(_resized, accuracy="exact", single_use=False)
def expand_noop(x: Tensor, s: Tensor, n: Node) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """An Expand or Tile that leaves every size as it is repeats nothing."""
    require(same_sizes(x.shape, result_shape(n)), "the shape changes")
    return x


@rule(_split, accuracy="exact", single_use=False)
def split_noop(x: Tensor, s: Tensor | None, n: Node) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """A Split into one part takes everything."""
    require(len(n.outputs) == 1, "there are several parts")
    return x


@rule(_pad, accuracy="exact", single_use=False)
def pad_noop(x: Tensor, p: Tensor | None, v: Tensor | None, a: Tensor | None, n: Node) -> Tensor:  # noqa: ARG001
    """A Pad by nothing on all sides adds nothing."""
    pads = ints(n, 1, "pads", 11)
    require(pads is not None and not any(pads), "something is padded")
    return x


@rule(_pad_pad, accuracy="exact")
def pad_pad(
    x: Tensor, p: Const | None, v: Const | None, a: Const | None,
    p2: Const | None, v2: Const | None, a2: Const | None, inner: Node, outer: Node,
) -> Tensor:  # fmt: skip
    """Two Pads in a row with the same constant are one with the sum of both widths."""
    del p, a, p2, a2
    require(inner.attr("mode", "constant") == outer.attr("mode", "constant") == "constant", "the mode is not constant")
    require(_fill(inner, v) == _fill(outer, v2), "the constants differ")
    first, then = _widths(inner, x.rank), _widths(outer, x.rank)
    require(min(first + then, default=0) >= 0, "one of them crops")
    pads = [i + j for i, j in zip(first, then, strict=True)]
    if outer.version < 11:
        return op.Pad(x, pads=pads, value=outer.attr("value", 0.0))
    return op.Pad(x, pads, v2)


def _fill(node: Node, v: Tensor | None) -> bytes | None:
    """The padding as bytes; None for the default, which is 0."""
    if node.version < 11:
        value = float(node.attr("value", 0.0))
        return value.hex().encode() if value or value.hex()[0] == "-" else None
    splat = None if v is None else v.value.splat
    require(v is None or splat is not None, "the padding is not known")
    raw: bytes = b"" if splat is None else splat.tobytes()
    return raw if any(raw) else None


def _widths(node: Node, rank: int) -> list[int]:
    """The pads of all axes: those at their begin, then those at their end."""
    pads = ints(node, 1, "pads", 11)
    require(pads is not None, "the pads are missing")
    assert pads is not None
    axes = None if node.version < 18 or operand(node, 3) is None else ints(node, 3, "axes", 18)
    places = list(range(rank)) if axes is None else from_front(axes, rank)
    require(len(pads) == 2 * len(places), "the pads do not fit the axes")
    widths = [0] * (2 * rank)
    for i, axis in enumerate(places):
        widths[axis], widths[rank + axis] = pads[i], pads[i + len(places)]
    return widths
