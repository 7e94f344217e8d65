"""Orders of axes: the algebra of what Transposes do.

A layout lists the axes of a tensor in the order in which they are stored: a tensor in the layout `p` is
`Transpose(tensor, perm=p)`. Only in what an operand is to look like may `NEW` stand for an axis of size 1 that the
tensor does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from graphopt import Dim

Layout = tuple[int, ...]
Shape = tuple[int | Dim | None, ...]
NEW = -1
_NOMINAL = 16  # for sizes that are not known before the model runs
_APART = 4  # how much longer it takes to move elements one by one than in rows, which stay whole if the last axis does
OVERHEAD = 1024  # a node costs about as much as moving so many elements


class Price(NamedTuple):
    """What bringing a tensor into another layout costs: elements that are moved, and nodes."""

    moved: int
    nodes: int

    @property
    def total(self) -> int:
        return self.moved + self.nodes * OVERHEAD


FREE = Price(0, 0)


@lru_cache(None)
def straight(rank: int) -> Layout:
    """The layout that moves nothing."""
    return tuple(range(rank))


def compose(first: Layout, then: Layout) -> Layout:
    """The layout that a tensor has which is brought into `first`, and what results from that into `then`."""
    return tuple([first[axis] if axis >= 0 else NEW for axis in then])


def inverse(perm: Layout) -> Layout:
    found = [0] * len(perm)
    for place, axis in enumerate(perm):
        found[axis] = place
    return tuple(found)


def between(stored: Layout, wanted: Layout) -> Layout:
    """The layout, of a tensor stored in one layout, that makes it the tensor in another."""
    return compose(inverse(stored), wanted)


def own(layout: Layout) -> Layout:
    """The layout without axes that the tensor does not have."""
    return tuple([axis for axis in layout if axis != NEW]) if NEW in layout else layout


def trimmed(layout: Sequence[int]) -> Layout:
    """The layout without new axes in front, which broadcasting supplies anyway."""
    first = 0
    while first < len(layout) and layout[first] == NEW:
        first += 1
    return tuple(layout[first:])


def sizes(shape: Shape, layout: Layout) -> Shape:
    """The shape of a tensor in a layout."""
    return tuple([1 if axis == NEW else shape[axis] for axis in layout])


@lru_cache(1 << 12)
def elements(shape: Shape) -> int:
    """How many elements a tensor has; open sizes count as a number that is neither small nor large."""
    count = 1
    for size in shape:
        count *= size if isinstance(size, int) else max(1, _nominal(size))
    return count


def _nominal(size: Dim | None) -> int:
    return _NOMINAL if size is None else sum(factor * _NOMINAL ** len(symbols) for factor, symbols in size.terms)


def _long(shape: Shape, layout: Layout) -> list[int]:
    """The axes that are longer than 1, in their order."""
    return [axis for axis in layout if axis != NEW and shape[axis] != 1]


@lru_cache(1 << 12)
def form(shape: Shape, layout: Layout) -> Layout:
    """What of a layout can be told from the tensor: of axes of size 1 only where they are."""
    return tuple([NEW if axis == NEW or shape[axis] == 1 else axis for axis in layout])


def keeps_order(shape: Shape, layout: Layout) -> bool:
    """Whether the axes that are longer than 1 are in the order that they have in the shape."""
    return _long(shape, layout) == _long(shape, straight(len(shape)))


def price(shape: Shape, stored: Layout, wanted: Layout) -> Price:
    """What it costs to make a tensor in the layout `wanted` of one in the layout `stored`."""
    if stored == wanted:
        return FREE
    if _long(shape, stored) == _long(shape, wanted):
        return FREE if sizes(shape, stored) == sizes(shape, wanted) else Price(0, 1)
    apart = _APART if _long(shape, stored)[-1:] != _long(shape, wanted)[-1:] else 1
    return Price(elements(shape) * apart, 1 + (len(wanted) != len(stored)))
