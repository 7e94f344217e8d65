"""A node as the functions see it that work out shapes."""

from __future__ import annotations

from typing import Any, Protocol

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.kernel import Array

Size = int | Dim | None


class Site(Protocol):
    """A node as the shape functions see it."""

    version: int
    outputs: int
    inputs: int

    def shape(self, index: int) -> Shape | None:
        """The shape of an input; None also where the input is left out."""

    def elements(self, index: int) -> tuple[int | Dim, ...] | None:
        """The elements of a small integer input, as far as known."""

    def array(self, index: int) -> Array | None:
        """A constant input."""

    def given(self, index: int) -> bool:
        """Whether the input is there."""

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""

    def partners(self) -> list[Shape]:
        """The shapes of what elementwise operators of the same graph broadcast the first output with."""


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front. Raises `IndexError` if it is out of range."""
    if not -rank <= axis < rank:
        raise IndexError(axis)
    return axis % rank
