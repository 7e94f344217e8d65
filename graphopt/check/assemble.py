"""From nodes to a model that ONNX accepts: outputs get their types, and the pattern may move into a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from graphopt.check.choose import Rejected
from graphopt.check.dtypes import numpy_dtype
from graphopt.check.placement import Places
from graphopt.check.values import Value

IR_VERSION = 10
_TRIPS = 2
_MOST_ELEMENTS = 256  # of what the other branch of an If gives in the same shape


def assemble(
    places: Places, nodes: Sequence[onnx.NodeProto], imports: Mapping[str, int], body: str = "", own: bool = False
) -> onnx.ModelProto:
    """A model of the pattern's `nodes` and the `places` around it.

    `body`: "If" or "Loop" to put the pattern into the body of one, with its leaves captured from outside; `own`: the
    constants go with it. Raises `Rejected` with what ONNX's checker or strict shape inference has against the model.
    """
    inner = [*nodes, *places.after]
    if any(size < 0 for value in places.outputs for size in value.shape):  # which shape inference lets pass
        raise Rejected("an output would have a negative size")
    try:
        graph = _graph([*places.nodes, *inner], places.inputs, places.outputs, places.initializers)
        model = _typed(graph, places.outputs, imports)
        if body:
            lead = (_TRIPS,) if body == "Loop" else ()
            outputs = [
                Value(places.name(f"{v.name}_{body.lower()}"), v.dtype, (*lead, *v.shape)) for v in places.outputs
            ]
            graph = _around(places, inner, model.graph.output, outputs, body, own)
            model = _typed(graph, outputs, imports)
        checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Rejected(_summary(error)) from None
    return model


def _graph(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[Value],
    initializers: Sequence[onnx.TensorProto],
) -> onnx.GraphProto:  # fmt: skip
    infos = [onnx.ValueInfoProto(name=v.name) for v in outputs]
    for info, value in zip(infos, outputs, strict=True):
        info.type.tensor_type.elem_type = value.dtype
    return helper.make_graph(nodes, "sample", inputs, infos, initializers)


def _typed(graph: onnx.GraphProto, outputs: Sequence[Value], imports: Mapping[str, int]) -> onnx.ModelProto:
    """A model whose outputs have their inferred shape, or their rank where only that is known."""
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for info, found, value in zip(model.graph.output, inferred.graph.output, outputs, strict=True):
        if found.type.tensor_type.HasField("shape"):
            info.type.CopyFrom(found.type)
        else:
            dims = [f"{value.name}_{i}" for i in range(len(value.shape))]
            info.type.CopyFrom(helper.make_tensor_type_proto(value.dtype, dims))
    return model


# -- bodies -------------------------------------------------------------------------------------------


def _around(
    places: Places, inner: Sequence[onnx.NodeProto], typed: Sequence[onnx.ValueInfoProto], outputs: Sequence[Value],
    body: str, own: bool,
) -> onnx.GraphProto:  # fmt: skip
    """A graph with the nodes `inner`, of which `typed` are the outputs, in a body of a node that gives `outputs`."""
    overridable = {value.name for value in places.inputs}
    inside = [t for t in places.initializers if own and t.name not in overridable]
    outside = [t for t in places.initializers if not (own and t.name not in overridable)]
    names = [v.name for v in outputs]
    if body == "Loop":
        trips = places.name("trips")
        node = _loop(places, inner, typed, inside, [trips, ""], names)
        outside.append(numpy_helper.from_array(np.asarray(_TRIPS, np.int64), trips))
        return _graph([*places.nodes, node], places.inputs, outputs, outside)
    condition = places.name("condition")
    node = helper.make_node("If", [condition], names)
    branches = helper.make_graph(inner, "then", [], typed, inside), _otherwise(places.outputs)
    for name, branch in zip(("then_branch", "else_branch"), branches, strict=True):
        node.attribute.append(helper.make_attribute(name, branch))
    places.feeds[condition] = np.asarray(True)
    given = helper.make_tensor_value_info(condition, TensorProto.BOOL, [])
    return _graph([*places.nodes, node], [*places.inputs, given], outputs, outside)


def _loop(
    places: Places, inner: Sequence[onnx.NodeProto], typed: Sequence[onnx.ValueInfoProto],
    inside: Sequence[onnx.TensorProto], inputs: Sequence[str], names: Sequence[str],
) -> onnx.NodeProto:  # fmt: skip
    """A Loop that stacks what each trip gives."""
    trip, going, going_on = (places.name(name) for name in ("trip", "going", "going_on"))
    count = helper.make_tensor_value_info(trip, TensorProto.INT64, [])
    before, after = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in (going, going_on))
    nodes = [*inner, helper.make_node("Identity", [going], [going_on])]
    body = helper.make_graph(nodes, "body", [count, before], [after, *typed], inside)
    return helper.make_node("Loop", inputs, names, body=body)


def _otherwise(outputs: Sequence[Value]) -> onnx.GraphProto:
    """The other branch of an If: zeros."""
    nodes, infos = [], []
    for value in outputs:
        small = np.prod(value.shape, dtype=np.int64) <= _MOST_ELEMENTS
        shape = [int(s) for s in value.shape] if small else []
        name = f"{value.name}_else"
        zeros = numpy_helper.from_array(np.zeros(shape, numpy_dtype(value.dtype)), name)
        nodes.append(helper.make_node("Constant", [], [name], value=zeros))
        infos.append(helper.make_tensor_value_info(name, value.dtype, shape))
    return helper.make_graph(nodes, "else", [], infos)


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
