"""How many bytes a value takes in a run, from its symbolic shape and the shapes of what is fed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.dims import Dim

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["cut_inputs", "sizes_of"]


def sizes_of(model: Model, names: Iterable[str], feeds: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Bytes of those values of the main graph whose size follows from the shapes of the inputs, by name."""
    wanted = set(names)
    given: dict[Dim, int] = {}
    for value in model.main.inputs:
        for dim, size in zip(value.shape or (), feeds.get(value.name, ()), strict=False):
            if isinstance(dim, Dim):
                given.setdefault(dim, size)
    found = {}
    for node in model.main.nodes:
        for value in node.outputs:
            if value.name in wanted and value.shape is not None and value.dtype is not None:
                sizes = [_number(dim, given) for dim in value.shape]
                if all(size is not None for size in sizes):
                    width = np.dtype(value.dtype.numpy()).itemsize
                    found[value.name] = width * math.prod(size for size in sizes if size is not None)
    return found


def cut_inputs(model: Model) -> list[str]:
    """The inputs whose first axis counts rows that do not depend on each other, as it is where data is read in batches.

    None if another axis has that size, too: then something else is meant by it.
    """
    inputs = [value for value in model.main.inputs if not value.is_initializer]
    cut = [v for v in inputs if v.shape and not isinstance(v.shape[0], int)]
    first = {str(v.shape[0]) for v in cut if v.shape}
    rest: list[Any] = [dim for v in inputs for dim in (v.shape or ())[1 if v in cut else 0 :]]
    if len(first) != 1 or any(str(dim) in first for dim in rest) or any(v.shape is None for v in inputs):
        return []
    return [v.name for v in cut]


def _number(dim: int | Dim | None, given: Mapping[Dim, int]) -> int | None:
    if dim is None or isinstance(dim, int):
        return dim
    if dim in given:
        return given[dim]
    if dim.is_symbol:
        whole = dim.quotient
        size = None if whole is None else _number(whole[0], given)
        return None if size is None or whole is None else size // whole[1]
    total = 0
    for factor, symbols in dim.terms:
        for symbol in symbols:
            size = _number(symbol, given)
            if size is None:
                return None
            factor *= size
        total += factor
    return total
