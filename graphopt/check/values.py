"""Values of the model in the making, and what an operator asks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.check.contents import Array, Kind
from graphopt.check.sizes import Shape


@dataclass(eq=False)
class Value:
    """A value; `array` is its content, where that is known."""

    name: str
    dtype: int
    shape: Shape
    array: Array | None = None


@dataclass(frozen=True)
class Want:
    """What is asked of an operand.

    `shape`: the shape to have, `strict`ly or if nothing else is known; `fits`: whether a hinted shape may take its
    place. `against`: the other operands' shape, with which any shape that broadcasts will do. `content`: what it holds;
    `fill`: a number that it holds throughout, if it is a constant; `kind`: of the numbers in it.
    """

    shape: Shape | None = None
    strict: bool = False
    fits: Callable[[Shape], bool] | None = None
    against: Shape | None = None
    content: Array | None = None
    fill: float | None = None
    kind: Kind | None = None


ANYTHING = Want()
