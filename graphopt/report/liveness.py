"""Planned memory: the most bytes of activations alive at once when a graph runs in its own order.

Inputs live from the start, outputs to the end, everything else to its last reader; nothing is computed in
place. What is computed from constants alone is a weight, as every runtime computes it when it loads the model.
Reshapes and the like are views of what they read. Q/DQ pairs are taken as fused into the operators around them,
which is what they are there for: what is quantized takes the room of its integers.
"""

from __future__ import annotations

import onnx_ir as oir

from graphopt.ir.value import bodies_of, nodes_of
from graphopt.report.sizes import Sizes

_VIEWS = frozenset({"DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_QUANTIZE = "QuantizeLinear"


class Liveness:
    """The lives of the values of one graph. `fused`: whether Q/DQ pairs were taken as fused."""

    def __init__(self, graph: oir.Graph, sizes: Sizes) -> None:
        self._graph = graph
        self._sizes = sizes
        self._weights: set[oir.Value] = set()
        self._roots: dict[oir.Value, oir.Value] = {}
        self._last: dict[oir.Value, int] = {}
        self.fused = False
        for index, node in enumerate(nodes_of(graph)):
            self._visit(index, node)
        for value in graph.outputs:
            self._last[self._root(value)] = len(graph)

    def peak(self) -> int | None:
        """The most bytes at once; None where the size of a value is not known."""
        ends: dict[int, int] = {}
        now = most = 0
        sources = [v for v in self._graph.inputs if v.name not in self._graph.initializers]
        for index, node in enumerate(nodes_of(self._graph)):
            born = [v for v in node.outputs if v.name]
            for value in [*sources, *born]:
                nbytes = self._nbytes(value)
                if nbytes is None:
                    return None
                end = self._last.get(value, index)
                ends[end] = ends.get(end, 0) + nbytes
                now += nbytes
            sources = []
            most = max(most, now)
            now -= ends.pop(index, 0)
        return most

    def _visit(self, index: int, node: oir.Node) -> None:
        """Note what a node, and what stands in its bodies, reads; and what its outputs are to be taken for."""
        bodies = bodies_of(node) if node.attributes else []
        inputs, roots, last = node.inputs, self._roots, self._last
        for value in inputs:
            if value is not None:
                last[roots.get(value, value)] = index
        pending = list(bodies)
        while pending:
            body = pending.pop()
            for inner in body:
                pending.extend(bodies_of(inner))
                self._last |= {self._root(v): index for v in inner.inputs if v is not None and v.graph is self._graph}
            self._last |= {self._root(v): index for v in body.outputs if v.graph is self._graph}
        if inputs and not bodies and all(v is None or self._is_weight(v) for v in inputs):
            self._weights.update(node.outputs)
        elif node.op_type in _VIEWS and not node.domain and inputs and inputs[0] is not None:
            roots[node.outputs[0]] = self._root(inputs[0])
            self.fused = self.fused or node.op_type == "DequantizeLinear"

    def _root(self, value: oir.Value) -> oir.Value:
        return self._roots.get(value, value)

    def _is_weight(self, value: oir.Value) -> bool:
        return value in self._weights or self._sizes.is_constant(value)

    def _nbytes(self, value: oir.Value) -> int | None:
        """What a value takes of its own: nothing if it is a weight, a view, or written as integers at once."""
        if value in self._roots or self._is_weight(value) or self._is_quantized_at_once(value):
            return 0
        nbytes = self._sizes.nbytes(value)
        if nbytes is None and value not in self._last:
            return 0  # nobody reads it, so that its size may remain open
        return nbytes

    def _is_quantized_at_once(self, value: oir.Value) -> bool:
        if not self.fused or value.is_graph_input() or value.is_graph_output():
            return False
        uses = list(value.uses())
        return len(uses) == 1 and uses[0].node.op_type == _QUANTIZE and uses[0].idx == 0
