"""Mending what has the size of a batch built in, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as oir

from graphopt.ir.dims import Dim, Shape, static
from graphopt.ir.edit import Editor, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.shapes import BROADCASTING
from graphopt.ir.value import Node, Value

_BY = "dims"
_END = 2**63 - 1
_STATES = {"LSTM": (4, 5, 6), "GRU": (4, 5), "RNN": (4, 5)}
_ALIKE = frozenset(["Concat", "GatherElements", "GridSample", "ScatterElements"])
_ALONG = frozenset([
    "ArgMax", "ArgMin", "CumSum", "Gather", "Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "Split", "TopK",
])  # fmt: skip


class NotMendedError(Exception):
    """An operator that cannot do with another size; the text says why."""


@dataclass
class Mender:
    """`batch` is the size that was the number `size` before, to be read from an axis of an input, `source`.

    `old`: the shapes of all values before.
    """

    model: Model
    editor: Editor
    batch: Dim
    size: int
    source: tuple[Value, int]
    old: Mapping[oir.Value, Shape | None]

    def mend(self, node: Node) -> None:
        """See to it that a node takes its operands, which are right, with the new size. Raises `NotMendedError`."""
        if not node.is_standard:
            return
        op = node.op
        x = node.inputs[0] if node.inputs else None
        found = self.axes(x.shape) if x is not None else []
        if op == "Reshape":
            self._reshape(node)
        elif op in BROADCASTING or op in ("MatMul", "Gemm"):
            self._broadcast(node)
        elif op in _ALIKE:
            self._alike(node)
        elif op in _STATES:
            self._states(node)
        elif not found or x is None:
            return
        elif op == "Slice":
            self._slice(node, found)
        elif op == "Squeeze":
            self._squeeze(node, found)
        elif op == "Expand":
            self._expand(node, x)
        elif op in ("Resize", "Upsample"):
            self._resize(node, found)
        if op in _ALONG or op.startswith("Reduce"):
            self._require_apart(node)

    def axes(self, shape: Shape | None) -> list[int]:
        """The axes along which there are samples."""
        return [i for i, size in enumerate(shape or ()) if self._depends(size)]

    def check(self, value: Value) -> None:
        """Compare with what was there before: with the old number of samples it must be the same shape."""
        old, new = self.old.get(value._raw), value.shape
        if old is None or new is None:
            return
        if len(old) != len(new):
            raise NotMendedError(f"its result has another number of axes: {_spelled(old)} became {_spelled(new)}")
        for a, b in zip(old, new, strict=True):
            was = self._before(b)
            if isinstance(a, int) and isinstance(was, int) and a != was:
                raise NotMendedError(f"its result was {_spelled(old)}, and would be {_spelled(new)}")

    def _depends(self, size: int | Dim | None) -> bool:
        return isinstance(size, Dim) and any(self.batch in symbols for _, symbols in size.terms)

    def _before(self, size: int | Dim | None) -> int | Dim | None:
        """A size as it was with the old number of samples."""
        if not isinstance(size, Dim):
            return size
        total: int | Dim = 0
        for factor, symbols in size.terms:
            product: int | Dim = factor
            for symbol in symbols:
                product = product * (self.size if symbol == self.batch else symbol)
            total = total + product
        return total

    def _was(self, value: Value | None) -> tuple[int, ...] | None:
        """The static shape that a value had, or has if it is new or a constant."""
        if value is None:
            return None
        return static(self.old.get(value._raw, value.shape))

    # -- what is told in constants ---------------------------------------------------------------------------

    def _reshape(self, node: Node) -> None:
        x, target = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
        found = [] if x is None else self.axes(x.shape)
        if x is None or not found or x.shape is None or target is None:
            return
        if not target.is_const:
            if target.is_initializer:
                raise NotMendedError("its target is an initializer that callers may override")
            return
        if len(found) > 1:
            raise NotMendedError("the samples lie along several axes")
        old, result = static(tuple(self._before(d) for d in x.shape)), self._was(node.outputs[0])
        if old is None or result is None:
            raise NotMendedError("other sizes are not fixed, either")
        place = self._place(old, found[0], result)
        new: list[int | Dim] = list(result)
        new[place] = self.batch * (result[place] // self.size)
        copies = place < len(x.shape) and x.shape[place] == new[place] and not node.attr("allowzero", 0)
        if 0 in result:
            raise NotMendedError("there is a size of 0")
        wanted = [d if isinstance(d, int) else 0 if copies else -1 for d in new]
        if wanted != np.asarray(target.array()).tolist():
            with self._rewrite(node) as rewrite:
                rewrite.set_input(node, 1, rewrite.constant(np.array(wanted, np.int64), target.name))

    def _place(self, old: Sequence[int], axis: int, result: Sequence[int]) -> int:
        """The axis of a Reshape's result along which the samples lie that lay along `axis` of its operand."""
        front = math.prod(old[:axis])
        places = [i for i, n in enumerate(result) if math.prod(result[:i]) == front and n % self.size == 0]
        if not places:
            raise NotMendedError(f"samples along axis {axis} of {list(old)} are torn apart in {list(result)}")
        # The samples come first along their axis: better an axis of theirs alone than one that they share.
        alone = [i for i in places if result[i] == self.size]
        if alone:
            return axis if axis in alone else alone[0]
        return next((i for i in places if result[i] == old[axis]), places[0])

    def _expand(self, node: Node, x: Value) -> None:
        target, shape = node.inputs[1], x.shape
        if target is None or not target.is_const or shape is None:
            return
        wanted = [int(n) for n in np.asarray(target.array())]
        for i in self.axes(shape):
            at = i - len(shape) + len(wanted)
            if at >= 0:
                wanted[at] = 1
        with self._rewrite(node) as rewrite:
            rewrite.set_input(node, 1, rewrite.constant(np.array(wanted, np.int64), target.name))

    def _resize(self, node: Node, found: list[int]) -> None:
        sizes = node.inputs[3] if len(node.inputs) > 3 else None
        if sizes is None or not sizes.is_const or node.attr("axes") is not None:
            return
        numbers = [int(n) for n in np.asarray(sizes.array())]
        if found != [0] or numbers[0] != self.size:
            raise NotMendedError("the samples do not lie along its first axis")
        with self._rewrite(node) as rewrite:
            rest = rewrite.constant(np.array(numbers[1:], np.int64), sizes.name)
            whole = rewrite.node("Concat", [self._count(rewrite), rest], {"axis": 0})[0]
            rewrite.set_input(node, 3, whole)

    def _slice(self, node: Node, found: list[int]) -> None:
        x = node.inputs[0]
        rank = x.rank if x is not None else None
        given = [self._ints(node, i, name) for i, name in ((1, "starts"), (2, "ends"), (3, "axes"))]
        starts, ends, axes = given
        steps = self._ints(node, 4, "steps")
        if starts is None or ends is None or rank is None:
            return
        places = list(range(len(starts))) if axes is None else [a % rank for a in axes]
        touched = [i for i, a in enumerate(places) if a in found]
        for i in touched:
            if starts[i] != 0 or ends[i] < self.size or (steps is not None and steps[i] != 1):
                raise NotMendedError("it takes some of the samples")
            ends[i] = _END
        if not touched:
            return
        with self._rewrite(node) as rewrite:
            if node.version >= 10:
                rewrite.set_input(node, 2, rewrite.constant(np.array(ends, np.int64), "ends"))
            else:
                made = rewrite.node("Slice", [x], {**node.attrs, "ends": ends})
                rewrite.replace(node.outputs[0], made[0])

    def _squeeze(self, node: Node, found: list[int]) -> None:
        x = node.inputs[0]
        axes = self._ints(node, 1, "axes")
        old = self._was(x) or (None if x is None else static(tuple(self._before(d) for d in x.shape or ())))
        if x is None or old is None:
            return
        given = axes is not None
        axes = [i for i, n in enumerate(old) if n == 1] if axes is None else axes
        if any(a % len(old) in found for a in axes):
            raise NotMendedError("it removes the axis of the samples")
        if given:
            return
        with self._rewrite(node) as rewrite:
            told = node.version >= 13
            inputs = [x, rewrite.constant(np.array(axes, np.int64), "axes")] if told else [x]
            made = rewrite.node("Squeeze", inputs, None if told else {"axes": axes})
            rewrite.replace(node.outputs[0], made[0])

    def _ints(self, node: Node, index: int, attribute: str) -> list[int] | None:
        """Integers that are a constant input, or an attribute; None if they are left out."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None:
            array = value.array()
            if array is None:
                raise NotMendedError(f"its {attribute} are computed")
            return [int(n) for n in array.reshape(-1)]
        given = node.attr(attribute)
        return None if given is None else [int(n) for n in given]

    def _require_apart(self, node: Node) -> None:
        """Raise `NotMendedError` if an operator works across samples."""
        x = node.inputs[0]
        found = [] if x is None else self.axes(x.shape)
        if not found or x is None or x.rank is None:
            return
        if node.op.startswith("Reduce"):
            axes = self._ints(node, 1, "axes")
            across = axes is None or any(a % x.rank in found for a in axes)
            across = across and not (axes is None and node.attr("noop_with_empty_axes", 0))
        else:
            default = {"Gather": 0, "Split": 0, "ArgMax": 0, "ArgMin": 0}.get(node.op, -1)
            axis = self._ints(node, 1, "axis") if node.op == "CumSum" else [int(node.attr("axis", default))]
            across = axis is not None and any(a % x.rank in found for a in axis)
        if across:
            raise NotMendedError("it works across samples")

    # -- what is the same for all samples --------------------------------------------------------------------

    def _broadcast(self, node: Node) -> None:
        """Let what has a copy for each of the old samples have one, which broadcasts."""
        if self.size == 1:
            return
        shape = self._was(node.outputs[0])
        carried = {i - (v.rank or 0) for v in node.inputs if v is not None for i in self.axes(v.shape)}
        if shape is None or not carried:
            return
        with self._rewrite(node) as rewrite:
            for index, value in enumerate(node.inputs):
                for axis in carried:
                    if (node.op == "MatMul" and axis > -3) or (node.op == "Gemm" and index != 2):
                        continue
                    sizes = None if value is None else static(value.shape)
                    if value is not None and sizes is not None and len(sizes) >= -axis and sizes[axis] == self.size:
                        rewrite.set_input(node, index, self._one(rewrite, value, axis % len(sizes)))

    def _alike(self, node: Node) -> None:
        """Let operands that do not depend on the samples be there for each of them."""
        ranks = {v.rank for v in node.inputs if v is not None}
        carried = {i for v in node.inputs if v is not None for i in self.axes(v.shape)}
        if not carried or len(ranks) != 1:
            return
        rank = ranks.pop() or 0
        if len(carried) > 1 or (node.op == "Concat" and node.attr("axis") % rank in carried):
            raise NotMendedError("it puts samples beside one another")
        axis = carried.pop()
        self._spread(node, [i for i, v in enumerate(node.inputs) if v is not None], axis)

    def _states(self, node: Node) -> None:
        x = node.inputs[0]
        if x is None or not self.axes(x.shape):
            return
        axis = 0 if node.attr("layout", 0) else 1
        if self.axes(x.shape) != [axis]:
            raise NotMendedError("the samples do not lie along its batch axis")
        for index in _STATES[node.op]:
            self._spread(node, [index], 0 if index == 4 else axis)

    def _spread(self, node: Node, indices: Sequence[int], axis: int) -> None:
        with self._rewrite(node) as rewrite:
            for index in indices:
                value = node.inputs[index] if index < len(node.inputs) else None
                if value is None or self.axes(value.shape) or value.shape is None:
                    continue
                if value.shape[axis] != self.size:
                    raise NotMendedError(f"operand {index} does not have the samples along axis {axis}")
                one = self._one(rewrite, value, axis)
                parts = [self._count(rewrite)]
                if len(value.shape) - axis > 1:
                    ones = np.ones(len(value.shape) - axis - 1, np.int64)
                    parts.append(rewrite.constant(ones, "ones"))
                target = parts[0] if len(parts) == 1 else rewrite.node("Concat", parts, {"axis": 0})[0]
                rewrite.set_input(node, index, rewrite.node("Expand", [one, target])[0])

    def _one(self, rewrite: Rewrite, value: Value, axis: int) -> Value:
        """What a tensor has for each sample, once. Raises `NotMendedError` if samples differ in it."""
        if self.size == 1:
            return value
        array = value.array()
        if array is None:
            raise NotMendedError("an operand has a part for each sample, and is no constant")
        first = np.take(array, [0], axis)
        if not (np.broadcast_to(first, array.shape).tobytes() == np.ascontiguousarray(array).tobytes()):
            raise NotMendedError("a constant differs between samples")
        return rewrite.constant(np.ascontiguousarray(first), value.name)

    def _count(self, rewrite: Rewrite) -> Value:
        """The number of samples, as a tensor of one element."""
        value, axis = self.source
        if self.model.opset() >= 15:
            return rewrite.node("Shape", [value], {"start": axis, "end": axis + 1})[0]
        shape = rewrite.node("Shape", [value])[0]
        return rewrite.node("Gather", [shape, rewrite.constant(np.array([axis], np.int64), "axis")], {"axis": 0})[0]

    def _rewrite(self, node: Node) -> Rewrite:
        return self.editor.rewrite(_BY, at=node, same_type=False)


def _spelled(shape: Shape) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
