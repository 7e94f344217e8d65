"""Samples of rules, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import graphopt
from graphopt import Tensor, require, rule
from graphopt.check.sample import Sample, SampleOptions, draw
from graphopt.engine.registry import pass_class, pass_names
from tests.unit.engine import drive

PLAIN = SampleOptions(plain=True)


def samples(found: graphopt.Rule[Any], count: int, options: SampleOptions | None = None, seed: int = 0) -> list[Sample]:
    rng = Random(seed)
    return [draw(found, rng, options=options) for _ in range(count)]


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those in bodies as well."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def of(sample: Sample, operator: str) -> list[onnx.NodeProto]:
    return [node for node in nodes(sample.model.graph) if node.op_type == operator]


def attrs(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def constants(sample: Sample) -> dict[str, np.ndarray]:
    """Initializers and Constants by name."""
    found: dict[str, np.ndarray] = {}
    for graph in graphs(sample.model.graph):
        found |= {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        found |= {n.output[0]: numpy_helper.to_array(attrs(n)["value"]) for n in graph.node if n.op_type == "Constant"}
    return found


def shape_of(sample: Sample, name: str) -> list[int | str]:
    (value,) = [v for v in sample.model.graph.input if v.name == name]
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def pattern(function: Any, **options: Any) -> graphopt.Rule[Any]:
    """A rule of this left side."""
    import inspect

    def matched(*operands: Any) -> Tensor:
        require(False, "it matches")
        raise AssertionError

    matched.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return rule(function, bounded=True, once=True, **options)(matched)


def matches(found: graphopt.Rule[Any], sample: Sample) -> bool:
    return "it matches" in drive(graphopt.load(sample.model), found)[1].declined.get(found.name, {})


def share(found: graphopt.Rule[Any], count: int = 40, options: SampleOptions | None = None) -> float:
    """The share of samples that the pattern matches."""
    return sum(matches(found, s) for s in samples(found, count, options)) / count


BUILTIN = {f"{name}.{r.name}": r for name in pass_names() for r in pass_class(name).rules()}
