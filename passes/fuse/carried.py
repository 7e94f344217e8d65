"""A constant that meets a tensor after its elements were moved, as it would be before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt import Dim, Node, require

Array = np.ndarray[Any, Any]
Sizes = Sequence[int | Dim]


def carried_back(array: Array, moves: Sequence[Node]) -> Array:
    """The constant that does to what `moves` take what `array` does to what they give; the last move comes first.

    `array` has the rank of the result, and 1 where it is broadcast. Declines the rewrite if there is none.
    """
    for move in moves:
        source = move.inputs[0]
        old = None if source is None else source.shape
        new = move.outputs[0].shape
        require(old is not None and new is not None and None not in (*old, *new), "a shape is not known")
        assert old is not None and new is not None
        require(array.ndim == len(new), "the constant has another rank")
        fits = all(n == 1 or n == size for n, size in zip(array.shape, new, strict=True))
        require(fits, "the constant raises the size of the tensor")
        if array.size == 1:
            array = array.reshape((1,) * len(old))
        elif move.op == "Transpose":
            order = list(move.attr("perm") or range(len(old))[::-1])
            array = array.transpose(np.argsort(order))
        else:
            array = _regrouped(array, [n for n in old if n is not None], [n for n in new if n is not None])
    return np.ascontiguousarray(array)


def _regrouped(array: Array, old: Sizes, new: Sizes) -> Array:
    """The constant before a Reshape from `old` to `new`: axes are split or merged within groups of equal size."""
    require(0 not in (*old, *new), "the tensor is empty")
    shape: list[int] = []
    wide: list[int] = []
    for (i, k), (j, m) in _groups(old, new):
        here = array.shape[j:m]
        if all(n == 1 for n in here):
            wide += here
            shape += [1] * (k - i)
            continue
        fixed = [n for n in (*old[i:k], *new[j:m]) if isinstance(n, int)]
        require(len(fixed) == k - i + m - j, "the sizes that the constant varies along are not fixed")
        wide += [n for n in new[j:m] if isinstance(n, int)]
        shape += [n for n in old[i:k] if isinstance(n, int)]
    return np.broadcast_to(array, wide).reshape(shape)


def _groups(old: Sizes, new: Sizes) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Stretches of axes of both shapes that have equally many elements, as small as possible."""
    found: list[tuple[tuple[int, int], tuple[int, int]]] = []
    starts, before, after = (0, 0), _products(old), _products(new)
    j = 0
    for i in range(1, len(old) + 1):
        match = next((m for m in range(j, len(new) + 1) if after[m] == before[i]), None)
        if match is None:
            continue
        end = (i, len(new) if i == len(old) else match)
        found.append(((starts[0], end[0]), (starts[1], end[1])))
        starts, j = end, end[1]
    require(starts == (len(old), len(new)), "the axes of the two shapes have nothing in common")
    return found


def _products(sizes: Sizes) -> list[int | Dim]:
    return [math.prod(sizes[:i], start=1) for i in range(len(sizes) + 1)]
