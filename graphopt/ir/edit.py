"""`Editor`: the only way to change a graph.

A change is a `Rewrite`: it is built beside the graph, checked, then committed as a whole or not at
all. Each commit gets the next ordinal of the run, and its nodes say who made them and from what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.commit import apply
from graphopt.ir.draft import Change, Decline, Draft, StopRewriting
from graphopt.ir.facts import Inconsistent
from graphopt.ir.model import Model
from graphopt.ir.protect import Protection
from graphopt.ir.ranks import Ranks
from graphopt.ir.takeover import take_over
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
        assume: Value | Sequence[Value | None] | None = None,
    ) -> tuple[Value, ...]:
        """A new node; returns its outputs, with types and shapes inferred.

        `assume`: for an operator without a schema, the value whose dtype and shape its output has, or one for each
        of its outputs.
        Raises `Decline` if the operator does not exist at the model's opset or refuses the inputs.
        """
        given = {k: v for k, v in (attrs or {}).items() if v is not None}
        operands = [None if v is None else v._raw for v in inputs]
        while operands and operands[-1] is None:
            operands.pop()  # an optional input at the end is left out by not being there
        raw = oir.node(op, operands, given, domain=domain, num_outputs=outputs)
        self._draft.nodes.append(raw)
        facts = self._model.facts
        alike = [assume] if isinstance(assume, Value) else assume
        types = None if alike is None else [
            (None, None) if v is None else (facts.dtype(v._raw), facts.shape(v._raw)) for v in alike
        ]
        try:
            facts.infer(raw, graph=self._draft.graph, assume=types)
        except Inconsistent as reason:
            raise Decline(str(reason)) from None
        return tuple(Value(self._model, v) for v in raw.outputs)

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

    `stop_after`: the last ordinal that is allowed; the next rewrite raises `StopRewriting`. `protection`: what no
    rewrite may touch, `ignored`: whether the rewrites of a name shall not be made; both are declined at the commit.
    `begun`: the latest rewrite that was begun, be it committed or not.
    """

    def __init__(
        self,
        model: Model,
        *,
        stop_after: int | None = None,
        on_commit: Callable[[Change], None] | None = None,
        protection: Protection | None = None,
        ignored: Callable[[str], bool] | None = None,
    ) -> None:
        self.model = model
        self.stop_after = stop_after
        self.protection = protection
        self._ignored = ignored
        self.ordinal = 0
        self.begun: Draft | None = None
        self._listeners: list[Callable[[Change], None]] = [] if on_commit is None else [on_commit]
        self._previewers: list[Callable[[Draft], None]] = []
        self.ranks: Ranks
        self._names: set[str]
        self._suffix: dict[str, int]
        self.reset()

    def reset(self) -> None:
        """Forget the order and the names of the nodes, because the model has another graph."""
        self.ranks = Ranks()
        self._names = _all_names(self.model)
        self._suffix = {}

    def ignores(self, by: str) -> bool:
        """Whether the user does not want rewrites of this name. They are declined; asking first saves the work."""
        return self._ignored is not None and self._ignored(by)

    def protects(self, item: Node | Value) -> bool:
        """Whether a node may not be removed or replaced, or a value not be replaced."""
        if self.protection is None:
            return False
        return item._raw in (self.protection.pinned if isinstance(item, Node) else self.protection.values)

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
        self.begun = Draft(by, at._raw, graph, nodes, same_type)
        return Rewrite(self, self.begun)

    def replace_all(self, by: str, make: Callable[[oir.Model], oir.Model]) -> Change | None:
        """Put what `make` makes of the model in its place, as one rewrite; None if that is the same model.

        `make` gets the model itself, which it must not change, and returns another that shares nothing with it but
        tensors; it is not called once `stop_after` is reached. Raises `Decline`, and leaves the model as it was, if
        inputs or outputs would change in name, order, type or rank, or if a size that was open would be fixed.
        """
        if self.stop_after is not None and self.ordinal >= self.stop_after:
            raise StopRewriting
        self.check_wanted(by)
        change = take_over(self, make(self.model.ir), by)
        if change is not None:
            self.committed(change)
        return change

    def remove_dead(self, by: str, nodes: Sequence[Node]) -> int:
        """Remove nodes whose outputs nobody reads, as one rewrite; the count of what went with them.

        Those that are protected stay, and all of them if `by` is ignored.
        """
        nodes = [] if self.ignores(by) else [n for n in nodes if not self.protects(n)]
        if not nodes:
            return 0
        rewrite = self.rewrite(by, at=nodes[0], sources=nodes)
        return len(rewrite.commit().removed)

    def drop_initializer(self, value: Value) -> None:
        """Remove an initializer that nobody reads; not a rewrite, for nothing is computed from it.

        One that is protected stays.
        """
        if self.protects(value):
            return
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
        kept = self.protection
        for key in [k for k in functions if k not in called]:
            if kept is not None and kept.keeps_graph(functions[key].graph):
                continue
            self.model.dead_graphs.add(functions[key].graph)
            del functions[key]

    def check_wanted(self, by: str) -> None:
        """Raise `Decline` if rewrites of this name are ignored."""
        if self.ignores(by):
            raise Decline("it is ignored")

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` after each commit; returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def preview(self, previewer: Callable[[Draft], None]) -> None:
        """Call `previewer` with each change before it is made; it may still be declined."""
        self._previewers.append(previewer)

    def proposed(self, draft: Draft) -> None:
        for previewer in self._previewers:
            previewer(draft)

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
