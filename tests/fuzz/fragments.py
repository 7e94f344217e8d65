"""What the optimizer's rules look for: samples of their patterns, joined to the model in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.check.sample import Rejected, SampleOptions, instantiate
from graphopt.rules.rule import Rule
from tests.fuzz.builder import Builder, Reject
from tests.fuzz.values import BF16, F16, F32, F64, Val

_TRIES = 3
_JOINED = 0.75  # of the inputs of a sample that something in the model may stand for
_FLOATS = (F32, F16, F64, BF16)


def fragment(b: Builder, rules: Sequence[Rule[Any]]) -> None:
    """A sample of one rule; its inputs are values of the model where there are some that fit."""
    rng = b.rng
    if not rules:
        raise Reject
    for _ in range(_TRIES):
        rule = rng.choice(rules)
        options = SampleOptions(
            opset=b.opset, special=b.special, dynamic=False, interior=rng.random() < 0.3, variety=rng.random() < 0.5,
            dtype=b.float if rng.random() < 0.5 else None,
        )  # fmt: skip
        try:
            sample = instantiate(rule, rng.getrandbits(48), options=options)
        except (Rejected, onnx.checker.ValidationError, ValueError):
            continue
        _join(b, sample.model, dict(sample.feeds))
        return
    raise Reject


def _join(b: Builder, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    graph = model.graph
    if sum(int(np.prod(t.dims)) for t in graph.initializer) > 4000:
        raise Reject
    if any(o.domain == "" and o.version != b.opset for o in model.opset_import):
        raise Reject
    names: dict[str, str] = {"": ""}
    defaults = {t.name for t in graph.initializer}
    if b.inside and any(v.name not in defaults and not _candidates(b, feeds[v.name], v) for v in graph.input):
        raise Reject
    for value in graph.input:
        if value.name not in defaults:
            names[value.name] = _source(b, value, feeds[value.name]).name
    for tensor in graph.initializer:
        names[tensor.name] = b.const(numpy_helper.to_array(tensor), plain=True).name
    fresh = {name: b.name("f") for node in graph.node for name in node.output if name}
    names |= fresh
    for opset in model.opset_import:
        b.imports.setdefault(opset.domain, opset.version)
    nodes = [_renamed(node, names, b) for node in graph.node]
    types = {v.name: v for v in _inferred(model, feeds)}
    made: list[Val] = []
    for name, new in fresh.items():
        tensor = types[name].type.tensor_type if name in types else None
        if tensor is not None and tensor.elem_type:
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            known = tensor.HasField("shape") and None not in dims
            made.append(Val(new, tensor.elem_type, tuple(d for d in dims if d is not None) if known else None))
    ends = {names[o.name] for o in graph.output if o.name in fresh}
    for node in nodes:
        b.raw(node, [])
    inner = [v for v in made if v.name not in ends]
    b.scopes[-1].extend(inner if b.rng.random() < 0.1 else ())
    b.scopes[-1].extend(v for v in made if v.name in ends)


def _candidates(b: Builder, array: np.ndarray, value: onnx.ValueInfoProto) -> list[Val]:
    dtype = value.type.tensor_type.elem_type
    if dtype not in _FLOATS:  # integers may be divisors and indices
        return []
    return [v for v in b.values() if v.dtype == dtype and v.shape == array.shape and not v.const]


def _source(b: Builder, value: onnx.ValueInfoProto, array: np.ndarray) -> Val:
    rng, dtype = b.rng, value.type.tensor_type.elem_type
    found = _candidates(b, array, value)
    if found and (b.inside or rng.random() < _JOINED):
        return rng.choice(found[-6:])
    if dtype in _FLOATS and array.size and array.ndim and b.opset >= 13 and rng.random() < 0.5:
        try:
            return _shaped(b, dtype, array.shape)
        except Reject:
            pass
    made = b.input(array.shape, dtype, array=array)
    b.fixed.add(made.name)
    return made


def _shaped(b: Builder, dtype: int, shape: tuple[int, ...]) -> Val:
    """Some value cut and folded to this shape."""
    size = int(np.prod(shape))
    x = b.pick(lambda v: v.size >= size, dtypes=_FLOATS)
    if x.dtype != dtype:
        x = b.node("Cast", [x], to=dtype)
    if x.size > size:
        x = b.node("Slice", [b.node("Reshape", [x, b.ints(-1)]), b.ints(0), b.ints(size), b.ints(0)])
    return b.node("Reshape", [x, b.ints(*shape)])


def _renamed(node: onnx.NodeProto, names: dict[str, str], b: Builder) -> onnx.NodeProto:
    """A copy with other names, in bodies as well."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    copy.input[:] = [names[n] for n in node.input]
    copy.output[:] = [names[n] for n in node.output]
    if _may_train(node) and not any(a.name == "seed" for a in node.attribute):
        copy.attribute.append(helper.make_attribute("seed", 1))  # the original would differ from itself otherwise
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            _rename_body(attribute.g, names, b)
    return copy


def _may_train(node: onnx.NodeProto) -> bool:
    """Whether a node is a Dropout that may drop something, drawn anew at each run."""
    return node.op_type == "Dropout" and node.domain == "" and len(node.input) > 2 and bool(node.input[2])


def _rename_body(graph: onnx.GraphProto, names: dict[str, str], b: Builder) -> None:
    own = dict(names)
    for value in (*graph.input, *graph.initializer):
        own[value.name] = b.name("g")
        value.name = own[value.name]
    for node in graph.node:
        own |= {name: b.name("g") for name in node.output if name}
    nodes = [_renamed(node, own, b) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for value in graph.output:
        value.name = own[value.name]


def _inferred(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[onnx.ValueInfoProto]:
    """Types with the sizes that are fed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in feeds:
            value.type.CopyFrom(helper.make_tensor_type_proto(value.type.tensor_type.elem_type, feeds[value.name].shape))
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    return [*graph.value_info, *graph.output]
