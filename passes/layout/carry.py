"""How an operator carries a permutation: which axes of its operands and results go together, as data.

An operator has axes of its own, numbered as in its widest tensor. Each tensor that it reads or writes says which of its
axes stand for which of these. If the operator's axes are put into another order (a `Layout` of them), every tensor's
axes follow, and so do the attributes and small constants that name axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from graphopt_passes.layout.orders import NEW, Layout, straight, trimmed

from graphopt import Accuracy, Node, Rewrite, Value

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Spread:
    """How one tensor lies along the operator's axes.

    `groups`: for each axis of the operator the axes of the tensor that make it up, in order; none if the tensor does
    not have it. `filled`: whether an axis that the tensor does not have counts as one of size 1, by broadcasting.
    `plain`: whether its axes are the operator's, one for one.
    """

    groups: Groups
    filled: bool = False
    plain: bool = False

    def layout(self, order: Layout) -> Layout:
        """The layout of the tensor if the operator's axes are in this order."""
        if self.plain:
            return order
        missing = (NEW,) if self.filled else ()
        return trimmed([axis for place in order for axis in self.groups[place] or missing])

    def order(self, layout: Layout, now: Layout) -> Layout | None:
        """The order that gives the tensor this layout; axes that the tensor does not have stay where they are now."""
        if self.plain:
            return layout if NEW not in layout else None
        owner = {axes[0]: place for place, axes in enumerate(self.groups) if axes}
        found: list[int] = []
        i = 0
        while i < len(layout):
            place = owner.get(layout[i])
            if place is None or layout[i : i + len(self.groups[place])] != self.groups[place]:
                return None
            found.append(place)
            i += len(self.groups[place])
        rest = iter(found)
        return tuple([next(rest) if self.groups[place] else place for place in now])


@dataclass(frozen=True)
class Changed:
    """What an operator becomes in another order of axes: attributes and constant inputs that change."""

    op: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    drop_attrs: tuple[str, ...] = ()
    inputs: int | None = None  # how many of the old inputs are kept


def same(order: Layout) -> Changed:
    """Nothing about the operator names axes."""
    del order
    return Changed()


def always(order: Layout) -> bool:
    """Any order will do."""
    del order
    return True


@dataclass(frozen=True)
class Carry:
    """How one node carries permutations.

    `axes`: how many axes it has. `reads` and `writes`: how the tensors lie along them, by index; inputs that are not
    listed are read as they are. `pinned`: axes that must stay where they are. `allows`: whether an order is possible,
    besides that. `change`: what becomes of attributes and constants. `accuracy`: how close the results are.
    """

    axes: int
    reads: Mapping[int, Spread]
    writes: Mapping[int, Spread]
    change: Callable[[Layout], Changed] = same
    pinned: frozenset[int] = frozenset()
    allows: Callable[[Layout], bool] = always
    accuracy: Accuracy = Accuracy.EXACT
    finish: Callable[[Rewrite, Value, Layout], Value] | None = None
    nodes: int = 0  # that another order adds

    @property
    def straight(self) -> Layout:
        return straight(self.axes)

    def takes(self, order: Layout) -> bool:
        """Whether the operator can work in this order."""
        if self.pinned and any(order[axis] != axis for axis in self.pinned):
            return False
        return self.allows(order)

    def build(self, rewrite: Rewrite, node: Node, inputs: Sequence[Value | None], order: Layout) -> tuple[Value, ...]:
        """The node in another order; `inputs` have their layouts already."""
        change = self.change(order)
        operands = list(inputs[: change.inputs])
        for index, array in change.constants.items():
            operands += [None] * (index + 1 - len(operands))
            old = node.inputs[index] if index < len(node.inputs) else None
            operands[index] = rewrite.constant(array, old.name if old is not None else node.name)
        attrs = {name: value for name, value in node.attrs.items() if name not in change.drop_attrs}
        made = rewrite.node(change.op or node.op, operands, {**attrs, **change.attrs}, outputs=len(node.outputs))
        if self.finish is not None:
            return (self.finish(rewrite, made[0], order), *made[1:])
        return made


@lru_cache(None)
def whole(rank: int) -> Spread:
    """A tensor that has all axes of the operator."""
    return Spread(tuple((axis,) for axis in range(rank)), plain=True)


@lru_cache(None)
def broadcast(rank: int, axes: int) -> Spread:
    """An operand that is broadcast to all axes of the operator."""
    missing = axes - rank
    if not missing:
        return whole(rank)
    return Spread(tuple((axis - missing,) if axis >= missing else () for axis in range(axes)), filled=True)


def moved(order: Layout, axes: Sequence[int]) -> list[int]:
    """Where these axes are in the new order."""
    return [order.index(axis) for axis in axes]
