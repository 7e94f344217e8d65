"""A model in numbers: nodes, weights, multiply-accumulates, and the memory that its activations take.

Sizes that are only known by name count as 1, and the measures say which those were. All of it is one
pass over the nodes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.ir.value import bodies_of, nodes_of
from graphopt.report.liveness import Liveness
from graphopt.report.macs import UnknownShapeError, is_counted, node_macs
from graphopt.report.report import Measures
from graphopt.report.sizes import Sizes


def measure(model: Model, path: Path | None = None) -> Measures:
    """Measure a model. `path`: the file it stands in, None if it stands in none.

    `macs` counts each call of a function, the costlier branch of an If, and one iteration of a Loop whose count is
    not constant; `peak_bytes` is that of the main graph (see `graphopt.report.liveness`).
    """
    sizes = Sizes(model.facts)
    macs, liveness = _Macs(model, sizes), Liveness(model.ir.graph, sizes)
    measures = Measures(
        nodes=model.node_count,
        parameters=model.parameters(),
        weight_bytes=model.weight_bytes(),
        file_bytes=_file_bytes(model, path),
        macs=macs.of_graph(model.ir.graph),
        peak_bytes=liveness.peak(),
        operators=operators(model),
        opset=model.opset(),
    )
    measures.assumed = [*(f"{name} = 1" for name in sorted(sizes.symbols)), *sorted(macs.assumed)]
    if liveness.fused:
        measures.assumed.append("Q/DQ fused into the operators around them")
    return measures


def operators(model: Model) -> Counter[str]:
    """How often each operator occurs, in all graphs; those of other domains with their domain."""
    return Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for graph in model.raw_graphs()
        for node in nodes_of(graph)
    )


def _file_bytes(model: Model, path: Path | None) -> int | None:
    """The size of the file, with its external data where it is the one that the model was loaded from."""
    if path is None:
        return None
    source = model.source
    return source.size if source is not None and source.path == path else path.stat().st_size


class _Macs:
    """Multiply-accumulates of graphs. `assumed`: what had to be taken for granted beside the sizes."""

    def __init__(self, model: Model, sizes: Sizes) -> None:
        self._model = model
        self._sizes = sizes
        self._functions: dict[oir.OperatorIdentifier, int | None] = {}
        self.assumed: set[str] = set()
        self._settle_functions()

    def of_graph(self, graph: oir.Graph) -> int | None:
        """The sum over the nodes; None as soon as one of them cannot be told."""
        total = 0
        for node in nodes_of(graph):
            found = self._of_node(node)
            if found is None:
                return None
            total += found
        return total

    def _of_node(self, node: oir.Node) -> int | None:
        if self._functions and (function := node.op_identifier()) in self._functions:
            return self._functions[function]
        bodies = bodies_of(node) if node.attributes else []
        if bodies:
            return self._of_bodies(node, bodies)
        if not is_counted(node.domain, node.op_type):
            return 0
        try:
            return node_macs(
                node.domain,
                node.op_type,
                [self._sizes.shape(v) for v in node.inputs],
                [self._sizes.shape(v) for v in node.outputs],
                lambda name: self._attribute(node, name),
            )
        except UnknownShapeError:
            return None

    def _attribute(self, node: oir.Node, name: str) -> Any:
        attr = node.attributes.get(name)
        return attr.value if attr is not None else self._model.facts.default_attr(node, name)

    def _settle_functions(self) -> None:
        """The cost of one call of each function, those that it calls first; chains of calls may be long."""
        functions = self._model.ir.functions
        pending = list(functions)
        entered: set[oir.OperatorIdentifier] = set()
        while pending:
            name = pending[-1]
            called = self._called(functions[name].graph) if name not in entered else set()
            entered.add(name)
            missing = [f for f in called if f not in self._functions]
            pending.extend(missing)
            if not missing:
                pending.pop()
                if name not in self._functions:
                    self._functions[name] = self.of_graph(functions[name].graph)

    def _called(self, graph: oir.Graph) -> set[oir.OperatorIdentifier]:
        found: set[oir.OperatorIdentifier] = set()
        pending = [graph]
        while pending:
            for node in pending.pop():
                pending.extend(bodies_of(node))
                if node.op_identifier() in self._model.ir.functions:
                    found.add(node.op_identifier())
        return found

    def _of_bodies(self, node: oir.Node, bodies: list[oir.Graph]) -> int | None:
        costs = [self.of_graph(body) for body in bodies]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        if node.op_type == "If":
            return max(known)
        total = sum(known)
        return total * self._iterations(node, bodies[0]) if total else 0

    def _iterations(self, node: oir.Node, body: oir.Graph) -> int:
        """How often a body runs: a Loop's constant count, the length that a Scan goes over, else 1."""
        count = None
        if node.op_type == "Loop":
            count = self._sizes.number(node.inputs[0])
        elif node.op_type == "Scan":
            shape = self._sizes.shape(node.inputs[-1])
            axes = node.attributes.get("scan_input_axes")
            axis = axes.value[-1] if axes is not None else 0
            count = shape[axis] if shape else None
        if count is None:
            self.assumed.add(f"one iteration of {node.name or body.name or node.op_type}")
            return 1
        return max(0, count)
