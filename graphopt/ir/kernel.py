"""What a kernel gets: one operator call on arrays, with its opset version and a budget for its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import GraphoptError

Array = NDArray[Any]
DEFAULT_BUDGET = 256 << 20


class Undefined(GraphoptError):
    """ONNX does not define the result for these values, so nothing may be folded."""


class Unsupported(GraphoptError):
    """There is no kernel for this call that is known to be exact, bounded and safe."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `op` as of opset `version`; missing optional inputs are None.

    `budget`: how many bytes its results may have together; `allocate` raises `Unsupported` above it.
    """

    op: str
    version: int
    inputs: Sequence[Array | None]
    attrs: Mapping[str, Any]
    budget: int = DEFAULT_BUDGET
    n_outputs: int = 1

    def input(self, index: int) -> Array:
        """The input at `index`. Raises `Undefined` if it is missing."""
        array = self.optional(index)
        if array is None:
            raise Undefined(f"{self.op} needs its input {index}")
        return array

    def optional(self, index: int) -> Array | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def ints(self, index: int, attr: str, since: int) -> list[int] | None:
        """Integers that are an attribute before opset `since`, and an input from then on; None if absent."""
        if self.version < since:
            given = self.attrs.get(attr)
            return None if given is None else [int(x) for x in given]
        array = self.optional(index)
        return None if array is None else [int(x) for x in array.reshape(-1)]

    def axis(self, axis: int, rank: int) -> int:
        """The axis counted from the front. Raises `Undefined` if it is out of range."""
        if not -rank <= axis < rank:
            raise Undefined(f"{self.op} has axis {axis}, but the rank is {rank}")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """The axes counted from the front. Raises `Undefined` if one is out of range or comes twice."""
        result = [self.axis(axis, rank) for axis in axes]
        if len(set(result)) != len(result):
            raise Undefined(f"{self.op} names an axis twice: {list(axes)}")
        return result

    def allocate(self, shape: Sequence[int], dtype: np.dtype[Any], count: int = 1) -> tuple[int, ...]:
        """`shape`, after checking it and that `count` arrays of it stay within the budget."""
        if any(size < 0 for size in shape):
            raise Undefined(f"{self.op} would have a negative size: {list(shape)}")
        needed = math.prod(shape) * dtype.itemsize * count
        if needed > self.budget:
            raise Unsupported(f"the result of {self.op} would have {needed} bytes, more than {self.budget}")
        if len(shape) > 32:
            raise Unsupported(f"the result of {self.op} would have rank {len(shape)}")
        return tuple(shape)

    def work(self, operations: int, limit: int) -> None:
        """Raise `Unsupported` if this would take too long."""
        if operations > limit:
            raise Unsupported(f"{self.op} would take {operations} operations, more than {limit}")
