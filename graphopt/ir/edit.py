"""`Editor`: the only way to change a graph.

A change is a `Rewrite`: it is built beside the graph, checked, then committed as a whole or not at
all. Each commit gets the next ordinal of the run, and its nodes say who made them and from what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as oir

from graphopt.ir.draft import Change, Decline, Draft, StopRewriting
from graphopt.ir.model import Model
from graphopt.ir.protect import Protection
from graphopt.ir.ranks import Ranks
from graphopt.ir.rewrite import Rewrite
from graphopt.ir.takeover import take_over
from graphopt.ir.value import Node, Value, bodies_of


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

    def for_copy(self, model: Model) -> Editor:
        """An editor of a copy of the model: what is protected or ignored here is so there, and nobody listens."""
        kept = self.protection
        return Editor(model, protection=None if kept is None else kept.of_copy(model), ignored=self._ignored)

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
        return self.begin(by, at._raw, tuple([n._raw for n in sources]) or (at._raw,), same_type=same_type)

    def begin(self, by: str, at: oir.Node, sources: Sequence[oir.Node], *, same_type: bool = True) -> Rewrite:
        """`rewrite`, of nodes as `onnx_ir` has them."""
        if self.stop_after is not None and self.ordinal >= self.stop_after:
            raise StopRewriting
        graph = at.graph
        assert type(graph) is oir.Graph, f"{at!r} is not part of a graph"
        self.begun = Draft(by, at, graph, sources, same_type)
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

    def name_apart(self) -> None:
        """Give each computed value in a body a name that no other value of the model has; not a rewrite.

        Two branches may use the same names, and so may a body and what it does not see.
        """
        taken: set[str] = set()
        for graph in self.model.raw_graphs():
            values = [v for v in graph.inputs if not v.is_initializer()]
            values += [o for node in graph for o in node.outputs]
            body = self.model.holders[graph] is not None
            for value in values:
                kept = self.protection is not None and value in self.protection.values
                if value.name and value.name in taken and body and not kept:
                    value.name = self.fresh_name(value.name)
                if value.name:
                    taken.add(value.name)
            taken.update(graph.initializers)

    def drop_unread(self, values: Iterable[Value]) -> None:
        """Remove those of `values` that are initializers which nobody reads, and that are no inputs of the model."""
        for value in values:
            if value.is_initializer and not value.use_count and not value.is_input:
                self.drop_initializer(value)

    def drop_unused_functions(self) -> None:
        """Remove local functions that no node calls, directly or through another function."""
        functions = self.model.ir.functions
        if not functions:
            return
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
