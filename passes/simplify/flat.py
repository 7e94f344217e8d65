"""Reshapes around operators that do not mind the axes in front, such as those of a linear layer.

A Reshape that joins or splits axes is not needed if all that follows, up to other Reshapes, computes the same for each
row, or each element, however the rows are arranged. Those operators are made anew on the tensor as it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from graphopt_passes.simplify.broadcast import POINTWISE
from graphopt_passes.simplify.reading import fixed, operand, reshape_target, same_sizes

from graphopt import Accuracy, Context, Dim, Node, Rewrite, Value, require

_FAMILY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_UNARY = frozenset(["Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Mish"])
_BY_ROW = {"Softmax": 13, "LogSoftmax": 13, "LayerNormalization": 17}  # from which opset they mind one axis only
_MOST = 32  # operators between the Reshapes
Shape = tuple[int | Dim | None, ...]


def drop_reshapes_around(ctx: Context) -> None:
    """Let what stands between two Reshapes, and minds neither shape, work on the tensor as it was before them."""
    for graph in list(ctx.model.graphs()):
        for node in list(graph.find(*_FAMILY)):
            if not (node.alive and node.is_standard and _may_go(node)):
                continue
            with ctx.rewrite("simplify.reshape_around", at=node) as rewrite:
                _Region(rewrite, node, ctx.position, linear=ctx.accuracy >= Accuracy.CLOSE).make()


def _may_go(node: Node) -> bool:
    """Whether a look at the readers leaves any hope."""
    value = node.outputs[0]
    readers = [reader for reader, _ in value.uses()]
    return bool(readers) and not value.is_output and all(
        r.graph == node.graph and r.is_standard and (r.op in _KNOWN or r.op in _FAMILY) for r in readers
    ) and any(r.op in _KNOWN for r in readers)  # fmt: skip


_KNOWN = POINTWISE | _UNARY | set(_BY_ROW) | {"MatMul", "Gemm"}


@dataclass
class _Region:
    """What follows a Reshape, up to others; made anew on the shape before it."""

    rewrite: Rewrite
    root: Node
    position: Callable[[Node], int]
    linear: bool

    def make(self) -> None:
        x, y = operand(self.root, 0), self.root.outputs[0]
        require(x is not None and x.shape is not None and y.shape is not None, "the rank is not known")
        assert x is not None and x.shape is not None and y.shape is not None
        require(x.shape and y.shape, "there are no axes")
        require(None not in x.shape and None not in y.shape, "a size is not known")
        self.outer, self.inner = x.shape, y.shape
        width = x.shape[-1]
        self.by_row = isinstance(width, int) and width > 0 and y.shape[-1] == width
        self.new = {y: x}
        self.gain, self.frees = 1, False
        self._follow()
        # As many nodes are fewer in the end if nobody has to compute the shape that is given back.
        require(self.gain > 0 or (self.gain == 0 and self.frees), "as many nodes would be left")

    def _follow(self) -> None:
        pending: list[tuple[int, Node]] = []
        seen: set[Node] = set()
        ready = [self.root.outputs[0]]
        while ready or pending:
            for value in ready:
                require(not value.is_output, "a result of the model has the shape")
                for reader, _ in value.uses():
                    require(reader.graph == self.root.graph, "a body reads it")
                    if reader not in seen:
                        seen.add(reader)
                        heapq.heappush(pending, (self.position(reader), reader))
            require(len(seen) <= _MOST, "too many operators follow")
            ready = []
            if pending:
                node = heapq.heappop(pending)[1]
                require(node.is_standard, "an operator may mind the shape")
                if node.op in _FAMILY:
                    self._leave(node)
                else:
                    made = self._again(node)
                    self.new[node.outputs[0]] = made
                    ready = [node.outputs[0]]

    def _leave(self, node: Node) -> None:
        """A Reshape of what was made anew: nothing at all, or another Reshape."""
        value, result = operand(node, 0), node.outputs[0]
        require(value in self.new and all(v not in self.new for v in node.inputs[1:]), "its target is computed here")
        assert value is not None
        new = self.new[value]
        if same_sizes(new.shape, result.shape):
            self.rewrite.replace(result, new)
            self.gain += 1
            self.frees |= any(v is not None and not v.is_const for v in node.inputs[1:])
            return
        require(new.shape is not None and result.shape is not None, "the rank is not known")
        assert new.shape is not None and result.shape is not None
        target = operand(node, 1) if node.op == "Reshape" else None
        given = None if target is None else fixed(target)
        if target is None or given is None or 0 in given:
            target = self.rewrite.constant(np.array(reshape_target(new.shape, result.shape), np.int64), "shape")
        self.rewrite.replace(result, self.rewrite.node("Reshape", [new, target])[0])

    def _again(self, node: Node) -> Value:
        """The same operator on the shape outside."""
        first, result = operand(node, 0), node.outputs[0]
        if node.op in POINTWISE or node.op in _UNARY:
            inputs = [v if v is None else self._operand(v) for v in node.inputs]
            return self.rewrite.node(node.op, inputs, node.attrs)[0]
        require(first in self.new and all(v not in self.new for v in node.inputs[1:]), "it is no row that is read")
        require(self.by_row and first is not None and first.shape[-1:] != (), "the rows change")
        assert first is not None
        new = self.new[first]
        if node.op in _BY_ROW:
            rank, axis = first.rank or 0, node.attr("axis", -1)
            alone = sum(bool(o.use_count) for o in node.outputs) == 1 and result.use_count > 0
            require(node.version >= _BY_ROW[node.op] and axis in (-1, rank - 1) and alone, "other axes matter")
            return self.rewrite.node(node.op, [new, *node.inputs[1:]], {**node.attrs, "axis": -1})[0]
        require(self.linear, "a product may be rounded in another way")
        weight = operand(node, 1)
        require(weight is not None and weight.rank == 2, "it is no matrix that rows are multiplied with")
        assert weight is not None
        return self._multiplied(node, new, weight)

    def _multiplied(self, node: Node, rows: Value, weight: Value) -> Value:
        if node.op == "MatMul":
            return self.rewrite.node("MatMul", [rows, weight])[0]
        plain = node.attr("alpha") == 1 and node.attr("beta") == 1 and not node.attr("transA")
        require(plain, "the Gemm scales or transposes")
        if node.attr("transB"):
            array = weight.array()
            require(array is not None, "the weight that is transposed is no constant")
            assert array is not None
            weight = self.rewrite.constant(np.ascontiguousarray(array.T), weight.name)
        product = self.rewrite.node("MatMul", [rows, weight])[0]
        bias = operand(node, 2)
        if bias is None:
            return product
        require(_is_row(bias, product.shape[-1] if product.shape else None), "the bias differs between rows")
        self.gain -= 1
        return self.rewrite.node("Add", [product, bias])[0]

    def _operand(self, value: Value) -> Value:
        """What an elementwise operator reads instead of `value`."""
        if value in self.new:
            return self.new[value]
        require(value.shape is not None, "the rank is not known")
        assert value.shape is not None
        least = min(len(self.outer), len(self.inner))
        single = value.shape[-1:] in ((), (1,)) or self.by_row
        if single and len(value.shape) <= least and set(value.shape[:-1]) <= {1}:
            return value
        other = value.producer
        x = None if other is None or other.op not in _FAMILY or not other.is_standard else operand(other, 0)
        alike = x is not None and x.shape is not None and self._reshaped_alike(x.shape, value.shape)
        require(alike, "an operand has the shape in between")
        assert x is not None
        return x

    def _reshaped_alike(self, outer: Shape, inner: Shape) -> bool:
        """Whether another tensor is given its shape as the first one is."""
        if None in outer or None in inner:
            return False
        if not self.by_row:
            return outer == self.outer and inner == self.inner
        return outer[:-1] == self.outer[:-1] and inner[:-1] == self.inner[:-1] and outer[-1:] == inner[-1:]


def _is_row(value: Value, width: int | Dim | None) -> bool:
    shape = value.shape
    return shape is not None and width is not None and set(shape[:-1]) <= {1} and len(shape) <= 2
