"""The driver: one sweep over all nodes, then exactly those that a rewrite may have made matchable.

After a commit, a new match can only be rooted at a new node, at a node that reads a changed value
within the depth of the deepest pattern, or at one whose producer lost a reader. Those are pushed,
nothing else, so the work is linear in the nodes and the rewrites, and there is no rescan.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as oir

from graphopt.engine.index import Entry, RuleIndex
from graphopt.errors import RuleError
from graphopt.ir.draft import Change, Decline
from graphopt.ir.edit import Editor
from graphopt.ir.value import count_uses
from graphopt.rules.apply import apply
from graphopt.rules.rule import Rule

_BUDGET_PER_NODE = 8  # rewrites; a run that needs more is taken for a loop
_MAX_LINEAGE = 64  # rewrites that one node may descend from
_CYCLE_SHOWN = 12


@dataclass
class RuleStats:
    """Of one run: how often each rule was tried and fired, and why it declined."""

    tried: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    declined: dict[str, Counter[str]] = field(default_factory=dict)

    def decline(self, name: str, reason: str) -> None:
        self.declined.setdefault(name, Counter())[reason] += 1


class Driver:
    """Applies rules to all graphs of a model until none matches.

    `rules` come with the names that the journal shows. `domains`: operator domains that replacements
    may use; None for all.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, Rule[Any]]],
        editor: Editor,
        *,
        domains: frozenset[str] | None = None,
        stats: RuleStats | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        self._editor = editor
        self._model = editor.model
        self._facts = editor.model.facts
        self._domains = domains
        self._index = RuleIndex(rules, self._model)
        self._queue: deque[oir.Node] = deque()
        self._queued: set[oir.Node] = set()
        self._lineage: dict[oir.Node, tuple[int, tuple[str, ...]]] = {}
        self._tick = tick
        self.stats = stats or RuleStats()

    def run(self, since: Sequence[Change] | None = None) -> int:
        """Sweep, then drain the worklist; the number of rewrites made.

        `since`: what changed since the same rules were last done with this model. Only what that may have made
        matchable is visited then, and not every node.
        """
        if not len(self._index):
            return 0
        if since is None:
            self._queue.extend(self._roots())
            self._queued.update(self._queue)
        else:
            for change in reversed(since):
                self._push(change)
        budget = _BUDGET_PER_NODE * self._model.node_count + 64
        count = visited = 0
        while self._queue:
            node = self._queue.popleft()
            self._queued.discard(node)
            visited += 1
            if self._tick is not None and visited % 2048 == 0:
                self._tick(visited)
            if not self._model.is_alive(node):
                continue
            if self._visit(node):
                count += 1
                if count > budget:
                    raise RuleError(f"rewriting did not end after {count} rewrites", hint=self._cycle(node))
        return count

    def _roots(self) -> Iterator[oir.Node]:
        for graph in self._model.raw_graphs():
            for node in graph:
                if (node.domain, node.op_type) in self._index:
                    yield node

    def _visit(self, node: oir.Node) -> bool:
        """Try the rules rooted at a node; whether one was applied."""
        entries = self._index.get((node.domain, node.op_type))
        children: set[str] | None = None
        for entry in entries:
            if entry.pattern.children:
                if children is None:
                    children = _children(node)
                if not all(not names.isdisjoint(children) for names in entry.pattern.children):
                    continue
            for output in node.outputs:
                change = self._try(entry, node, output)
                if change is not None:
                    self._push(change)
                    return True
        return False

    def _try(self, entry: Entry, node: oir.Node, output: oir.Value) -> Change | None:
        lineage = self._lineage.get(node)
        if entry.rule.once and lineage is not None and entry.name in lineage[1]:
            return None
        self.stats.tried[entry.name] += 1
        match = entry.pattern.match(self._facts, output)
        if match is None:
            return None
        depth, history = self._ancestry(match.nodes)
        if entry.rule.once and entry.name in history:
            return None
        try:
            change = apply(entry.rule, match, self._editor, entry.name, self._domains)
        except Decline as declined:
            self.stats.decline(entry.name, declined.reason)
            return None
        self.stats.fired[entry.name] += 1
        history = (*history, entry.name)
        for new in change.added:
            self._lineage[new] = (depth + 1, history)
        if depth >= _MAX_LINEAGE:
            raise RuleError(f"rules rewrite each other's results at {change.at!r}", hint=self._cycle_text(history))
        return change

    def _ancestry(self, nodes: Sequence[oir.Node]) -> tuple[int, tuple[str, ...]]:
        """The longest chain of rewrites that one of the nodes descends from."""
        known = [self._lineage[n] for n in nodes if n in self._lineage]
        return max(known, default=(0, ()))

    def _push(self, change: Change) -> None:
        """Queue what may match now, in program order, ahead of what waits."""
        touched: dict[oir.Node, None] = dict.fromkeys((*change.added, *change.moved))
        for node in change.freed:
            # What lost a reader can become interior to a match only once all its readers fit in one pattern.
            if sum(count_uses(o) for o in node.outputs) <= self._index.operands:
                touched[node] = None
        if self._index.several_outputs:
            for node in tuple(touched):
                touched.update(dict.fromkeys(_siblings(node, self._index.operands)))
        frontier = list(touched)
        for _ in range(self._index.depth - 1):
            frontier = [
                use.node for node in frontier for o in node.outputs for use in o.uses() if use.node not in touched
            ]
            touched.update(dict.fromkeys(frontier))
        for node in reversed(touched):
            if node not in self._queued and (node.domain, node.op_type) in self._index:
                self._queue.appendleft(node)
                self._queued.add(node)

    def _cycle(self, node: oir.Node) -> str:
        return self._cycle_text(self._lineage.get(node, (0, ()))[1])

    def _cycle_text(self, history: tuple[str, ...]) -> str:
        return "the last rewrites there: " + " → ".join(history[-_CYCLE_SHOWN:])


def _siblings(node: oir.Node, most: int) -> list[oir.Node]:
    """Nodes that read what `node` reads: another of them may be the root of a pattern with several outputs."""
    return [
        use.node
        for value in node.inputs
        if value is not None and count_uses(value) <= most
        for use in value.uses()
    ]


def _children(node: oir.Node) -> set[str]:
    found: set[str] = set()
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            found.add(producer.op_type)
    return found
