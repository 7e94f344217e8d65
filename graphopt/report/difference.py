"""How two models differ, in structure and in weights: the JSON schema `graphopt.diff/1`.

    schema        "graphopt.diff/1"
    a, b          the paths
    same          whether nothing below differs
    opsets        {domain: [in a, in b]}, null where one does not import it
    inputs        {name: [in a, in b]}: {name, dtype, shape} or null; `outputs` likewise
    operators     {operator: [count in a, count in b]}, those whose count differs
    nodes         {added, removed, changed: [{name, op, scope}]}; changed ones name what: "inputs", attributes
    initializers  {added, removed: [{name, dtype, shape}], changed: [{name, dtype, shape, max_abs, why}], same: count}

Nodes correspond by name and operator, unnamed ones by their first output; initializers by name. `scope` is the
chain of nodes or the function that a graph belongs to, empty for the main graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.report.measure import operators
from graphopt.report.overview import dtype_name, port

SCHEMA = "graphopt.diff/1"

_CHUNK = 1 << 20  # elements that are compared at a time, so that no weight is copied whole

NodeKey = tuple[str, str, str]  # scope, name, operator


def difference(a: Model, b: Model, path_a: str, path_b: str) -> dict[str, Any]:
    """The differences between two models; tensors are read from their files one after the other."""
    found = {
        "opsets": _changed(dict(a.ir.graph.opset_imports), dict(b.ir.graph.opset_imports)),
        "inputs": _changed(_ports(a, "inputs"), _ports(b, "inputs")),
        "outputs": _changed(_ports(a, "outputs"), _ports(b, "outputs")),
        "operators": _changed(operators(a), operators(b), missing=0),
        "nodes": _nodes(a, b),
        "initializers": _initializers(a, b),
    }
    same = not any(found[key] for key in ("opsets", "inputs", "outputs", "operators")) and not any(
        found[key][kind] for key in ("nodes", "initializers") for kind in ("added", "removed", "changed")
    )
    return {"schema": SCHEMA, "a": path_a, "b": path_b, "same": same, **found}


def _changed(a: Mapping[str, Any], b: Mapping[str, Any], missing: Any = None) -> dict[str, Any]:
    """What differs between two mappings: both sides by key, in order of appearance."""
    pairs = {key: [a.get(key, missing), b.get(key, missing)] for key in (*a, *b)}
    return {key or "ai.onnx": pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _ports(model: Model, side: str) -> dict[str, Any]:
    return {v.name: port(v) for v in getattr(model.main, side) if not v.is_initializer}


def _scopes(model: Model) -> Iterator[tuple[str, oir.Graph]]:
    """Every graph with the name of its place: the nodes that it lies in, or the function."""
    pending = [("", model.ir.graph)]
    pending += [(f"{f.domain}.{f.name}", f.graph) for f in model.ir.functions.values()]
    while pending:
        scope, graph = pending.pop()
        yield scope, graph
        for node in graph:
            for name, attr in node.attributes.items():
                if attr.is_ref() or attr.type not in (oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS):
                    continue
                bodies = [attr.value] if attr.type == oir.AttributeType.GRAPH else attr.value
                pending += [(f"{scope}/{_name(node)}.{name}", body) for body in bodies]


def _name(node: oir.Node) -> str:
    return node.name or next((o.name for o in node.outputs if o.name), "")


def _by_key(model: Model) -> dict[NodeKey, oir.Node]:
    found: dict[NodeKey, oir.Node] = {}
    for scope, graph in _scopes(model):
        for node in graph:
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            found[scope, _name(node), op] = node
    return found


def _nodes(a: Model, b: Model) -> dict[str, Any]:
    left, right = _by_key(a), _by_key(b)
    changed = []
    for key, node in left.items():
        other = right.get(key)
        what = _what_changed(node, other) if other is not None else []
        if what:
            changed.append({**_described(key), "what": what})
    return {
        "added": [_described(key) for key in right if key not in left],
        "removed": [_described(key) for key in left if key not in right],
        "changed": changed,
    }


def _described(key: NodeKey) -> dict[str, str]:
    scope, name, op = key
    return {"name": name, "op": op, "scope": scope}


def _what_changed(a: oir.Node, b: oir.Node) -> list[str]:
    """`inputs` if other values are read, and the attributes that differ; bodies are compared as graphs."""
    what = ["inputs"] if [v and v.name for v in a.inputs] != [v and v.name for v in b.inputs] else []
    names = dict.fromkeys((*a.attributes, *b.attributes))
    return what + [n for n in names if not _equal(a.attributes.get(n), b.attributes.get(n))]


def _equal(a: oir.Attr | None, b: oir.Attr | None) -> bool:
    if a is None or b is None or a.type != b.type or a.is_ref() != b.is_ref():
        return False
    if a.is_ref():
        return a.ref_attr_name == b.ref_attr_name
    if a.type in (oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS):
        return True
    if a.type == oir.AttributeType.TENSOR:
        return _compare(a.value, b.value) is None
    equal: bool = a.value == b.value or (a.value != a.value and b.value != b.value)
    return equal


def _initializers(a: Model, b: Model) -> dict[str, Any]:
    left, right = _tensors(a), _tensors(b)
    changed, same = [], 0
    for name, tensor in left.items():
        if name not in right:
            continue
        found = _compare(tensor, right[name])
        if found is None:
            same += 1
        else:
            changed.append({**_tensor(name, right[name]), **found})
    return {
        "added": [_tensor(name, t) for name, t in right.items() if name not in left],
        "removed": [_tensor(name, t) for name, t in left.items() if name not in right],
        "changed": changed,
        "same": same,
    }


def _tensors(model: Model) -> dict[str, oir.TensorProtocol]:
    return {
        f"{scope}/{name}" if scope else name: value.const_value
        for scope, graph in _scopes(model)
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }


def _tensor(name: str, tensor: oir.TensorProtocol) -> dict[str, Any]:
    return {"name": name, "dtype": dtype_name(tensor.dtype), "shape": [int(d) for d in tensor.shape]}  # type: ignore[arg-type]


def _compare(a: oir.TensorProtocol, b: oir.TensorProtocol) -> dict[str, Any] | None:
    """None for equal bits, else the largest difference, or why there is none to speak of."""
    if a.dtype != b.dtype:
        return {"max_abs": None, "why": f"{dtype_name(a.dtype)} became {dtype_name(b.dtype)}"}
    if list(a.shape) != list(b.shape):
        return {"max_abs": None, "why": f"{_shape(a)} became {_shape(b)}"}
    x, y = a.numpy().reshape(-1), b.numpy().reshape(-1)
    if x.dtype.kind == "O":
        return None if np.array_equal(x, y) else {"max_abs": None, "why": "other texts"}
    largest, differs = 0.0, False
    for start in range(0, x.size, _CHUNK):
        one, two = x[start : start + _CHUNK], y[start : start + _CHUNK]
        if one.tobytes() == two.tobytes():
            continue
        differs = True
        kind = np.complex128 if one.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore"):
            gaps = np.abs(one.astype(kind) - two.astype(kind))
        largest = max(largest, float(np.nanmax(gaps, initial=0.0)))
    return {"max_abs": largest, "why": None} if differs else None


def _shape(tensor: oir.TensorProtocol) -> str:
    return str([int(d) for d in tensor.shape])  # type: ignore[arg-type]
