"""`Rewrite`: one change to a graph while it is built, beside the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.bodies import BodyCopier
from graphopt.ir.commit import apply, detach
from graphopt.ir.draft import Change, Decline, Draft
from graphopt.ir.facts import Inconsistent
from graphopt.ir.learn import more
from graphopt.ir.schemas import lookup
from graphopt.ir.value import Graph, Node, Value, bodies_of

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor


class Rewrite:
    """One change under construction; made by `Editor.rewrite`, committed when its `with` block ends."""

    def __init__(self, editor: Editor, draft: Draft) -> None:
        self._editor = editor
        self._model = editor.model
        self._draft = draft

    def __enter__(self) -> Rewrite:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def constant(
        self, array: np.ndarray | oir.TensorProtocol, like: str = "constant", *, graph: Graph | None = None
    ) -> Value:
        """A new initializer that holds `array` (any shape; its dtype is kept), named after `like`.

        `graph`: the one that gets it, around that which is rewritten; by default that itself.
        """
        tensor: oir.TensorProtocol
        if isinstance(array, np.ndarray):
            tensor = oir.Tensor(np.ascontiguousarray(array).reshape(array.shape))
        else:
            tensor = array
        value = oir.Value(name=self._editor.fresh_name(like), const_value=tensor)
        value.type = oir.TensorType(tensor.dtype)
        value.shape = oir.Shape(tensor.shape.numpy())
        self._draft.constants.append(value)
        if graph is not None:
            self._draft.homes[value] = graph._raw
        self._model.facts.add_constant(value)
        return Value(self._model, value)

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
        assume: Value | Sequence[Value | None] | None = None,
    ) -> tuple[Value, ...]:
        """A new node; returns its outputs, with types and shapes inferred.

        `assume`: for an operator without a schema, the value whose dtype and shape its output has, or one for each
        of its outputs.
        Raises `Decline` if the operator does not exist at the model's opset or refuses the inputs.
        """
        given = {k: _attribute(k, v) for k, v in (attrs or {}).items() if v is not None}
        operands = [None if v is None else v._raw for v in inputs]
        facts = self._model.facts
        schema = lookup(domain, op, facts.opset(domain, self._draft.graph) or 1)
        least = 0 if schema is None else schema.min_input
        while len(operands) > least and operands[-1] is None:
            operands.pop()  # an optional input at the end is left out by not being there
        raw = oir.node(op, operands, given, domain=domain, num_outputs=outputs)
        self._draft.nodes.append(raw)
        alike = [assume] if isinstance(assume, Value) else assume
        types = None if alike is None else [
            (None, None) if v is None else (facts.dtype(v._raw), facts.shape(v._raw)) for v in alike
        ]
        try:
            facts.infer(raw, graph=self._draft.graph, assume=types)
        except Inconsistent as reason:
            raise Decline(str(reason)) from None
        return tuple(Value(self._model, v) for v in raw.outputs)

    def copy(self, node: Node, values: Mapping[Value, Value]) -> tuple[Value, ...]:
        """The outputs of a node again, that reads what stands in `values` for what it read, in its bodies too.

        A Constant becomes an initializer. Raises `Decline` as `node` does.
        """
        tensor = node.outputs[0].tensor if node.op == "Constant" else None
        if tensor is not None:
            return (self.constant(tensor, node.outputs[0].name),)
        if not bodies_of(node._raw):
            inputs = [None if v is None else values.get(v, v) for v in node.inputs]
            count = max(i + 1 for i, o in enumerate(node.outputs) if i == 0 or o.name or o.use_count)
            alike = node.outputs[:count]
            return self.node(node.op, inputs, node.attrs, domain=node.domain, outputs=count, assume=alike)
        raw = self._copier(values, self._editor.fresh_name).node(node._raw)
        self._draft.nodes.append(raw)
        return tuple(Value(self._model, v) for v in raw.outputs)

    def inline(self, graph: Graph, values: Mapping[Value, Value]) -> tuple[Value, ...]:
        """What a body gives, computed in place: `values` has what stands for its inputs.

        Its initializers become those of the graph that is rewritten, unless `values` has them already. Raises
        `Decline` as `node` does.
        """
        made = dict(values)
        made.update((v, self.constant(v.tensor, v.name)) for v in graph.initializers if v not in made)
        for node in graph.nodes:
            made.update(zip(node.outputs, self.copy(node, made), strict=False))
        return tuple(made.get(v, v) for v in graph.outputs)

    def body(
        self,
        graph: Graph,
        values: Mapping[Value, Value],
        *,
        inputs: Sequence[Value] | None = None,
        outputs: Sequence[Value] | None = None,
    ) -> Graph:
        """A body for a new node, in place of `graph`, the body of one that goes: the attribute to give to `node`.

        `values`: what is read instead of something. `inputs`, `outputs`: those that are kept; None for all. What
        the outputs do not need is left out.
        """
        copier = self._copier(values, lambda name: name)
        given, wanted = ([v._raw for v in ports] for ports in (inputs or (), outputs or ()))
        raw = copier.graph(graph._raw, None if inputs is None else given, None if outputs is None else wanted)
        return Graph(self._model, raw)

    def _copier(self, values: Mapping[Value, Value], name: Callable[[str], str]) -> BodyCopier:
        return BodyCopier(self._model.facts, {old._raw: new._raw for old, new in values.items()}, name)

    def adopt(
        self,
        nodes: Sequence[oir.Node],
        constants: Sequence[oir.Value] = (),
        *,
        assume: Mapping[oir.Value, Value] | None = None,
    ) -> None:
        """Take nodes, in topological order, and initializers that another library made; all get names of their own.

        `assume`: for outputs of operators without a schema, the values whose dtype and shape they have.
        Raises `Decline` as `node` does.
        """
        facts = self._model.facts
        for value in constants:
            value.name = self._editor.fresh_name(value.name or "constant")
            tensor = value.const_value
            if tensor is None:
                raise Decline("a new initializer has no content")
            value.type, value.shape = oir.TensorType(tensor.dtype), oir.Shape(tensor.shape.numpy())
            self._draft.constants.append(value)
            facts.add_constant(value)
        self._draft.nodes.extend(nodes)
        for raw in nodes:
            raw.name = None
            types = [None if assume is None or v not in assume else assume[v]._raw for v in raw.outputs]
            try:
                facts.infer(
                    raw,
                    graph=self._draft.graph,
                    assume=[(None, None) if v is None else (facts.dtype(v), facts.shape(v)) for v in types],
                )
            except Inconsistent as reason:
                raise Decline(str(reason)) from None
            for output in raw.outputs:
                output.name = None

    def keep_type(self, old: Value, new: Value) -> None:
        """Take for granted of a new value what is known of the type of an old one, to which it is equal."""
        facts = self._model.facts
        known = facts.fact(old._raw)
        facts.set(new._raw, more(known, facts.fact(new._raw)) or known)

    def replace(self, old: Value, new: Value) -> None:
        """Let everybody who reads `old` read `new`; what nobody reads any longer is removed."""
        self._draft.replaced.append((old._raw, new._raw))

    def set_input(self, node: Node, index: int, value: Value) -> None:
        """Let one input of one node read `value`."""
        self._draft.inputs.append((node._raw, index, value._raw))

    def commit(self) -> Change:
        """Check and apply. Raises `Decline`, and leaves the graph as it was, if the change cannot be made."""
        try:
            self._editor.check_wanted(self._draft.by)
            self._editor.proposed(self._draft)
            change = apply(self._editor, self._draft)
        except BaseException:
            self.rollback()
            raise
        self._editor.committed(change)
        return change

    def rollback(self) -> None:
        """Forget the change; nothing of it was visible in the graph."""
        facts = self._model.facts
        for node in self._draft.nodes:
            for gone in detach(node):
                for output in gone.outputs:
                    facts.forget(output)
        for value in self._draft.constants:
            facts.forget(value)
        self._draft.nodes.clear()
        self._draft.constants.clear()


def _attribute(name: str, value: Any) -> Any:
    """An attribute as onnx_ir takes it; for lists of integers it would look long for what they are."""
    if isinstance(value, Graph):
        return value._raw
    if type(value) in (list, tuple) and value and all(type(i) is int for i in value):
        return oir.AttrInt64s(name, value)
    return value
