"""Where sizes can be read: the tensors of a graph by their sizes, and the integer tensors by their elements."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt import Dim, DType, Graph, Node, Value

Elements = tuple[int | Dim, ...]
MOST = 8  # elements: what shapes have
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Sources:
    """What sizes can be read from at a place of a graph: the tensors seen before it.

    `alike`: the first tensor of each shape; `holders`: for each size that is no number, tensors that have it, with the
    axis; `known`: integer tensors by their elements, a scalar by its element alone; `shapes`: tensors with the Shape of
    all their axes.
    """

    opset: int
    alike: dict[tuple[int | Dim | None, ...], Value] = field(default_factory=dict)
    holders: dict[Dim, list[tuple[Value, int]]] = field(default_factory=dict)
    known: dict[Elements | Dim, Value] = field(default_factory=dict)
    shapes: dict[Value, Value] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph) -> Sources:
        found = Sources(next((n.version for n in graph.nodes if n.is_standard), 0))
        for value in graph.inputs:
            found.add(value)
        return found

    def add(self, value: Value) -> None:
        """Take note of a tensor."""
        shape = value.shape or ()
        if None not in shape:
            self.alike.setdefault(shape, value)
        for axis, size in enumerate(shape):
            if isinstance(size, Dim):
                held = self.holders.setdefault(size, [])
                if len(held) < 2:
                    held.append((value, axis))
        if value.dtype != DType.INT64:
            return
        elements = value.symbolic
        if elements and len(elements) <= MOST and not all(isinstance(e, int) for e in elements):
            key = elements if value.rank or isinstance(elements[0], int) else elements[0]
            if key not in self.known or not self.known[key].alive:
                self.known[key] = value

    def add_node(self, node: Node) -> None:
        """Take note of what a node makes, and of the tensor whose Shape it is."""
        if node.op == "Shape" and node.is_standard and node.inputs[0] is not None and not node.attrs:
            self.shapes[node.inputs[0]] = node.outputs[0]
        for value in node.outputs:
            if not _is_merged(node, value):
                self.add(value)


def _is_merged(node: Node, value: Value) -> bool:
    """Whether runtimes merge a node with what alone reads it, which another reader, such as a Shape, would prevent.

    They do so with products and what follows them, and with whatever stands before a QuantizeLinear.
    """
    if value.use_count != 1 or value.is_output:
        return False
    return (node.op in _PRODUCTS and node.is_standard) or value.uses()[0][0].op == "QuantizeLinear"
