"""`Model`: a loaded ONNX model with its facts; what passes receive and `graphopt.load` returns."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import onnx_ir as oir

from graphopt.ir.facts import Facts
from graphopt.ir.value import FUNCTION_BODY, Graph, bodies_of, nodes_of

if TYPE_CHECKING:
    from graphopt.ir.load import Source


class Model:
    """An ONNX model in memory. Weights stay in their file until somebody reads them.

    `ir` is the `onnx_ir.Model` underneath, for interoperation; passes and rules do without it.
    """

    def __init__(self, ir: oir.Model, source: Source | None = None) -> None:
        self.ir = ir
        self.source = source
        self.dead_graphs: set[oir.Graph]
        self.holders: dict[oir.Graph, oir.Node | None]
        self._operators: dict[oir.Graph, set[str]]
        self.reset()

    def reset(self) -> None:
        """Forget all that was derived from the graph, because there is another one."""
        self.__dict__.pop("facts", None)
        self.dead_graphs = set()
        self.holders = _holders(self.ir)
        self._operators = {}
        for function in self.ir.functions.values():
            function.graph.meta[FUNCTION_BODY] = True

    @cached_property
    def facts(self) -> Facts:
        """Types, shapes and constants; inferred at the first use, kept up to date afterwards."""
        return Facts(self.ir, self.source.proto if self.source else None)

    @property
    def main(self) -> Graph:
        return Graph(self, self.ir.graph)

    def graphs(self) -> Iterator[Graph]:
        """The main graph, the bodies in it, then each local function and the bodies in that."""
        for raw in self.raw_graphs():
            yield Graph(self, raw)

    def raw_graphs(self) -> list[oir.Graph]:
        """The graphs of `graphs()`, as `onnx_ir` has them."""
        dead = self.dead_graphs
        return [graph for graph in self.holders if graph not in dead]

    def adopt(self, node: oir.Node) -> None:
        """Take note of the operator and the bodies of a node that is new in the model."""
        known = self._operators.get(node.graph) if isinstance(node.graph, oir.Graph) else None
        if known is not None:
            known.add(node.op_type)
        pending = [(body, node) for body in bodies_of(node)]
        while pending:
            graph, holder = pending.pop()
            self.holders[graph] = holder
            pending.extend((body, inner) for inner in graph for body in bodies_of(inner))

    def may_have(self, graph: oir.Graph, ops: Collection[str]) -> bool:
        """Whether a graph has, or had, a node that is one of these operators: nobody need look for them otherwise."""
        known = self._operators.get(graph)
        if known is None:
            known = self._operators[graph] = {node.op_type for node in nodes_of(graph)}
        return not known.isdisjoint(ops)

    def opset(self, domain: str = "") -> int:
        """The imported version of an operator set, 0 if the model does not import it."""
        return self.ir.graph.opset_imports.get(domain, 0)

    @property
    def node_count(self) -> int:
        """Nodes in all graphs, bodies and functions included."""
        return sum(len(graph) for graph in self.raw_graphs())

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata properties; may be written to."""
        return self.ir.metadata_props

    def is_alive(self, node: oir.Node) -> bool:
        graph: Any = node.graph
        if graph is None:
            return False
        return not self.dead_graphs or graph not in self.dead_graphs

    def leave_ir_3(self) -> bool:
        """Raise an IR version below 4 to 4; whether that was needed.

        Until then every initializer had to be a graph input as well, and was constant all the same. A new one
        that is no input makes such a model invalid, and one that stays an input could be overridden from then on.
        """
        if self.ir.ir_version >= 4:
            return False
        graph = self.ir.graph
        free = [v for v in graph.inputs if not v.is_initializer()]
        graph.inputs[:] = free
        self.ir.ir_version = 4
        return True

    def weight_bytes(self) -> int:
        """Bytes of all constants: initializers and tensors in attributes."""
        total = 0
        for graph in self.raw_graphs():
            total += sum(int(v.const_value.nbytes) for v in graph.initializers.values() if v.const_value is not None)
            for node in nodes_of(graph):
                for attr in node.attributes.data.values():  # itself no dict, it is slow to go through
                    if attr.type == oir.AttributeType.TENSOR and not attr.is_ref():
                        total += int(attr.value.nbytes)
        return total

    def parameters(self) -> int:
        """Elements of all constants: initializers and Constant nodes, which become initializers."""
        total = 0
        for graph in self.raw_graphs():
            total += sum(int(v.const_value.size) for v in graph.initializers.values() if v.const_value is not None)
            total += sum(_elements(node) for node in graph if node.op_type == "Constant" and node.domain == "")
        return total

    def __repr__(self) -> str:
        path = self.source.path if self.source else None
        origin = f" from {os.fspath(path)!r}" if path else ""
        return f"Model({self.ir.graph.name!r}, {len(self.ir.graph)} nodes{origin})"


def _holders(ir: oir.Model) -> dict[oir.Graph, oir.Node | None]:
    """Every graph of a model, outer ones first, with the node in whose attributes it stands."""
    found: dict[oir.Graph, oir.Node | None] = {}
    pending: list[tuple[oir.Graph, oir.Node | None]] = [(ir.graph, None)]
    pending += [(function.graph, None) for function in ir.functions.values()]
    pending.reverse()
    while pending:
        graph, holder = pending.pop()
        found[graph] = holder
        bodies = [(body, node) for node in nodes_of(graph) if node.attributes for body in bodies_of(node)]
        pending.extend(reversed(bodies))
    return found


def _elements(constant: oir.Node) -> int:
    """How many elements a Constant node gives; 0 for what a function's caller says, and for sparse tensors."""
    count = 0
    for attr in constant.attributes.data.values():
        if attr.is_ref() or attr.type == oir.AttributeType.SPARSE_TENSOR:
            continue
        if attr.type == oir.AttributeType.TENSOR:
            count += int(attr.value.size)
        else:
            count += len(attr.value) if isinstance(attr.value, list | tuple) else 1
    return count
