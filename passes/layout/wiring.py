"""A graph as the search sees it: tensors without the Transposes between them, and operators that carry permutations.

A Transpose is no operator here: who reads its result reads the tensor in front of it, in another layout. Everything is
looked up when it is first asked for, so that a graph with few Transposes costs little.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt_passes.layout.orders import FREE, Layout, Price, Shape, compose, form, price, straight
from graphopt_passes.layout.table import carry, reordered
from graphopt_passes.layout.units import Reader, Unit

from graphopt import Context, Decline, Graph, Node, Value

BY = "layout.order"
_SMALL = 1 << 16  # bytes of a constant that may be there in several layouts


class Wiring:
    """The units of one graph, and the tensors between them.

    `why_not` is called with nodes that might carry a permutation but do not, and the reason.
    """

    def __init__(self, ctx: Context, graph: Graph, why_not: Callable[[Node, str], None]) -> None:
        self._ctx = ctx
        self._graph = graph
        self.why_not = why_not
        self._units: dict[Node, Unit | None] = {}
        self._roots: dict[Value, tuple[Value, Layout]] = {}
        self._readers: dict[Value, list[Reader]] = {}
        self._spellings: dict[Value, list[tuple[Value, Layout]]] = {}
        self._shapes: dict[Value, Shape] = {}
        self._producers: dict[Value, tuple[Unit, int] | None] = {}
        self._prices: dict[tuple[Value, Layout, Layout], Price] = {}

    def root(self, value: Value) -> tuple[Value, Layout]:
        """The tensor in front of all Transposes that lead to a value, and the layout that the value has of it."""
        found = self._roots.get(value)
        if found is None:
            link = self._link(value)
            if link is None:
                found = value, straight(value.rank or 0)
            else:
                root, layout = self.root(link[0])
                found = root, compose(layout, link[1])
            self._roots[value] = found
        return found

    def _link(self, value: Value) -> tuple[Value, Layout] | None:
        node = value.producer
        if node is None or node.graph != self._graph or self._ctx.edit.protects(node):
            return None
        link = reordered(node)
        return None if link is None or link[0].rank != len(link[1]) else link

    def shape(self, root: Value) -> Shape:
        found = self._shapes.get(root)
        if found is None:
            found = self._shapes[root] = root.shape or ()
        return found

    def price(self, root: Value, stored: Layout, wanted: Layout) -> Price:
        """What it costs to read a tensor in a layout, if it is written in another."""
        if stored == wanted:
            return FREE
        key = root, stored, wanted
        found = self._prices.get(key)
        if found is None:
            found = self._prices[key] = price(self.shape(root), stored, wanted)
        return found

    def form(self, root: Value, layout: Layout) -> Layout:
        """What of a layout can be told from the tensor; two layouts of one form are the same tensor."""
        return form(self.shape(root), layout)

    def unit(self, node: Node) -> Unit | None:
        """The unit that a node is, None if it carries no permutations."""
        if node not in self._units:
            self._units[node] = self._unit(node)
        return self._units[node]

    def _unit(self, node: Node) -> Unit | None:
        if node.graph != self._graph or self._ctx.edit.protects(node):
            return None
        try:
            found = carry(node)
        except Decline as declined:
            self.why_not(node, declined.reason)
            return None
        if found is None:
            return None
        if found.accuracy > self._ctx.accuracy:
            self.why_not(node, "the results would not be the same bit for bit")
            return None
        if not _is_inferred(self._ctx, node):
            self.why_not(node, "the sizes of the result are not known from those of the operands")
            return None
        inputs = node.inputs
        operands = {i: self.root(v) for i in found.reads if (v := inputs[i]) is not None}
        return Unit(node, found, operands)

    def producer(self, root: Value) -> tuple[Unit, int] | None:
        """The unit that writes a tensor, and as which of its results."""
        if root not in self._producers:
            self._producers[root] = self._producer(root)
        return self._producers[root]

    def _producer(self, root: Value) -> tuple[Unit, int] | None:
        node = root.producer
        unit = None if node is None else self.unit(node)
        index = root.index
        if unit is None or index is None or index not in unit.carry.writes:
            return None
        return unit, index

    def readers(self, root: Value) -> list[Reader]:
        """All who read a tensor in this graph and in the bodies in it, directly or behind Transposes."""
        found = self._readers.get(root)
        if found is None:
            found = [r for value, layout in self.spellings(root) for r in self._direct(root, value, layout)]
            self._readers[root] = found
        return found

    def spellings(self, root: Value) -> list[tuple[Value, Layout]]:
        """The tensor itself and every other layout of it that the graph has at first."""
        found = self._spellings.get(root)
        if found is None:
            found = self._spellings[root] = [(root, straight(len(self.shape(root))))]
            for value, _ in found:
                for node, index in value.uses():
                    if self._is_link(node, index, root):
                        found.append((node.outputs[0], self.root(node.outputs[0])[1]))
        return found

    def _is_link(self, node: Node, index: int, root: Value) -> bool:
        return index == 0 and node.op in ("Transpose", "Reshape") and self.root(node.outputs[0])[0] == root

    def _direct(self, root: Value, value: Value, layout: Layout) -> list[Reader]:
        found = [Reader(None, 0, layout)] if value.is_output else []
        for node, index in value.uses():
            if self._is_link(node, index, root):
                continue
            unit = self.unit(node)
            carried = unit is not None and index in unit.carry.reads
            found.append(Reader(unit if carried else None, index, layout))
        return found

    def is_free(self, root: Value) -> bool:
        """Whether a constant can be had in any layout for nothing: it is small, or nobody else reads it."""
        if not self.absorbs(root):
            return False
        return (root.nbytes or 0) <= _SMALL or root.use_count == 1 == len(self.readers(root))

    def absorbs(self, root: Value) -> bool:
        """Whether a tensor is a constant that can be written in another layout."""
        dtype = root.dtype
        return root.is_const and dtype is not None and dtype.name != "STRING" and dtype.bitwidth >= 8


def _is_inferred(ctx: Context, node: Node) -> bool:
    """Whether the sizes of the results follow from the operands, so that those in another order will be known to."""
    given = {size for value in node.inputs if value is not None for size in value.shape or ()}
    fixed = all(isinstance(size, int) for size in given)
    if all(size in given or (fixed and isinstance(size, int)) for o in node.outputs for size in o.shape or ()):
        return True
    trial = ctx.edit.rewrite(BY, at=node)
    try:
        made = trial.node(node.op, node.inputs, node.attrs, outputs=len(node.outputs))
        return all(new.shape == old.shape for new, old in zip(made, node.outputs, strict=True))
    except Decline:
        return False
    finally:
        trial.rollback()

