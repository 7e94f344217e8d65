"""Reshape, Flatten, Squeeze and Unsqueeze: operators that keep the order of the elements.

All that such an operator does is to give its result a shape. So a chain of them is determined by the
first operand and the last shape, whatever is in between.
"""

from __future__ import annotations

from graphopt_passes.simplify.reading import (
    Sizes,
    find_target,
    fixed,
    from_front,
    ints,
    require_gone,
    reshape_target,
    result_shape,
    same_sizes,
)

from graphopt import Const, Dim, Node, Tensor, op, require, rule

_FAMILY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def _one(x: Tensor, s: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.any(*_FAMILY)(x, s, ...))


def _two(x: Tensor, s: Tensor | None, t: Tensor | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.any(*_FAMILY)(inner.bind(op.any(*_FAMILY)(x, s, ...)), t, ...))


def _reshape(x: Tensor, s: Tensor, n: Node) -> Tensor:
    return n.bind(op.Reshape(x, s, ...))


def _unsqueezes(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.Unsqueeze(inner.bind(op.Unsqueeze(x, a, ...)), b, ...))


def _squeezes(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.Squeeze(inner.bind(op.Squeeze(x, a, ...)), b, ...))


@rule(_one, accuracy="exact", single_use=False)
def reshape_noop(x: Tensor, s: Tensor | None, n: Node) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """Giving a tensor the shape that it already has changes nothing."""
    require(same_sizes(x.shape, result_shape(n)), "the shape changes")
    return x


@rule(_two, accuracy="exact", single_use=False, bounded=True)
def reshape_chain(x: Tensor, s: Tensor | None, t: Tensor | None, inner: Node, outer: Node) -> Tensor:  # noqa: ARG001
    """Of Reshapes, Flattens, Squeezes and Unsqueezes in a row only the last shape counts: one Reshape, or none."""
    old, new = x.shape, result_shape(outer)
    if same_sizes(old, new):
        return x
    require_gone(inner, *_FAMILY)
    require(inner.op != outer.op or inner.op in ("Reshape", "Flatten"), "two of a kind stay of that kind")
    target = fixed(t.value) if t is not None and outer.op == "Reshape" else None
    if t is not None and target is not None and 0 not in target:
        return op.Reshape(x, t)  # a target that copies nothing means the same for every operand
    return op.Reshape(x, reshape_target(old, new))


@rule(_reshape, accuracy="exact", single_use=False, bounded=True)
def reshape_to_constant(x: Tensor, s: Tensor, n: Node) -> Tensor:
    """A Reshape to a computed shape is one to a constant, or another operator with fixed axes, if there is one."""
    require(not s.is_const, "the target is a constant")
    old, new = x.shape, result_shape(n)
    target = _element_by_element(old, s.value.symbolic, bool(n.attr("allowzero", 0)))
    found, reason = find_target(old, new)
    if target or not reason:
        return op.Reshape(x, target or found)
    # With a size of 0 these do what a Reshape cannot be told, or fails at.
    for longer, shorter, kind in ((new, old, op.Unsqueeze), (old, new, op.Squeeze)):
        axes = _ones(longer, shorter)
        if axes is not None:
            return kind(x, axes) if n.version >= 13 else kind(x, axes=axes)
    axis = _joint(old, new)
    require(axis is not None, reason)
    return op.Flatten(x, axis=axis)


def _ones(longer: Sizes, shorter: Sizes) -> list[int] | None:
    """The axes of size 1 in `longer` without which it is `shorter`."""
    axes: list[int] = []
    for i, size in enumerate(longer):
        at = i - len(axes)
        if at < len(shorter) and size is not None and size == shorter[at]:
            continue
        if size != 1:
            return None
        axes.append(i)
    return axes if len(longer) - len(axes) == len(shorter) and axes else None


def _joint(old: Sizes, new: Sizes) -> int | None:
    """Where to Flatten a tensor of shape `old` so that it is of shape `new`."""
    if len(new) != 2 or None in old:
        return None
    for axis in range(len(old) + 1):
        front, back = _product(old[:axis]), _product(old[axis:])
        if (front, back) == new:
            return axis
    return None


def _product(sizes: Sizes) -> int | Dim:
    total: int | Dim = 1
    for size in sizes:
        assert size is not None
        total = total * size
    return total


def _element_by_element(old: Sizes, wanted: tuple[int | Dim, ...] | None, zero: bool) -> list[int] | None:
    """The computed target with each size that the operand has at that place copied; None if others are left.

    It fails and succeeds exactly when the computed one does, for -1 stands where it stood.
    """
    target: list[int] = []
    for i, size in enumerate(wanted or ()):
        if isinstance(size, int):
            if size == 0 and zero:
                return None
            target.append(size)
        elif i < len(old) and old[i] == size:
            target.append(0)
        else:
            return None
    return target or None


@rule(_unsqueezes, accuracy="exact")
def unsqueeze_unsqueeze(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    """Two Unsqueezes in a row are one with the axes of both."""
    first, then = ints(inner, 1, "axes", 13), ints(outer, 1, "axes", 13)
    require(first is not None and then is not None, "axes are missing")
    assert first is not None and then is not None
    del a, b
    rank = x.rank + len(first) + len(then)
    last = set(from_front(then, rank))
    left = [i for i in range(rank) if i not in last]
    axes = sorted(last | {left[i] for i in from_front(first, len(left))})
    return op.Unsqueeze(x, axes) if outer.version >= 13 else op.Unsqueeze(x, axes=axes)


@rule(_squeezes, accuracy="exact")
def squeeze_squeeze(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    """Two Squeezes in a row are one with the axes of both."""
    first, then = ints(inner, 1, "axes", 13), ints(outer, 1, "axes", 13)
    require(first is not None and then is not None, "which axes are squeezed depends on the sizes")
    assert first is not None and then is not None
    del a, b
    gone = from_front(first, x.rank)
    left = [i for i in range(x.rank) if i not in gone]
    axes = sorted(gone + [left[i] for i in from_front(then, len(left))])
    return op.Squeeze(x, axes) if outer.version >= 13 else op.Squeeze(x, axes=axes)
