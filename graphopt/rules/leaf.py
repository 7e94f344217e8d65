"""`Leaf`: a matched value as a replacement sees it, with its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.ir.edit import Decline
from graphopt.ir.facts import provably_equal
from graphopt.ir.interval import interval
from graphopt.rules.expr import Const, Tensor

if TYPE_CHECKING:
    import numpy as np

    from graphopt.ir.dims import Dim
    from graphopt.ir.value import DType, Value


class Leaf(Const):
    """A value that the pattern captured. A fact that is not known declines the rewrite, with that reason.

    `declared`: the pattern asked for a constant here, and did not merely find one.
    """

    def __init__(self, value: Value, *, declared: bool = True) -> None:
        self._value = value
        self.declared = declared

    @property
    def value(self) -> Value:
        """The value itself, for what the other facts do not cover."""
        return self._value

    @property
    def name(self) -> str:
        return self._value.name

    @property
    def dtype(self) -> DType:
        dtype = self._value.dtype
        if dtype is None:
            raise Decline("an operand's dtype is not known")
        return dtype

    @property
    def shape(self) -> tuple[int | Dim | None, ...]:
        """One entry per axis: an int, a symbolic dim, or None where unknown."""
        shape = self._value.shape
        if shape is None:
            raise Decline("an operand's rank is not known")
        return shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_const(self) -> bool:
        return self._value.is_const

    @property
    def scalar(self) -> float:
        """The one number that all elements of a constant equal."""
        splat = self._value.splat
        if splat is None:
            raise Decline("an operand is not a constant with one value throughout")
        number: float = splat.item()
        return number

    @property
    def ints(self) -> tuple[int, ...]:
        """The elements of a constant integer tensor, flattened."""
        array = self._value.array()
        if array is None:
            raise Decline("an operand is not constant")
        return tuple(int(i) for i in array.reshape(-1))

    @property
    def array(self) -> np.ndarray:
        """The content of a constant."""
        array = self._value.array()
        if array is None:
            raise Decline("an operand is not constant")
        return array

    @property
    def symbolic(self) -> tuple[int | Dim, ...]:
        """The elements of a small integer tensor, as ints and symbolic dims."""
        elements = self._value.symbolic
        if elements is None:
            raise Decline("the elements of a shape operand are not known")
        return elements

    @property
    def range(self) -> tuple[float, float]:
        return interval(self._value)

    @property
    def uses(self) -> int:
        return self._value.use_count

    def per_channel(self, axis: int, of: Tensor) -> bool:
        rank, shape = of.rank, self.shape
        if len(shape) > rank or not self.is_const:
            return False
        aligned = (1,) * (rank - len(shape)) + shape
        return all(d == 1 for i, d in enumerate(aligned) if i != axis % rank)

    def broadcasts_into(self, other: Tensor) -> bool:
        theirs, mine = other.shape, self.shape
        if len(mine) > len(theirs):
            return False
        tail = theirs[len(theirs) - len(mine) :]
        return all(m == 1 or provably_equal((m,), (t,)) for m, t in zip(mine, tail, strict=True))

    def __repr__(self) -> str:
        return f"Leaf({self._value.name!r})"
