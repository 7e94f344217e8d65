"""Where a value is read: in its own graph, or in a body of If, Loop or Scan that captures it.

A runtime makes one kernel of an operator with the DequantizeLinear in front of it and the QuantizeLinear behind it
only where all of them stand in the same graph. So whatever a body reads as integers is dequantized there. The
QuantizeLinear stands outside of loops, where it runs once, and inside of a branch, where it runs if the branch does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.ir.value import bodies_of, nodes_of

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Graph, Node, Value
    from graphopt.targets.table import QuantTable

__all__ = ["ancestor", "by_graph", "graphs_of", "home_of", "in_order", "not_inside", "walk", "walk_graphs"]

_LOOPS = ("Loop", "Scan")
_IN_FUNCTION = "it stands in a function, which several callers share: -p inline puts its body in place"


def graphs_of(model: Model) -> Iterator[Graph]:
    """The main graph and the bodies in it, outer ones first; no functions."""
    return (graph for graph in model.graphs() if not graph.outermost.is_function)


def in_order(model: Model) -> list[Node]:
    """The nodes of the main graph and of all bodies in it: what makes a value stands before what reads it.

    Those in the bodies of a node come just before the node itself.
    """
    found: list[Node] = []
    pending: list[tuple[Node | None, Iterator[Node]]] = [(None, model.main.nodes)]
    while pending:
        holder, nodes = pending[-1]
        node = next(nodes, None)
        if node is None:
            pending.pop()
            if holder is not None:
                found.append(holder)
        elif bodies := node.bodies:
            pending.append((node, itertools.chain.from_iterable(body.nodes for body in bodies)))
        else:
            found.append(node)
    return found


def not_inside(graph: Graph, table: QuantTable) -> str | None:
    """Why nothing in a graph is quantized for the target of `table`; None for the main graph, and if it can be."""
    if graph.outermost.is_function:
        return _IN_FUNCTION
    holder = graph.holder
    while holder is not None:
        if not holder.is_standard or holder.op not in table.bodies:
            return f"it stands in a body of {holder.op}, and the target is not known to have integer kernels there"
        holder = holder.graph.holder
    return None


def home_of(value: Value, reader: Node) -> Graph:
    """The graph in which `value` is to be quantized for `reader`: its own, or the branch of an If on the way to it."""
    graph = reader.graph
    while graph != value.graph:
        holder = graph.holder
        if holder is None or holder.op not in _LOOPS:
            break
        graph = holder.graph
    return graph


def ancestor(node: Node, graph: Graph) -> Node:
    """`node` itself if it stands in `graph`, else the node there in whose bodies it stands."""
    while node.graph != graph:
        holder = node.graph.holder
        assert holder is not None, "what reads a value stands in its graph or in a body there"
        node = holder
    return node


def by_graph(readers: Iterable[tuple[Node, int]]) -> dict[Graph, list[tuple[Node, int]]]:
    """Readers by the graph in which they stand."""
    found: dict[Graph, list[tuple[Node, int]]] = {}
    for node, index in readers:
        found.setdefault(node.graph, []).append((node, index))
    return found


def walk(graph: oir.Graph) -> Iterator[oir.Node]:
    """All nodes of a graph, as `onnx_ir` has them, in an order that is the same for copies; those of bodies last."""
    pending = [graph]
    while pending:
        for node in nodes_of(pending.pop()):
            yield node
            pending.extend(bodies_of(node))


def walk_graphs(graph: oir.Graph) -> Sequence[oir.Graph]:
    """A graph and the bodies in it, in an order that is the same for copies."""
    return [graph, *(body for node in walk(graph) for body in bodies_of(node))]
