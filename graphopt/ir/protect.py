"""Protection: nodes and values that no rewrite may touch.

A protected node stays as it is written in the file: its operator, its attributes, the names of what it reads and of
what it computes, and the bodies in it. A protected value keeps its name and its content. Neither may lose its last
reader to a rewrite, for then it would be there in name only. What is protected is decided on the model as it was given.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.errors import UsageError
from graphopt.ir.draft import Decline, Draft
from graphopt.ir.value import bodies_of, count_uses

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model

_OPERATOR = "op:"
_SOME = 4  # names to show where none is near


class Protection:
    """What of a model is protected, and by which pattern; made by `protect`.

    `nodes` and `values` may not change. `pinned` are the nodes that may not go: the protected ones, those that
    compute a protected value, and those in whose bodies something protected stands.
    """

    def __init__(self, model: Model) -> None:
        self.nodes: dict[oir.Node, str] = {}
        self.values: dict[oir.Value, str] = {}
        self.pinned: dict[oir.Node, str] = {}
        self._graphs: set[oir.Graph] = set()
        self._model = model

    def add_node(self, node: oir.Node, pattern: str) -> None:
        """Protect a node with its outputs and the bodies in it."""
        pending = [node]
        while pending:
            item = pending.pop()
            self.nodes.setdefault(item, pattern)
            self._pin(item, pattern)
            for output in item.outputs:
                self.values.setdefault(output, pattern)
            for body in bodies_of(item):
                pending.extend(body)
                for value in body.initializers.values():
                    self.values.setdefault(value, pattern)

    def add_value(self, value: oir.Value, pattern: str) -> None:
        """Protect a value, and what computes it from going."""
        self.values.setdefault(value, pattern)
        producer, graph = value.producer(), value.graph
        if producer is not None:
            self._pin(producer, pattern)
        elif isinstance(graph, oir.Graph):
            self._pin_holders(graph, pattern)

    def _pin(self, node: oir.Node, pattern: str) -> None:
        self.pinned.setdefault(node, pattern)
        graph = node.graph
        if isinstance(graph, oir.Graph):
            self._pin_holders(graph, pattern)

    def _pin_holders(self, graph: oir.Graph, pattern: str) -> None:
        self._graphs.add(graph)
        holder = self._model.holders.get(graph)
        if holder is not None:
            self._pin(holder, pattern)

    def keeps_graph(self, graph: oir.Graph) -> bool:
        """Whether something in a graph is protected, so that the graph must stay."""
        return graph in self._graphs

    def check(self, editor: Editor, draft: Draft, renames: Sequence[tuple[oir.Value, oir.Value]]) -> None:
        """Raise `Decline` if a change would touch what is protected. `renames`: (old, new), where new takes the name.

        What nobody reads may go at any time; `Editor.remove_dead` leaves out what is pinned.
        """
        renamed = set(renames)
        for old, new in draft.replaced:
            self._refuse(self.values.get(old))
            producer = old.producer()
            if producer is not None:
                self._refuse(self.pinned.get(producer))
            alike = (old, new) in renamed and editor.model.facts.dtype(old) == editor.model.facts.dtype(new)
            if not alike:
                self._refuse_readers(old, draft)
        mine = set(draft.nodes)
        for _, new in renames:
            producer = new.producer()
            if producer in mine or new in draft.constants:
                continue
            self._refuse(self.values.get(new))
            self._refuse_readers(new, draft)
        for node, _, _ in draft.inputs:
            self._refuse(self.nodes.get(node))
        if draft.replaced or draft.inputs:
            self._check_losses(_Outlook(editor, draft))

    def _refuse_readers(self, value: oir.Value, draft: Draft) -> None:
        """Nobody who is protected may find another name where it reads `value`."""
        for use in value.uses():
            if use.node not in draft.nodes:
                self._refuse(self.nodes.get(use.node))

    def _check_losses(self, outlook: _Outlook) -> None:
        for node in outlook.dead:
            self._refuse(self.pinned.get(node))
        for value in outlook.poorer:
            if value in self.values and not outlook.is_read(value):
                self._refuse(self.values[value])

    def _refuse(self, pattern: str | None) -> None:
        if pattern is not None:
            raise Decline(f"{pattern!r} is protected")

    def check_whole(self, new: oir.Graph, removed: Iterable[oir.Node]) -> None:
        """Raise `Decline` if a graph that is to take the place of the main one lacks what is protected.

        `removed`: the nodes that the model would not have any more. Equal weights must be the same tensors already.
        """
        for node in removed:
            self._refuse(self.pinned.get(node))
        for value, pattern in self.values.items():
            if value.is_initializer() and value.graph is self._model.ir.graph:
                other = new.initializers.get(value.name or "")
                if other is None or other.const_value is not value.const_value:
                    self._refuse(pattern)

    def of_copy(self, model: Model) -> Protection:
        """The same protection, by the names of values, of what is a copy of the model."""
        twin = Protection(model)
        twin.nodes, twin.values = dict(self.nodes), dict(self.values)
        twin.moved()
        return twin

    def moved(self) -> None:
        """Find what is protected in the graph that took the place of the old one; by the names of values."""
        old_nodes = {tuple(o.name for o in node.outputs): pattern for node, pattern in self.nodes.items()}
        old_values = {value.name: pattern for value, pattern in self.values.items()}
        self.nodes, self.values, self.pinned, self._graphs = {}, {}, {}, set()
        for graph in self._model.raw_graphs():
            for value in _values(graph):
                if value.name in old_values:
                    self.add_value(value, old_values[value.name])
            for node in graph:
                pattern = old_nodes.get(tuple(o.name for o in node.outputs))
                if pattern is not None:
                    self.add_node(node, pattern)


class _Outlook:
    """What a change would leave without a reader, worked out before anything is touched.

    `dead`: nodes that would be removed; `poorer`: values that would lose a reader.
    """

    def __init__(self, editor: Editor, draft: Draft) -> None:
        self._model = editor.model
        self._uses: dict[oir.Value, int] = {}
        self._outputs: dict[oir.Value, bool] = {}
        self.dead: dict[oir.Node, None] = {}
        self.poorer: dict[oir.Value, None] = {}
        mine = set(draft.nodes)
        now: dict[oir.Value, oir.Value] = {}
        for old, new in draft.replaced:
            moving = self._count(old) - sum(use.node in mine for use in old.uses())
            self._take(old, moving)
            self._uses[new] = self._count(new) + moving
            if old.is_graph_output():
                self._outputs[old], self._outputs[new] = False, True
            now[old] = new
        for node, index, value in draft.inputs:
            previous = node.inputs[index]
            if previous is not None:
                self._take(now.get(previous, previous), 1)
            self._uses[value] = self._count(value) + 1
        self._sweep([v.producer() for v in self.poorer] + list(draft.sources))

    def is_read(self, value: oir.Value) -> bool:
        return self._count(value) > 0 or self._outputs.get(value, value.is_graph_output())

    def _count(self, value: oir.Value) -> int:
        return self._uses.get(value, count_uses(value))

    def _take(self, value: oir.Value, count: int) -> None:
        if count > 0:
            self._uses[value] = self._count(value) - count
            self.poorer[value] = None

    def _sweep(self, pending: list[oir.Node | None]) -> None:
        while pending:
            node = pending.pop()
            if node is None or node in self.dead or not self._model.is_alive(node):
                continue
            if any(self.is_read(output) for output in node.outputs):
                continue
            inner = [node]
            while inner:
                item = inner.pop()
                self.dead[item] = None
                for value in item.inputs:
                    if value is not None:
                        self._take(value, 1)
                        pending.append(value.producer())
                inner.extend(itertools.chain.from_iterable(bodies_of(item)))


def protect(model: Model, patterns: Sequence[str]) -> Protection | None:
    """Protect what the patterns name; None without patterns.

    A pattern is the name of a node or value, `*`, `?` and `[…]` standing for what they do in a shell, or `op:` and an
    operator with its domain (`op:Softmax`, `op:com.microsoft.*`). Raises `UsageError` with the nearest name for a
    pattern that names nothing.
    """
    if not patterns:
        return None
    found = Protection(model)
    nodes = [node for graph in model.raw_graphs() for node in graph]
    values = list(dict.fromkeys(v for graph in model.raw_graphs() for v in _values(graph) if v.name))
    for pattern in patterns:
        by_operator = pattern.startswith(_OPERATOR)
        matches = _matcher(pattern.removeprefix(_OPERATOR) if by_operator else pattern)
        chosen = [n for n in nodes if matches(_operator(n) if by_operator else n.name or "")]
        named = [] if by_operator else [v for v in values if matches(v.name or "")]
        if not chosen and not named:
            known = {_OPERATOR + _operator(n) for n in nodes} if by_operator else _known(nodes, values)
            what = f"there is nothing to protect that is called {pattern!r}"
            raise UsageError(what, hint=_nearest(pattern, sorted(known)))
        for node in chosen:
            found.add_node(node, pattern)
        for value in named:
            found.add_value(value, pattern)
    return found


def _matcher(pattern: str) -> Callable[[str], bool]:
    return lambda name: bool(name) and (name == pattern or fnmatchcase(name, pattern))


def _operator(node: oir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _values(graph: oir.Graph) -> Iterator[oir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _known(nodes: Iterable[oir.Node], values: Iterable[oir.Value]) -> set[str]:
    """All names, and for those that are paths the folders in them, as patterns."""
    names = {n.name for n in nodes if n.name} | {v.name for v in values if v.name}
    folders = {name[: i + 1] + "*" for name in names for i, letter in enumerate(name) if letter == "/" and i}
    return names | folders


def _nearest(pattern: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there is, for example, {', '.join(map(repr, known[:_SOME]))}"
