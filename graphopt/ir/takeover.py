"""Putting another graph in the place of a model's own, as one rewrite: how the results of other tools are taken over.

The new graph must keep the interface. What the file declares of its inputs and outputs stays declared, weights that
did not change stay the tensors that they were, and so do the notes on nodes that did not change.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.commit import RULE_KEY
from graphopt.ir.draft import Change, Decline
from graphopt.ir.schemas import defaults
from graphopt.ir.tensors import payload
from graphopt.ir.value import bodies_of

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor

Node = tuple[Hashable, ...]


def take_over(editor: Editor, new: oir.Model, by: str) -> Change | None:
    """Make `new`, which nobody else may use from then on, the graph of the editor's model; None if it is the same.

    Raises `Decline`, with the model as it was, if inputs or outputs differ in name, order, type or rank, or if a size
    that was open is fixed, or if something protected would be gone.
    """
    model = editor.model
    old = model.ir
    _check_interface(old.graph, new.graph)
    _reuse_tensors(old.graph, new.graph)
    before, after = _nodes(old), _nodes(new)
    gone = _minus(before, after)
    made = _minus(after, before)
    if not gone and not made and _frame(old) == _frame(new):
        return None
    if editor.protection is not None:
        editor.protection.check_whole(new.graph, gone)
    _keep_declarations(old.graph, new.graph)
    _keep_notes(before, after, made, by)
    removed = tuple(node.name or node.op_type for node in gone)
    old_graphs = model.raw_graphs()
    _swap(old, new)
    for graph in old_graphs:
        graph.remove(list(graph))  # so that nobody takes one of these nodes for alive
    if model.source is not None:
        model.source = dataclasses.replace(model.source, proto=None)
    model.reset()
    editor.reset()
    if editor.protection is not None:
        editor.protection.moved()
    return Change(
        ordinal=editor.next_ordinal(),
        by=by,
        at=old.graph.name or "the whole model",
        graph=old.graph,
        added=tuple(made),
        removed=removed,
        freed=(),
        moved=(),
        whole=True,
    )


# -- the interface ---------------------------------------------------------------------------------------------


def _check_interface(old: oir.Graph, new: oir.Graph) -> None:
    for kind, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        names, now = [v.name for v in before], [v.name for v in after]
        for name in names:
            if name not in now:
                raise Decline(f"the graph {kind} {name!r} would be gone")
        for name in now:
            if name not in names:
                raise Decline(f"there would be a new graph {kind}, {name!r}")
        if names != now:
            raise Decline(f"the graph {kind}s would have another order: {', '.join(map(str, now))}")
        for value, other in zip(before, after, strict=True):
            _check_type(f"the graph {kind} {value.name!r}", value, other, fixed=kind == "output")
            if kind == "input" and value.is_initializer() != other.is_initializer():
                raise Decline(f"the default of the graph input {value.name!r} would be "
                              f"{'gone' if value.is_initializer() else 'new'}")


def _check_type(what: str, old: oir.Value, new: oir.Value, *, fixed: bool) -> None:
    """`fixed`: an open size may become a number, for a number may be what the open size always was."""
    if old.type is not None and new.type is not None and _kind(old.type) != _kind(new.type):
        raise Decline(f"{what} would be of the type {_spelled(new.type)} instead of {_spelled(old.type)}")
    if old.shape is None or new.shape is None:
        if old.shape is None and new.shape is not None and not fixed:
            raise Decline(f"{what} would have the shape {_dims(new.shape)} instead of any")
        return
    same = len(old.shape) == len(new.shape) and all(
        a == b or not isinstance(b, int) or (fixed and not isinstance(a, int))
        for a, b in zip(old.shape, new.shape, strict=True)
    )
    if not same:
        raise Decline(f"{what} would have the shape {_dims(new.shape)} instead of {_dims(old.shape)}")


def _kind(type_: Any) -> Hashable:
    """A type without what it says the tensor means (`IMAGE`), which tools drop."""
    inner = type_.elem_type
    return type(type_).__name__, inner if isinstance(inner, oir.DataType) else _kind(inner)


def _spelled(kind: oir.TypeProtocol) -> str:
    return kind.dtype.name.lower() if type(kind) is oir.TensorType else repr(kind)


def _dims(shape: oir.Shape) -> str:
    return "[" + ", ".join(str(d) if isinstance(d, int) else d.value or "?" for d in shape) + "]"


def _keep_declarations(old: oir.Graph, new: oir.Graph) -> None:
    """Let inputs and outputs say what they said: tools drop names of sizes, descriptions, and map types."""
    for value, other in zip((*old.inputs, *old.outputs), (*new.inputs, *new.outputs), strict=True):
        other.type, other.shape, other.doc_string = value.type, value.shape, value.doc_string
        other.metadata_props.clear()
        other.metadata_props.update(value.metadata_props)
        other.meta.update(value.meta)
    new.name, new.doc_string = old.name, old.doc_string
    new.metadata_props.clear()
    new.metadata_props.update(old.metadata_props)


def _swap(old: oir.Model, new: oir.Model) -> None:
    """Put the graph and functions of `new` into `old`, which keeps who made it and what it says of itself."""
    used = {node.domain for node in _all_nodes(new)} | {""}
    imports = new.graph.opset_imports
    for domain in [d for d in imports if d not in used and d not in old.graph.opset_imports]:
        del imports[domain]  # ONNX Runtime imports every domain that it knows
    old.graph = new.graph
    old.functions.clear()
    old.functions.update(new.functions)
    old.ir_version = max(old.ir_version, new.ir_version)


# -- what is the same ------------------------------------------------------------------------------------------


def _reuse_tensors(old: oir.Graph, new: oir.Graph) -> None:
    """Let initializers that are the same by name, type and bytes be the old tensors, which may lie in a file."""
    for name, value in new.initializers.items():
        before, after = old.initializers.get(name), value.const_value
        tensor = None if before is None else before.const_value
        if tensor is not None and after is not None and _same_tensor(tensor, after):
            value.const_value = tensor


def _same_tensor(a: oir.TensorProtocol, b: oir.TensorProtocol) -> bool:
    if a is b:
        return True
    if a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape):
        return False
    if a.dtype == oir.DataType.STRING:
        return bool(np.array_equal(a.numpy(), b.numpy()))
    chunks = zip(payload(a), payload(b), strict=True)
    return all(np.array_equal(np.frombuffer(x, np.uint8), np.frombuffer(y, np.uint8)) for x, y in chunks)


def _nodes(model: oir.Model) -> dict[Node, list[oir.Node]]:
    """All nodes by what they compute, from what, under which name; how a node itself is called does not count."""
    found: dict[Node, list[oir.Node]] = {}
    imports = dict(model.graph.opset_imports)
    for node in _all_nodes(model):
        found.setdefault(_key(node, imports), []).append(node)
    return found


def _all_nodes(model: oir.Model) -> Iterator[oir.Node]:
    pending = [*(function.graph for function in reversed(model.functions.values())), model.graph]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(bodies_of(node))


def _key(node: oir.Node, imports: Mapping[str, int]) -> Node:
    given = defaults(node.domain, node.op_type, imports.get(node.domain, 0))
    attrs = sorted(
        (name, _content(attr)) for name, attr in node.attributes.items()
        if attr.is_ref() or name not in given or given[name] != _plain(attr.value)
    )
    inputs = [None if v is None else v.name for v in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    return node.domain, node.op_type, tuple(inputs), tuple(v.name for v in node.outputs), tuple(attrs)


def _content(attr: oir.Attr) -> str:
    """The attribute as text. Of bodies only the interface: their nodes are compared like all others."""
    kinds = oir.AttributeType
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type in (kinds.TENSOR, kinds.TENSORS):
        tensors = [attr.value] if attr.type == kinds.TENSOR else attr.value
        return " ".join(map(_digest, tensors))
    if attr.type in (kinds.GRAPH, kinds.GRAPHS):
        graphs = [attr.value] if attr.type == kinds.GRAPH else attr.value
        return repr([_ends(graph, _digest) for graph in graphs])
    return repr(_plain(attr.value))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _digest(tensor: oir.TensorProtocol) -> str:
    made = hashlib.blake2b(digest_size=16)
    if tensor.dtype == oir.DataType.STRING:
        made.update(repr(tensor.numpy().tolist()).encode())
    else:
        for chunk in payload(tensor):
            made.update(chunk)
    return f"{tensor.dtype}{tuple(tensor.shape)}{made.hexdigest()}"


def _ends(graph: oir.Graph, constant: Callable[[oir.TensorProtocol], Hashable]) -> Hashable:
    """Inputs, outputs and constants of a graph."""
    tensors = {name: v.const_value for name, v in graph.initializers.items()}
    constants = frozenset((name, None if t is None else constant(t)) for name, t in tensors.items())
    return tuple(v.name for v in graph.inputs), tuple(v.name for v in graph.outputs), constants


def _frame(model: oir.Model) -> Hashable:
    """What makes a model apart from its nodes; after `_reuse_tensors`, so that equal weights are the same objects."""
    functions = frozenset((key, _ends(f.graph, _digest)) for key, f in model.functions.items())
    return _ends(model.graph, id), functions, model.graph.opset_imports.get("")


def _minus(these: Mapping[Node, list[oir.Node]], those: Mapping[Node, list[oir.Node]]) -> list[oir.Node]:
    """Nodes of `these` that `those` do not have, as often as they lack them."""
    more = Counter({key: len(nodes) for key, nodes in these.items()})
    more.subtract({key: len(nodes) for key, nodes in those.items()})
    return [node for key, nodes in these.items() for node in nodes[: max(0, more[key])]]


def _keep_notes(
    before: Mapping[Node, list[oir.Node]], after: Mapping[Node, list[oir.Node]], made: list[oir.Node], by: str
) -> None:
    """Nodes that are the same keep their names and notes; new ones say who made them."""
    for node in made:
        node.metadata_props[RULE_KEY] = by
    new = set(made)
    for key, nodes in after.items():
        kept = [node for node in nodes if node not in new]
        for node, old in zip(kept, before.get(key, ()), strict=False):
            node.name = old.name
            node.doc_string = old.doc_string
            node.metadata_props.update(old.metadata_props)
