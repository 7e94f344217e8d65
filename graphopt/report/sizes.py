"""Shapes as numbers: every size that the model only names is taken as 1, and the names are remembered."""

from __future__ import annotations

import math

import onnx_ir as oir

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.facts import Facts


class Sizes:
    """Shapes as numbers, with every symbol taken as 1; `symbols` collects the names that were met."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._numbers: dict[Dim, int] = {}
        self._bytes: dict[tuple[oir.DataType | None, Shape | None], int | None] = {}
        self.symbols: set[str] = set()

    def shape(self, value: oir.Value | None) -> tuple[int, ...] | None:
        known = None if value is None else self._facts.shape(value)
        if known is None or None in known:
            return None
        return tuple([d if isinstance(d, int) else self._number(d) for d in known if d is not None])

    def nbytes(self, value: oir.Value) -> int | None:
        """Bytes of a tensor, None if its type or shape is not known; text counts as nothing."""
        fact = self._facts.fact(value)
        key = fact.dtype, fact.shape
        if key not in self._bytes:
            self._bytes[key] = self._nbytes(fact.dtype, self.shape(value))
        return self._bytes[key]

    @staticmethod
    def _nbytes(dtype: oir.DataType | None, shape: tuple[int, ...] | None) -> int | None:
        if dtype is None or shape is None:
            return None
        if dtype == oir.DataType.STRING:
            return 0
        return math.ceil(dtype.bitwidth * math.prod(shape) / 8)

    def is_constant(self, value: oir.Value) -> bool:
        return self._facts.const(value) is not None

    def number(self, value: oir.Value | None) -> int | None:
        """The one integer that a constant holds."""
        found = None if value is None else self._facts.splat(value)
        return None if found is None else int(found)

    def _number(self, dim: Dim) -> int:
        if dim not in self._numbers:
            self.symbols.update(_names(dim))
            self._numbers[dim] = max(1, _at_one(dim))
        return self._numbers[dim]


def _names(dim: Dim) -> set[str]:
    """The names that the model gives to the symbols of a size; one word for all that it does not name."""
    symbols = {symbol for monomial, _ in dim._terms for symbol in monomial}
    return {symbol.name if symbol.kind == "" else "unnamed sizes" for symbol in symbols}


def _at_one(dim: Dim) -> int:
    """The value of a size where every symbol is 1."""
    return sum(factor for _, factor in dim._terms)
