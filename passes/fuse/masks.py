"""The mask of attention as the operator takes it.

In ONNX Runtime's kernel a query all of whose keys are masked by the least finite number, or by less, gets zeros. A
softmax over such scores is uniform or, over -∞ only, NaN. So the least finite number becomes the one next to it, which
the kernel adds like any other; and where a row may consist of -∞, its maximum is subtracted: from 0 this changes
nothing, and -∞ becomes NaN as in the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from graphopt_passes.fuse.mask_shape import LARGEST, aligned
from graphopt_passes.fuse.scores import Mask, Sizes, far, number

from graphopt import DType, Rewrite, Value, require

_KINDS: dict[DType, type[np.floating[Any]]] = {DType.FLOAT: np.float32, DType.FLOAT16: np.float16}
_MOVES = ("Expand", "Unsqueeze", "Reshape", "Squeeze", "Slice")


class Masks:
    """Makes one mask of several, for scores of `shape` (batch, heads, queries, keys), or without heads.

    `safe`: rows of -∞ are zeros in the original, too. `fast`: whether infinite scores need not be thought of.
    """

    def __init__(self, rewrite: Rewrite, dtype: DType, shape: Sizes, *, safe: bool, fast: bool) -> None:
        self.rewrite, self.shape, self.safe, self.fast = rewrite, shape, safe, fast
        self.kind = _KINDS[dtype]
        self.least = float(np.finfo(self.kind).min)
        self.next = float(np.nextafter(self.kind(self.least), self.kind(0)))

    def merged(self, masks: Sequence[Mask]) -> Value:
        """The masks, one at least, as one value."""
        if self.safe and len(masks) == 1 and (seen := self._boolean(masks[0])) is not None:
            return seen
        values = [aligned(self.rewrite, self._added(m), m.shape, self.shape) for m in masks]
        if all(v.is_const for v in values):
            return self._constant(values)
        total = self._visible(values[0])
        for value in values[1:]:
            (total,) = self.rewrite.node("Add", [total, self._visible(value)])
        return total

    def _boolean(self, mask: Mask) -> Value | None:
        """The condition under which a key is seen, if all others get -∞ and fully masked rows zeros."""
        seen, negated, where = mask.seen, mask.negated, mask.value.producer
        if seen is None and where is not None and where.op == "Where" and where.is_standard:
            values = number(where.inputs[1]), number(where.inputs[2])
            if values in ((0, -math.inf), (-math.inf, 0)):
                seen, negated = where.inputs[0], values[1] == 0
        elif number(mask.value) != -math.inf:
            return None
        if seen is None:
            return None
        seen = aligned(self.rewrite, seen, mask.shape, self.shape)
        if seen.is_const:
            array = np.asarray(seen.array(), dtype=bool)
            return self.rewrite.constant(~array if negated else array, "mask")
        return self.rewrite.node("Not", [seen])[0] if negated else seen

    def _added(self, mask: Mask) -> Value:
        """What is added to the scores, in place of what stands for them."""
        if mask.seen is None:
            return mask.value
        hidden = number(mask.value)
        assert hidden is not None
        require(self.fast, "what is hidden may be infinite")
        require(hidden <= far(mask.value), "what is hidden may be larger than what is seen")
        least = self._number(max(hidden, self.next) if hidden > -math.inf else hidden)
        if mask.seen.is_const:
            seen = np.asarray(mask.seen.array(), dtype=bool) ^ mask.negated
            return self.rewrite.constant(np.where(seen, self._number(0), least), "mask")
        pair = (least, self._number(0)) if mask.negated else (self._number(0), least)
        return self.rewrite.node("Where", [mask.seen, *(self.rewrite.constant(x, "mask") for x in pair)])[0]

    def _number(self, value: float) -> np.ndarray:
        return np.array(value, dtype=self.kind)

    def _constant(self, values: Sequence[Value]) -> Value:
        with np.errstate(over="ignore", invalid="ignore"):
            arrays = [self._content(v) for v in values]
            shape = np.broadcast_shapes(*(a.shape for a in arrays))
            require(math.prod(shape) <= LARGEST, "the mask is too large to be written out")
            total = arrays[0] if len(arrays) == 1 else np.zeros(shape, self.kind)
            for array in arrays if len(arrays) > 1 else ():
                total = total + array
        valid = total.size > 0 and not np.isnan(total).any() and float(total.max()) < math.inf
        require(valid and total.ndim > 0, "the mask is not valid")
        require(self.safe or bool((total.max(axis=-1) > self.least).all()), "the mask hides all keys from a query")
        if len(values) == 1 and np.array_equal(total, np.asarray(values[0].array())):
            return values[0]
        return self.rewrite.constant(np.ascontiguousarray(total), "mask")

    def _content(self, value: Value) -> np.ndarray:
        array = np.asarray(value.array()).astype(self.kind)
        array[array == self._number(self.least)] = self._number(self.next)
        return array

    def _visible(self, value: Value) -> Value:
        """A computed summand, so that the operator does with rows of it what the softmax did."""
        if value.is_const:
            return self._constant([value])
        low = value.range[0]
        if low > self.least:
            return value
        node = value.producer
        if low < self.least and node is not None and node.op == "Add" and node.is_standard and None not in node.inputs:
            parts = [v for v in node.inputs if v is not None]
            if all(p.range[0] >= self.least for p in parts):  # only their sum may be -∞
                return self.rewrite.node("Add", [self._visible(p) for p in parts])[0]
        if low < self.least and self._hides(value):
            if self.safe:
                return value
            axes = self.rewrite.constant(np.array([-1], np.int64), "axes")
            (largest,) = self.rewrite.node("ReduceMax", [value, axes])
            return self.rewrite.node("Sub", [value, largest])[0]
        # What is unknown may hold -∞, but then it is no finite input.
        require(low == self.least or (self.fast and not self.safe), "the mask may hide all keys from a query")
        return self.rewrite.node("Max", [value, self.rewrite.constant(self._number(self.next), "least")])[0]

    def _hides(self, value: Value) -> bool:
        """Whether a value consists of 0 and -∞, and is moved at most."""
        node = value.producer
        while node is not None and node.is_standard and node.op in _MOVES:
            node = None if node.inputs[0] is None else node.inputs[0].producer
        if node is None or node.op != "Where" or not node.is_standard:
            return False
        return {_filling(node.inputs[1]), _filling(node.inputs[2])} == {0.0, -math.inf}


def _filling(value: Value | None) -> float | None:
    """The one number that a value consists of, be it a constant or made by ConstantOfShape."""
    node = None if value is None else value.producer
    if value is not None and node is not None and node.op == "ConstantOfShape" and node.is_standard:
        low, high = value.range
        return low if low == high else None
    return number(value)
