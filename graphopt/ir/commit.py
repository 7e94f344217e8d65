"""Applying a draft to the graph: checks first, then names, order, uses, and removal of what died."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.ir.bodies import nodes_within, reads
from graphopt.ir.draft import Change, Decline, Draft
from graphopt.ir.facts import provably_equal
from graphopt.ir.refresh import refresh
from graphopt.ir.value import FUNCTION_BODY, bodies_of, count_uses

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor

RULE_KEY = "graphopt.rule"
FROM_KEY = "graphopt.from"
_MAX_SOURCES = 8
_FEW = 2  # readers that a constant may have left for them to be looked at again: a rule may want to be its only one


def apply(editor: Editor, draft: Draft) -> Change:
    """Apply `draft`. Raises `Decline` before the graph is touched, never after."""
    _check_alive(editor, draft)
    if draft.same_type:
        _check_types(editor, draft)
    _prune(draft)
    renames = _plan_outputs(editor, draft)
    if editor.protection is not None:
        editor.protection.check(editor, draft, renames)
    if draft.constants and _is_function_body(draft.graph):
        _make_constants_nodes(draft)
    anchor = _place(editor, draft)

    for value in draft.constants:
        draft.homes.get(value, draft.graph).initializers.add(value)
    _insert(editor, draft, anchor)
    for domain in {node.domain for node in draft.nodes} - {""}:
        editor.model.facts.import_domain(domain, draft.graph)
    known = {} if draft.same_type else {new: editor.model.facts.fact(old) for old, new in draft.replaced}
    before, moved = _redirect(draft)
    if known or any(new.const_value is not None for _, new in draft.replaced):
        moved += refresh(editor.model, draft.replaced, known)
    moved += [inner for node in draft.nodes if node.attributes for inner in nodes_within(node)]
    _rename(editor, draft, renames)
    _describe(draft)
    removed, freed, lonelier = _sweep(editor, _candidates(draft, before))
    for value in before:
        producer = value.producer()
        if producer is not None:
            freed.append(producer)
        else:
            lonelier.append(value)
            if not count_uses(value):
                _drop_if_unused(editor, value)
    moved += [use.node for value in lonelier if count_uses(value) <= _FEW for use in value.uses()]
    return Change(
        ordinal=editor.next_ordinal(),
        by=draft.by,
        at=draft.anchor.name or draft.anchor.op_type,
        graph=draft.graph,
        added=tuple(draft.nodes),
        removed=tuple(removed),
        freed=tuple(n for n in dict.fromkeys(freed) if editor.model.is_alive(n)),
        moved=tuple(n for n in dict.fromkeys(moved) if editor.model.is_alive(n)),
    )


def _check_alive(editor: Editor, draft: Draft) -> None:
    """What is to be read must be part of the model, or be made by this change."""
    mine = set(draft.nodes)
    for new in [new for _, new in draft.replaced] + [new for _, _, new in draft.inputs]:
        producer = new.producer()
        if producer is not None and producer not in mine and not editor.model.is_alive(producer):
            raise Decline("the replacement has been removed from the model")


def _check_types(editor: Editor, draft: Draft) -> None:
    """The type contract: same dtype and a provably equal shape, for every replaced value."""
    facts = editor.model.facts
    for old, new in draft.replaced:
        if facts.dtype(old) is None or facts.dtype(old) != facts.dtype(new):
            raise Decline(f"the dtype of the replacement is not provably the same: {_name(facts.dtype(old))} "
                          f"becomes {_name(facts.dtype(new))}")
        if not provably_equal(facts.shape(old), facts.shape(new)):
            raise Decline(f"the shape of the replacement is not provably the same: {_dims(facts.shape(old))} "
                          f"becomes {_dims(facts.shape(new))}")


def _name(dtype: oir.DataType | None) -> str:
    return "unknown" if dtype is None else dtype.name.lower()


def _dims(shape: tuple[object, ...] | None) -> str:
    if shape is None:
        return "unknown rank"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def detach(node: oir.Node) -> list[oir.Node]:
    """Let a node that comes to nothing, and those in its bodies, read nothing; returns them."""
    nodes = [node, *nodes_within(node)]
    for item in nodes:
        for i in range(len(item.inputs)):
            item.replace_input_with(i, None)
    return nodes


def _prune(draft: Draft) -> None:
    """Drop new nodes and constants that nothing of the change reads."""
    wanted = {new for _, new in draft.replaced} | {new for _, _, new in draft.inputs}
    kept: list[oir.Node] = []
    for node in reversed(draft.nodes):
        if any(o in wanted or count_uses(o) for o in node.outputs):
            kept.append(node)
        else:
            detach(node)
    draft.nodes = kept[::-1]
    draft.constants = [c for c in draft.constants if c in wanted or count_uses(c)]


def _plan_outputs(editor: Editor, draft: Draft) -> list[tuple[oir.Value, oir.Value]]:
    """Who takes whose name. A graph output keeps its name: its replacement takes it, or an Identity gives it."""
    renames: list[tuple[oir.Value, oir.Value]] = []
    taken: set[oir.Value] = set()
    mine = set(draft.nodes)
    for i, (old, new) in enumerate(draft.replaced):
        producer = new.producer()
        fresh = producer is not None and producer in mine
        if old.is_graph_output():
            interior = producer is not None and producer.graph is old.graph and not new.is_graph_output()
            if not (fresh or interior) or new in taken or _is_needed_elsewhere(new, old):
                new = _identity(editor, draft, old, new)
                draft.replaced[i] = (old, new)
            renames.append((old, new))
            taken.add(new)
        elif (fresh or new in draft.constants) and new not in taken:
            renames.append((old, new))
            taken.add(new)
    return renames


def _is_needed_elsewhere(new: oir.Value, old: oir.Value) -> bool:
    """Whether `new` cannot be renamed because it is an interface of some graph itself."""
    return new.is_graph_input() or new.is_initializer() or (new.is_graph_output() and new is not old)


def _identity(editor: Editor, draft: Draft, old: oir.Value, new: oir.Value) -> oir.Value:
    producer = old.producer()
    if producer is not None and producer.op_type == "Identity" and producer.inputs[0] is new:
        raise Decline("a graph output keeps its name, so the Identity that gives it stays")
    node = oir.node("Identity", [new])
    draft.nodes.append(node)
    known = old if draft.same_type or editor.model.facts.shape(new) is None else new  # of which more may be known
    editor.model.facts.copy(known, node.outputs[0])
    return node.outputs[0]


def _place(editor: Editor, draft: Draft) -> oir.Node | None:
    """The node before which the new ones go: after all that they read, before all that read them."""
    if not draft.nodes:
        return None
    ranks, mine = editor.ranks, set(draft.nodes)
    latest = 0
    for node in draft.nodes:
        for value in reads(node):
            producer = value.producer()
            if producer is not None and producer not in mine and producer.graph is draft.graph:
                latest = max(latest, ranks.of(producer))
    anchor = draft.anchor
    for old, _ in draft.replaced:
        producer = old.producer()
        if producer is not None and producer.graph is draft.graph and ranks.of(producer) < ranks.of(anchor):
            anchor = producer
    if latest < ranks.of(anchor) and _readers_follow(editor, draft, anchor):
        return anchor
    readers = [n for n in _readers(editor, draft) if n not in mine]
    if not readers:
        return None
    first = min(readers, key=ranks.of)
    if latest >= ranks.of(first):
        raise Decline("what the replacement reads is computed after what reads the replacement")
    return first


def _readers_follow(editor: Editor, draft: Draft, anchor: oir.Node) -> bool:
    """Whether every node that is to read a new value directly comes at or after `anchor`."""
    rank = editor.ranks.of(anchor)
    return all(editor.ranks.of(node) >= rank for node, _, _ in draft.inputs if node.graph is draft.graph)


def _readers(editor: Editor, draft: Draft) -> Iterable[oir.Node]:
    """Nodes of the draft's own graph that will read something new, themselves or in a body."""
    for old, _ in draft.replaced:
        for use in old.uses():
            node = _ancestor(editor, use.node, draft.graph)
            if node is not None:
                yield node
    for reader, _, _ in draft.inputs:
        node = _ancestor(editor, reader, draft.graph)
        if node is not None:
            yield node


