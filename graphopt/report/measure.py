"""A model in numbers: nodes, weights, multiply-accumulates, and the memory that its activations take.

Sizes that are only known by name count as 1, and the measures say which those were. All of it is one
pass over the nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as oir

from graphopt.ir.dims import Dim
from graphopt.ir.facts import Facts
from graphopt.ir.model import Model
from graphopt.ir.value import bodies_of
from graphopt.report.macs import UnknownShapeError, is_counted, node_macs
from graphopt.report.report import Measures

# Operators whose output is their first input under another shape: no runtime copies it.
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def measure(model: Model, path: Path | None = None) -> Measures:
    """Measure a model. `path`: the file it stands in, None if it stands in none.

    `macs` counts each call of a function, the costlier branch of an If, and one iteration of a Loop whose count is
    not constant; `peak_bytes` is that of the main graph, run in its own order, without reuse in place.
    """
    sizes = _Sizes(model.facts)
    macs = _Macs(model, sizes)
    return Measures(
        nodes=model.node_count,
        parameters=model.parameters(),
        weight_bytes=model.weight_bytes(),
        file_bytes=_file_bytes(model, path),
        macs=macs.of_graph(model.ir.graph),
        peak_bytes=_peak(model.ir.graph, sizes),
        operators=operators(model),
        opset=model.opset(),
        assumed=[*(f"{name} = 1" for name in sorted(sizes.symbols)), *sorted(macs.assumed)],
    )


def operators(model: Model) -> Counter[str]:
    """How often each operator occurs, in all graphs; those of other domains with their domain."""
    return Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for graph in model.raw_graphs()
        for node in graph
    )


def _file_bytes(model: Model, path: Path | None) -> int | None:
    """The size of the file, with its external data where it is the one that the model was loaded from."""
    if path is None:
        return None
    source = model.source
    return source.size if source is not None and source.path == path else path.stat().st_size


class _Sizes:
    """Shapes as numbers, with every symbol taken as 1; `symbols` collects the names that were met."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._numbers: dict[Dim, int] = {}
        self.symbols: set[str] = set()

    def shape(self, value: oir.Value | None) -> tuple[int, ...] | None:
        known = None if value is None else self._facts.shape(value)
        if known is None or None in known:
            return None
        return tuple([d if isinstance(d, int) else self._number(d) for d in known if d is not None])

    def nbytes(self, value: oir.Value) -> int | None:
        """Bytes of a tensor, None if its type or shape is not known; text counts as nothing."""
        dtype, shape = self._facts.dtype(value), self.shape(value)
        if dtype is None or shape is None:
            return None
        if dtype == oir.DataType.STRING:
            return 0
        return math.ceil(dtype.bitwidth * math.prod(shape) / 8)

    def is_constant(self, value: oir.Value) -> bool:
        return self._facts.const(value) is not None

    def number(self, value: oir.Value | None) -> int | None:
        """The one integer that a constant holds."""
        found = None if value is None else self._facts.splat(value)
        return None if found is None else int(found)

    def _number(self, dim: Dim) -> int:
        if dim not in self._numbers:
            self.symbols.update(_names(dim))
            self._numbers[dim] = max(1, _at_one(dim))
        return self._numbers[dim]


def _names(dim: Dim) -> set[str]:
    """The names that the model gives to the symbols of a size; one word for all that it does not name."""
    symbols = {symbol for monomial, _ in dim._terms for symbol in monomial}
    return {symbol.name if symbol.kind == "" else "unnamed sizes" for symbol in symbols}


def _at_one(dim: Dim) -> int:
    """The value of a size where every symbol is 1."""
    return sum(factor for _, factor in dim._terms)


class _Macs:
    """Multiply-accumulates of graphs. `assumed`: what had to be taken for granted beside the sizes."""

    def __init__(self, model: Model, sizes: _Sizes) -> None:
        self._model = model
        self._sizes = sizes
        self._functions: dict[oir.OperatorIdentifier, int | None] = {}
        self.assumed: set[str] = set()
        self._settle_functions()

    def of_graph(self, graph: oir.Graph) -> int | None:
        """The sum over the nodes; None as soon as one of them cannot be told."""
        total = 0
        for node in graph:
            found = self._of_node(node)
            if found is None:
                return None
            total += found
        return total

    def _of_node(self, node: oir.Node) -> int | None:
        function = node.op_identifier()
        if function in self._functions:
            return self._functions[function]
        bodies = bodies_of(node)
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


def _peak(graph: oir.Graph, sizes: _Sizes) -> int | None:
    """The most bytes of activations alive at once, if each dies after its last reader.

    Inputs live from the start, outputs to the end; constants are weights and do not count. None where the
    size of a value is not known.
    """
    roots: dict[oir.Value, oir.Value] = {}
    last = _last_uses(graph, roots)
    alive: dict[oir.Value, int] = {}
    ends: dict[int, list[oir.Value]] = {}
    now = most = 0

    def begin(value: oir.Value) -> bool:
        nonlocal now, most
        if sizes.is_constant(value) or value in roots:
            return True
        nbytes = sizes.nbytes(value)
        if nbytes is None:
            return value not in last  # of what nobody reads, the size may remain open
        alive[value] = nbytes
        ends.setdefault(last.get(value, -1), []).append(value)
        now += nbytes
        most = max(most, now)
        return True

    if not all(begin(v) for v in graph.inputs if v.name not in graph.initializers):
        return None
    for index, node in enumerate(graph):
        if not all(begin(v) for v in node.outputs if v.name):
            return None
        now -= sum(alive[v] for v in ends.pop(index, ()))
        now -= sum(alive[v] for v in ends.pop(-1, ()))  # what nobody reads
    return most


def _last_uses(graph: oir.Graph, roots: dict[oir.Value, oir.Value]) -> Mapping[oir.Value, int]:
    """The index of the last node that reads each value, in its bodies too; fills `roots` of the views."""
    last: dict[oir.Value, int] = {}
    for index, node in enumerate(graph):
        pending = [node]
        while pending:
            reader = pending.pop()
            for value in reader.inputs:
                if value is not None:
                    last[roots.get(value, value)] = index
            for body in bodies_of(reader):
                pending.extend(body)
                last |= {roots.get(v, v): index for v in body.outputs if v.graph is graph}
        if node.op_type in _VIEWS and not node.domain and node.inputs and node.inputs[0] is not None:
            source = node.inputs[0]
            roots[node.outputs[0]] = roots.get(source, source)
    for value in graph.outputs:
        last[roots.get(value, value)] = len(graph)
    return last
