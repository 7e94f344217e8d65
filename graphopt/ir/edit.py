"""`Editor`: the only way to change a graph.

A change is a `Rewrite`: it is built beside the graph, checked, then committed as a whole or not at
all. Each commit gets the next ordinal of the run, and its nodes say who made them and from what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.commit import apply
from graphopt.ir.draft import Change, Decline, Draft, StopRewriting
from graphopt.ir.facts import Inconsistent
from graphopt.ir.model import Model
from graphopt.ir.ranks import Ranks
from graphopt.ir.value import Node, Value, bodies_of


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

    def constant(self, array: np.ndarray | oir.TensorProtocol, like: str = "constant") -> Value:
        """A new initializer that holds `array` (any shape; its dtype is kept), named after `like`."""
        tensor: oir.TensorProtocol
        if isinstance(array, np.ndarray):
            tensor = oir.Tensor(np.ascontiguousarray(array).reshape(array.shape))
        else:
            tensor = array
        value = oir.Value(name=self._editor.fresh_name(like), const_value=tensor)
        value.type = oir.TensorType(tensor.dtype)
        value.shape = oir.Shape(tensor.shape.numpy())
        self._draft.constants.append(value)
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
        assume: Value | None = None,
    ) -> tuple[Value, ...]:
        """A new node; returns its outputs, with types and shapes inferred.

        `assume`: for an operator without a schema, the value whose dtype and shape its output has.
        Raises `Decline` if the operator does not exist at the model's opset or refuses the inputs.
        """
        given = {k: v for k, v in (attrs or {}).items() if v is not None}
        operands = [None if v is None else v._raw for v in inputs]
        while operands and operands[-1] is None:
            operands.pop()  # an optional input at the end is left out by not being there
        raw = oir.node(op, operands, given, domain=domain, num_outputs=outputs)
        self._draft.nodes.append(raw)
        facts = self._model.facts
        types = None if assume is None else [(facts.dtype(assume._raw), facts.shape(assume._raw))]
        try:
            facts.infer(raw, graph=self._draft.graph, assume=types)
        except Inconsistent as reason:
            raise Decline(str(reason)) from None
        return tuple(Value(self._model, v) for v in raw.outputs)

    def replace(self, old: Value, new: Value) -> None:
        """Let everybody who reads `old` read `new`; what nobody reads any longer is removed."""
        self._draft.replaced.append((old._raw, new._raw))

    def set_input(self, node: Node, index: int, value: Value) -> None:
        """Let one input of one node read `value`."""
        self._draft.inputs.append((node._raw, index, value._raw))

    def commit(self) -> Change:
        """Check and apply. Raises `Decline`, and leaves the graph as it was, if the change cannot be made."""
        try:
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
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
            for output in node.outputs:
                facts.forget(output)
        for value in self._draft.constants:
            facts.forget(value)
        self._draft.nodes.clear()
        self._draft.constants.clear()


class Editor:
    """Changes a model's graphs and tells `on_commit` about each change.

    `stop_after`: the last ordinal that is allowed; the next rewrite raises `StopRewriting`.
    """

    def __init__(
        self,
        model: Model,
        *,
        stop_after: int | None = None,
        on_commit: Callable[[Change], None] | None = None,
    ) -> None:
        self.model = model
        self.ranks = Ranks()
        self.stop_after = stop_after
        self.ordinal = 0
        self._listeners: list[Callable[[Change], None]] = [] if on_commit is None else [on_commit]
        self._names = _all_names(model)
        self._suffix: dict[str, int] = {}

    def rewrite(
        self,
        by: str,
        *,
        at: Node,
        sources: Sequence[Node] = (),
        same_type: bool = True,
    ) -> Rewrite:
        """Begin a change at a node, in the name of a rule or pass (`by`, such as `"fuse.gelu_erf"`).

        `same_type=False` allows a replacement of another dtype or shape, which only a pass that
        adapts all readers itself may ask for.
        """
        if self.stop_after is not None and self.ordinal >= self.stop_after:
            raise StopRewriting
        graph = at._raw.graph
        assert isinstance(graph, oir.Graph), f"{at!r} is not part of a graph"
        nodes = tuple(n._raw for n in sources) or (at._raw,)
        return Rewrite(self, Draft(by, at._raw, graph, nodes, same_type))

    def remove_dead(self, by: str, nodes: Sequence[Node]) -> int:
        """Remove nodes whose outputs nobody reads, as one rewrite; the count of what went with them."""
        if not nodes:
            return 0
        rewrite = self.rewrite(by, at=nodes[0], sources=nodes)
        return len(rewrite.commit().removed)

    def drop_initializer(self, value: Value) -> None:
        """Remove an initializer that nobody reads; not a rewrite, for nothing is computed from it."""
        raw = value._raw
        if raw.uses() or raw.is_graph_output() or raw.is_graph_input():
            raise ValueError(f"{value!r} is still in use")
        graph = raw.graph
        if isinstance(graph, oir.Graph) and raw.name is not None and raw.name in graph.initializers:
            del graph.initializers[raw.name]
        self.model.facts.forget(raw)

    def drop_unused_functions(self) -> None:
        """Remove local functions that no node calls, directly or through another function."""
        functions = self.model.ir.functions
        called: set[tuple[str, str, str]] = set()
        pending = [self.model.ir.graph]
        while pending:
            graph = pending.pop()
            for node in graph:
                pending.extend(bodies_of(node))
                key = node.op_identifier()
                if key in functions and key not in called:
                    called.add(key)
                    pending.append(functions[key].graph)
        for key in [k for k in functions if k not in called]:
            self.model.dead_graphs.add(functions[key].graph)
            del functions[key]

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` after each commit; returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def committed(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)

    def next_ordinal(self) -> int:
        self.ordinal += 1
        return self.ordinal

    def fresh_name(self, like: str) -> str:
        """`like` itself if no value or node has that name yet, else with the first free number."""
        names = self._names
        if like and like not in names:
            names.add(like)
            return like
        count = self._suffix.get(like, 0)
        while True:
            count += 1
            name = f"{like}_{count}"
            if name not in names:
                break
        self._suffix[like] = count
        names.add(name)
        return name

def _all_names(model: Model) -> set[str]:
    """Names of all values and nodes, in every graph: a new name must not shadow one of an outer scope."""
    names: set[str] = set()
    for graph in model.raw_graphs():
        names.update(v.name for v in graph.inputs if v.name)
        names.update(graph.initializers)
        for node in graph:
            if node.name:
                names.add(node.name)
            names.update(o.name for o in node.outputs if o.name)
    return names


__all__ = ["Change", "Decline", "Editor", "Rewrite", "StopRewriting"]