def _ancestor(editor: Editor, node: oir.Node, graph: oir.Graph) -> oir.Node | None:
    """The node of `graph` that holds `node`: `node` itself, or one in whose bodies it stands."""
    current: oir.Node | None = node
    while current is not None and current.graph is not graph:
        current = editor.model.holders.get(current.graph) if current.graph is not None else None
    return current


def _make_constants_nodes(draft: Draft) -> None:
    """A function's body has no initializers: constants become Constant nodes there."""
    for value in draft.constants:
        node = oir.node("Constant", [], {"value": value.const_value})
        node.outputs[0].name = value.name
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        for use in tuple(value.uses()):
            use.node.replace_input_with(use.idx, node.outputs[0])
        draft.replaced = [(o, node.outputs[0] if n is value else n) for o, n in draft.replaced]
        draft.inputs = [(r, i, node.outputs[0] if n is value else n) for r, i, n in draft.inputs]
        draft.nodes.insert(0, node)
    draft.constants = []


def _is_function_body(graph: oir.Graph) -> bool:
    return graph.meta.get(FUNCTION_BODY) is True


def _insert(editor: Editor, draft: Draft, anchor: oir.Node | None) -> None:
    if not draft.nodes:
        return
    stem = draft.anchor.name or ""
    for i, node in enumerate(draft.nodes):
        last = i == len(draft.nodes) - 1
        node.name = editor.fresh_name(f"{stem}_{node.op_type}" if stem or not last else node.op_type)
        for output in node.outputs:
            output.name = output.name or editor.fresh_name(f"{stem or 'graphopt'}_{node.op_type}_out")
    if anchor is None:
        draft.graph.extend(draft.nodes)
    else:
        draft.graph.insert_before(anchor, draft.nodes)
    editor.ranks.inserted(draft.nodes, anchor, draft.graph)
    for node in draft.nodes:
        editor.model.adopt(node)


