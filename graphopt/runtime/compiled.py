"""What ONNX Runtime makes of a model: the graph after all of its own optimizations."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.runtime import session
from graphopt.runtime.executor import executor
from graphopt.runtime.package import Package

__all__ = ["CompiledGraph", "CompiledNode", "optimized_graph"]


@dataclass(frozen=True)
class CompiledNode:
    """A node that the runtime will execute. `dtypes` of its inputs by ONNX name, None where not recorded."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: tuple[str | None, ...]


@dataclass(frozen=True)
class CompiledGraph:
    """All nodes, those of bodies included, in the order of the file."""

    nodes: tuple[CompiledNode, ...]

    @property
    def histogram(self) -> dict[str, int]:
        """How many nodes of each operator, most frequent first; contributed ones as `com.microsoft.Name`."""
        names = (f"{node.domain}.{node.op}" if node.domain else node.op for node in self.nodes)
        return dict(Counter(names).most_common())


def optimized_graph(package: Package, *, timeout: float = 300.0) -> CompiledGraph:
    """The graph that ONNX Runtime (CPU, all optimizations) would execute; raises ModelRefused."""
    graph: CompiledGraph = executor().call("graphopt.runtime.compiled:compile_here", package, timeout=timeout)
    return graph


def compile_here(package: Package) -> CompiledGraph:
    """Runs in the child: let the runtime write its optimized model to a folder, and read the structure."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        session.build(package, session.Options(optimized=True, dump=str(path)))
        graph = onnx.load(path, load_external_data=False).graph
    return CompiledGraph(tuple(_nodes(graph, {})))


def _nodes(graph: onnx.GraphProto, outer: dict[str, str]) -> Iterator[CompiledNode]:
    known = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            known[value.name] = ir.DataType(value.type.tensor_type.elem_type).name
    for tensor in graph.initializer:
        known[tensor.name] = ir.DataType(tensor.data_type).name
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        dtypes = tuple(known.get(name) for name in node.input)
        yield CompiledNode(node.name, node.op_type, domain, tuple(node.input), tuple(node.output), dtypes)
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(body, known)
