"""A record of rewrites: what each replaced and what it put there, kept beside a copy of the model.

The copy grows: next to the original computation stand, for each rewrite, copies of the nodes that were replaced and
of those that replace them. Both read the same values, those of the original model or of an earlier replacement. So
one run of the grown model computes both sides of every rewrite on values that really occur, and a wrong rewrite does
not make those behind it look wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as oir

from graphopt.interop.clone import Cloner, clone
from graphopt.ir.bodies import reads
from graphopt.ir.dims import Shape
from graphopt.ir.draft import Change, Draft
from graphopt.ir.edit import Editor

__all__ = ["Recorder", "Seen", "Step", "reads"]

Copies = dict[oir.Value, oir.Value]

_INSIDE = "it reads what is computed inside a body"


@dataclass(frozen=True)
class Seen:
    """What a value was called and what was known of it when the rewrite was made.

    `dtype` is None where it is not known, or the value is no tensor.
    """

    name: str
    dtype: oir.DataType | None
    shape: Shape | None


@dataclass
class Step:
    """One rewrite; nodes and values are those of the grown copy.

    `at`: the node that the rewrite was made at; `matched`: the nodes that it was made from. `pairs`: values that must
    be equal, the replaced one first. `operands`: what the sides read. `skipped`: why there are no pairs, else None.
    `whole`: the model as a whole was replaced.
    """

    by: str
    at: str
    matched: tuple[str, ...]
    same_type: bool
    ordinal: int = 0
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    before: list[oir.Node] = field(default_factory=list)
    after: list[oir.Node] = field(default_factory=list)
    operands: list[oir.Value] = field(default_factory=list)
    pairs: list[tuple[oir.Value, oir.Value]] = field(default_factory=list)
    seen: dict[oir.Value, Seen] = field(default_factory=dict)
    skipped: str | None = None
    whole: bool = False


class _UnknownValueError(Exception):
    """A value that the record has no copy of."""


class Recorder:
    """Records the rewrites of an editor from its creation on; `model` is the grown copy."""

    def __init__(self, editor: Editor) -> None:
        self._source = editor.model
        self._start = editor.ordinal
        self._known: Copies = {}
        self.model = clone(editor.model.ir, self._known)
        self._taken = {v.name for v in self._known.values()}
        self._suffix: dict[str, int] = {}
        self._pending: tuple[Draft, Step, Copies] | None = None
        self.steps: list[Step] = []
        editor.preview(self._proposed)
        editor.listen(self._committed)

    def _proposed(self, draft: Draft) -> None:
        """Copy what is to be replaced while it is there; whether it will be is not certain yet."""
        step = Step(draft.by, draft.anchor.name or draft.anchor.op_type, _names(draft.sources), draft.same_type)
        old: Copies = {}
        readers = _readers(draft)
        if any(graph is not self._source.ir.graph for graph in (draft.graph, *(node.graph for node in readers))):
            step.skipped = "it is inside a body"
        else:
            wanted = [value for value, _ in draft.replaced] + [o for node in readers for o in node.outputs]
            try:
                old = self._copy(_makers(wanted, (*draft.sources, *readers)), step, step.before)
                for value in wanted:
                    self._found(value, old, step)
            except _UnknownValueError:
                step.skipped = _INSIDE
        self._pending = draft, step, old

    def _committed(self, change: Change) -> None:
        """Copy what is new, and note which values must be equal."""
        if change.ordinal <= self._start:
            return  # whoever begins a record when a rewrite is committed is told of it, too
        if change.whole:
            self._taken_over(change)
            return
        assert self._pending is not None
        (draft, step, old), self._pending = self._pending, None
        step.ordinal, step.removed, step.added = change.ordinal, change.removed, _names(change.added)
        self.steps.append(step)
        if draft.graph is not self._source.ir.graph:
            return
        readers = _readers(draft)
        wanted = [value for _, value in draft.replaced] + [o for node in readers for o in node.outputs]
        try:
            new = self._copy(_makers(wanted, (*change.added, *readers)), step, step.after)
            pairs = [*draft.replaced, *((o, o) for node in readers for o in node.outputs)]
            found = [(self._found(a, old, step), self._found(b, new, step)) for a, b in pairs if not step.skipped]
        except _UnknownValueError:
            step.skipped = step.skipped or _INSIDE
            return
        self._known.update((o, new[o]) for node in change.added for o in node.outputs if o in new)
        self.model.graph.extend(step.after)
        if step.skipped is None:
            self.model.graph.extend(step.before)
            step.pairs = found

    def _taken_over(self, change: Change) -> None:
        """Another graph has the place of the model's: all of it is what replaces the outputs of the original."""
        graph, own = self._source.ir.graph, self.model.graph
        added = _names(change.added)
        step = Step(change.by, change.at, (), True, change.ordinal, change.removed, added, whole=True)
        step.operands = list(own.outputs)
        step.seen = {v: Seen(str(v.name), v.dtype, None) for v in own.outputs}
        self.steps.append(step)
        inputs = {value.name: value for value in own.inputs}
        self._known = {value: inputs[value.name] for value in graph.inputs}
        new = self._copy(list(graph), step, step.after)
        own.extend(step.after)
        self._known.update(new)
        self.model.opset_imports.update(self._source.ir.opset_imports)
        self.model.functions.update(clone(self._source.ir).functions)
        step.pairs = [(a, self._found(b, new, step)) for a, b in zip(own.outputs, graph.outputs, strict=True)]

    def _found(self, value: oir.Value, made: Copies, step: Step) -> oir.Value:
        """The copy of a value that a side makes or, if it does not, reads."""
        return made[value] if value in made else self._operand(value, step)

    def _copy(self, nodes: Sequence[oir.Node], step: Step, into: list[oir.Node]) -> Copies:
        """Copy nodes, which stand in order, into `into`; the copies of their outputs."""
        made = {output for node in nodes for output in node.outputs}
        values: Copies = {}
        for node in nodes:
            for value in reads(node):
                if value not in made and value not in values:
                    values[value] = self._operand(value, step)
        cloner = Cloner(values)
        for node in nodes:
            copied = cloner.node(node)
            copied.metadata_props.clear()
            for value, output in zip(node.outputs, copied.outputs, strict=True):
                step.seen[output] = self._see(value)
                if value.name:  # an optional output without a name is not there
                    output.name = self._fresh(value.name)
            into.append(copied)
        return {value: values[value] for value in made}

    def _operand(self, value: oir.Value, step: Step) -> oir.Value:
        """The copy of something that a side reads; a constant that is new gets its copy now."""
        copied = self._known.get(value)
        if copied is None:
            if value.const_value is None or value.producer() is not None:
                raise _UnknownValueError
            copied = Cloner().value(value)
            copied.name = self._fresh(str(value.name))
            self.model.graph.initializers.add(copied)
            self._known[value] = copied
        if copied not in step.seen:
            step.operands.append(copied)
            step.seen[copied] = self._see(value)
        return copied

    def _see(self, value: oir.Value) -> Seen:
        facts = self._source.facts
        return Seen(str(value.name), facts.dtype(value), facts.shape(value))

    def _fresh(self, name: str) -> str:
        """`name`, or that with the first free number."""
        fresh, count = name, self._suffix.get(name, 0)
        while fresh in self._taken:
            count += 1
            fresh = f"{name}_{count}"
        self._suffix[name] = count
        self._taken.add(fresh)
        return fresh


def _makers(values: Sequence[oir.Value], allowed: Sequence[oir.Node]) -> list[oir.Node]:
    """The nodes that make `values`, and those among `allowed` that they are made from; in order."""
    mine = {*allowed, *(p for v in values if (p := v.producer()) is not None)}
    found: dict[oir.Node, None] = {}
    pending = [(v.producer(), False) for v in reversed(values)]
    while pending:
        node, ready = pending.pop()
        if node is None or node not in mine or node in found:
            continue
        if ready:
            found[node] = None
            continue
        pending.append((node, True))
        pending.extend((value.producer(), False) for value in reads(node))
    return list(found)


def _readers(draft: Draft) -> list[oir.Node]:
    return list(dict.fromkeys(node for node, _, _ in draft.inputs))


def _names(nodes: Sequence[oir.Node]) -> tuple[str, ...]:
    """Nodes without a name are called after what they make."""
    return tuple(n.name or f"{n.op_type} of {n.outputs[0].name!r}" for n in nodes)
