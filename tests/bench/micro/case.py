"""A micro-model: a few nodes for one row of the survey of optimizations, and how to see that it was optimized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
from onnx import helper, parser

_SIGNED = (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64,
           onnx.TensorProto.INT8)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One spelling of one optimization.

    `row`: its number in the survey. `model`: ONNX text (see `text`), or a function that builds the model. `fired`:
    whether an optimized model shows it, by the operators that are left, whatever stands around them. `unsound`: why
    the rewrite would be wrong for some inputs, so that it must not be done at this level.
    """

    row: int
    name: str
    model: str | Callable[[], onnx.ModelProto]
    fired: Callable[[onnx.ModelProto], bool]
    target: str = "onnx"
    level: str = "O2"
    unsound: str = ""

    def build(self, wrapped: bool = False) -> onnx.ModelProto:
        """The model; `wrapped` puts operators between it and its inputs and outputs."""
        model = parser.parse_model(self.model) if isinstance(self.model, str) else self.model()
        onnx.checker.check_model(model, full_check=True)
        return wrap(model) if wrapped else model


def text(body: str, opset: int = 18, ir: int = 10) -> str:
    """ONNX text of a model: `text("(float[N] x) => (float[N] y) { y = Relu(x) }")`."""
    return f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {body}'


def left(**counts: int) -> Callable[[onnx.ModelProto], bool]:
    """Exactly so many of these operators are left: `left(Split=0, Slice=1)`."""
    return lambda model: all(operators(model)[op] == count for op, count in counts.items())


def gone(*ops: str) -> Callable[[onnx.ModelProto], bool]:
    """None of these operators is left."""
    return left(**dict.fromkeys(ops, 0))


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs: in the graph, in bodies of control flow and in local functions."""
    counts = Counter(node.op_type for node in _nodes(model.graph))
    for function in model.functions:
        counts.update(node.op_type for node in function.node)
    return counts


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(body)


def wrap(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with an operator between it and each input, and after each output, of which nothing is known."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    known = {i.name for i in graph.initializer}
    before, after = [], []
    for value in graph.input:
        op = _between(value)
        if op is not None and value.name not in known:
            before.append(helper.make_node(op, [f"{value.name}_in"], [value.name]))
            value.name += "_in"
    for value in graph.output:
        op = _between(value)
        if op is not None:
            after.append(helper.make_node(op, [value.name], [f"{value.name}_out"]))
            value.name += "_out"
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _between(value: onnx.ValueInfoProto) -> str | None:
    """An operator whose result may be anything; None for dtypes without one, which stay as they are."""
    kind = value.type.tensor_type.elem_type
    if kind == onnx.TensorProto.FLOAT:
        return "Asinh"
    return "Neg" if kind in _SIGNED else None
