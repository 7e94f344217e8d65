"""What tests of the engine share: models from ONNX text, and one run of some rules over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx_ir as oir
from onnx import numpy_helper, parser

import graphopt
from graphopt.engine.driver import Driver, RuleStats
from graphopt.ir.edit import Editor


def model(text: str, opset: int = 20, **constants: Any) -> graphopt.Model:
    """A model from ONNX text; `constants` (NumPy arrays) become initializers."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return graphopt.load(proto)


def ops(found: graphopt.Model) -> list[str]:
    """Operators of the main graph, in order."""
    return [n.op for n in found.main.nodes]


def drive(found: graphopt.Model, *rules: Any, editor: Editor | None = None) -> tuple[int, RuleStats]:
    """Run rules over a model; the count of rewrites, and the statistics."""
    stats = RuleStats()
    count = Driver([(r.name, r) for r in rules], editor or Editor(found), stats=stats).run()
    return count, stats


def reasons(stats: RuleStats) -> Sequence[str]:
    """Why rules declined, each reason once."""
    merged: Counter[str] = Counter()
    for declined in stats.declined.values():
        merged.update(declined)
    return list(merged)


def check_uses(found: graphopt.Model) -> None:
    """Every value that a node reads comes before it, and knows that it is read."""
    for graph in found.raw_graphs():
        seen: set[oir.Node] = set()
        for node in graph:
            for i, value in enumerate(node.inputs):
                if value is None:
                    continue
                assert any(u.node is node and u.idx == i for u in value.uses())
                producer = value.producer()
                assert producer is None or producer.graph is not graph or producer in seen, value.name
            seen.add(node)