def _redirect(draft: Draft) -> tuple[list[oir.Value], list[oir.Node]]:
    """Point every reader at its new value; returns the values that were read before, and the readers."""
    before: list[oir.Value] = []
    moved: list[oir.Node] = []
    mine = set(draft.nodes)
    for old, new in draft.replaced:
        before.append(old)
        graph = old.graph
        if old.is_graph_output() and graph is not None:
            for i, output in enumerate(graph.outputs):
                if output is old:
                    graph.outputs[i] = new
        for use in tuple(old.uses()):
            if use.node not in mine:  # a replacement may itself read what it replaces
                use.node.replace_input_with(use.idx, new)
                moved.append(use.node)
    for node, index, value in draft.inputs:
        previous = node.inputs[index]
        if previous is not None:
            before.append(previous)
        node.replace_input_with(index, value)
        moved.append(node)
    return before, moved


def _rename(editor: Editor, draft: Draft, renames: list[tuple[oir.Value, oir.Value]]) -> None:
    mine = set(draft.nodes)
    for old, new in renames:
        name = old.name
        old.name = editor.fresh_name(f"{name}_replaced")
        new.name = name
        if new.is_graph_output() or new.producer() in mine:
            new.type, new.shape = old.type, old.shape  # what the file declares of it stays declared


def _describe(draft: Draft) -> None:
    """Write provenance: which rule made a node, from which nodes, with what these carried along."""
    if not draft.nodes:
        return
    names = dict.fromkeys(n.name for n in draft.sources if n.name)
    merged: dict[str, list[str]] = {}
    for source in draft.sources:
        for key, value in source.metadata_props.items():
            if not key.startswith("graphopt.") and value not in merged.setdefault(key, []):
                merged[key].append(value)
    origin = ", ".join(list(names)[:_MAX_SOURCES]) + (", …" if len(names) > _MAX_SOURCES else "")
    for node in draft.nodes:
        if node.op_type == "Constant":
            continue
        node.metadata_props.update({key: ", ".join(values) for key, values in merged.items()})
        node.metadata_props[RULE_KEY] = draft.by
        if origin:
            node.metadata_props[FROM_KEY] = origin


def _candidates(draft: Draft, before: list[oir.Value]) -> list[oir.Node]:
    """Nodes that may be dead now."""
    found = [v.producer() for v in before]
    found += list(draft.sources)
    return [n for n in found if n is not None]


def _sweep(editor: Editor, pending: list[oir.Node]) -> tuple[list[str], list[oir.Node], list[oir.Value]]:
    """Remove what nobody reads, upwards from `pending`.

    Returns the names of what was removed, and the nodes and the constants that lost readers.
    """
    model = editor.model
    removed: list[str] = []
    freed: list[oir.Node] = []
    lonelier: list[oir.Value] = []
    while pending:
        node = pending.pop()
        if not model.is_alive(node) or any(count_uses(o) or o.is_graph_output() for o in node.outputs):
            continue
        if editor.protection is not None and node in editor.protection.pinned:
            continue
        for inner in _with_bodies(node, model.dead_graphs):
            for i, value in enumerate(inner.inputs):
                if value is None:
                    continue
                inner.replace_input_with(i, None)
                producer = value.producer()
                if producer is not None:
                    pending.append(producer)
                    freed.append(producer)
                elif count_uses(value):
                    lonelier.append(value)
                else:
                    _drop_if_unused(editor, value)
        removed.append(node.name or node.op_type)
        for output in node.outputs:
            model.facts.forget(output)
        editor.ranks.removed(node)
        graph = node.graph
        assert graph is not None
        graph.remove(node)
    return removed, freed, lonelier


def _with_bodies(node: oir.Node, dead: set[oir.Graph]) -> Iterable[oir.Node]:
    """The node and all nodes in its bodies, which die with it."""
    yield node
    pending = bodies_of(node)
    while pending:
        body = pending.pop()
        dead.add(body)
        for inner in body:
            yield inner
            pending.extend(bodies_of(inner))


def _drop_if_unused(editor: Editor, value: oir.Value) -> None:
    graph = value.graph
    if not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return
    if editor.protection is not None and value in editor.protection.values:
        return
    if isinstance(graph, oir.Graph) and value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]
    editor.model.facts.forget(value)
