"""Copies of nodes with the bodies in them: what a change needs that moves or remakes control flow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as oir

from graphopt.ir.facts import Facts
from graphopt.ir.learn import Learner, more
from graphopt.ir.value import bodies_of

_GRAPH, _GRAPHS = oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS


def reads(node: oir.Node) -> Iterator[oir.Value]:
    """What a node reads: its inputs, and what its bodies take from around them."""
    yield from (value for value in node.inputs if value is not None)
    bodies = bodies_of(node)
    inner: set[object] = set()
    read: list[oir.Value] = []
    while bodies:
        body = bodies.pop()
        inner.add(body)
        read.extend(body.outputs)
        for child in body:
            read += [value for value in child.inputs if value is not None]
            bodies += bodies_of(child)
    yield from (value for value in read if value.graph not in inner)


def nodes_within(node: oir.Node) -> Iterator[oir.Node]:
    """All nodes in the bodies of a node, at any depth."""
    pending = bodies_of(node)
    while pending:
        for inner in pending.pop():
            yield inner
            pending.extend(bodies_of(inner))


class BodyCopier:
    """Copies nodes and bodies, in which some values take the place of others.

    `values`: what stands for a value; those that are copied are added. `name`: gives a copied value or node its
    name, from that of the original.
    """

    def __init__(self, facts: Facts, values: dict[oir.Value, oir.Value], name: Callable[[str], str]) -> None:
        self._facts = facts
        self._name = name
        self.values = values
        self._learner = Learner(facts)
        self._better = {new for old, new in values.items() if _says_more(facts, old, new)}  # than of the originals

    def node(self, node: oir.Node) -> oir.Node:
        """The node again, with new outputs; its bodies are copied."""
        attributes = [self._attribute(a) for a in node.attributes.values()]
        made = oir.Node(
            node.domain,
            node.op_type,
            [None if v is None else self.values.get(v, v) for v in node.inputs],
            attributes,
            overload=node.overload,
            outputs=[self.values[v] if v in self.values else self._define(v) for v in node.outputs],
            version=node.version,
            name=self._name(node.name) if node.name else None,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )
        if self._better and not self._better.isdisjoint(_decisive(made)):
            self._infer(made, node.graph)
        return made

    def _infer(self, made: oir.Node, graph: object) -> None:
        """Infer a copy that reads something of which more is known than of what the original reads."""
        if self._learner.infer(made, graph if isinstance(graph, oir.Graph) else None):
            self._better.update(made.outputs)

    def graph(
        self,
        graph: oir.Graph,
        inputs: Sequence[oir.Value] | None = None,
        outputs: Sequence[oir.Value] | None = None,
    ) -> oir.Graph:
        """The body again, with those of its inputs and outputs that are given, and only the nodes that these need."""
        given = list(graph.inputs if inputs is None else inputs)
        wanted = list(graph.outputs if outputs is None else outputs)
        nodes = _needed(graph, wanted, self.values)
        read = {v for node in nodes for v in reads(node)} | set(wanted)
        initializers = [v for v in graph.initializers.values() if v in read and v not in self.values]
        own = [self._define(v) for v in dict.fromkeys((*given, *initializers))]
        own += [self._define(o) for node in nodes for o in node.outputs]
        made = [self.node(node) for node in nodes]
        ends, inner = [self.values.get(v, v) for v in wanted], set(own)
        for i, end in enumerate(ends):
            if end not in inner:  # a body gives what it computes, and not what is around it
                made.append(self._identity(end))
                ends[i] = made[-1].outputs[0]
        body = oir.Graph(
            [self.values[v] for v in given],
            ends,
            nodes=made,
            initializers=[self.values[v] for v in initializers],
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props),
        )
        self._facts.register(body, self._facts.imports(graph))
        return body

    def _define(self, value: oir.Value) -> oir.Value:
        made = self.values[value] = oir.Value(
            name=self._name(value.name) if value.name else value.name,
            type=copy.deepcopy(value.type),
            shape=None if value.shape is None else value.shape.copy(),
            doc_string=value.doc_string,
            const_value=value.const_value,
            metadata_props=dict(value.metadata_props) if value.metadata_props else None,
        )
        made.meta.update(value.meta)
        self._facts.copy(value, made)
        if self._facts.const(value) is not None:
            self._facts.add_constant(made)
        return made

    def _identity(self, value: oir.Value) -> oir.Node:
        node = oir.node("Identity", [value])
        output = node.outputs[0]
        output.name = self._name(value.name or "value")
        output.type, output.shape = copy.deepcopy(value.type), None if value.shape is None else value.shape.copy()
        self._facts.copy(value, output)
        return node

    def _attribute(self, attribute: oir.Attr) -> oir.Attr:
        if attribute.is_ref() or attribute.type not in (_GRAPH, _GRAPHS):
            return attribute
        content = (
            self.graph(attribute.as_graph())
            if attribute.type == _GRAPH
            else [self.graph(g) for g in attribute.as_graphs()]
        )
        return oir.Attr(attribute.name, attribute.type, content, doc_string=attribute.doc_string)


def _says_more(facts: Facts, old: oir.Value, new: oir.Value) -> bool:
    """Whether more is known of the value that is read now."""
    return more(facts.fact(old), facts.fact(new)) is not None or (
        facts.const(old) is None and facts.const(new) is not None
    )


def _decisive(node: oir.Node) -> Iterator[oir.Value]:
    """What the types of a node's outputs depend on: its inputs, and what its bodies give."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies_of(node):
        yield from body.outputs


def _needed(
    graph: oir.Graph, wanted: Sequence[oir.Value], values: Mapping[oir.Value, oir.Value]
) -> list[oir.Node]:
    """The nodes of a graph, in order, without which `wanted` cannot be computed; what is in `values` is there."""
    found: set[oir.Node] = set()
    pending = [v for v in wanted if v not in values]
    while pending:
        node = pending.pop().producer()
        if node is None or node in found or node.graph is not graph:
            continue
        found.add(node)
        pending.extend(v for v in reads(node) if v not in values)
    return [node for node in graph if node in found]
