"""The driver: one sweep over all nodes, then exactly those that a rewrite may have made matchable.

After a commit, a new match can only be rooted at a new node, at a node that reads a changed value
within the depth of the deepest pattern, or at one whose producer lost a reader. Those are pushed,
nothing else, so the work is linear in the nodes and the rewrites, and there is no rescan.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as oir

from graphopt.engine.index import Entry, RuleIndex
from graphopt.errors import RuleError
from graphopt.ir.draft import Change, Decline
from graphopt.ir.edit import Editor
from graphopt.ir.value import count_uses, nodes_of
from graphopt.rules.apply import ReplacementError, apply
from graphopt.rules.match import Match
from graphopt.rules.rule import Rule

_BUDGET_PER_NODE = 8  # rewrites; a run that needs more is taken for a loop
_MAX_LINEAGE = 64  # rewrites that one node may descend from
_MAX_DECLINED = 8  # matches of a rule at one root that may decline before no other is looked for
_MANY_READERS = 256  # of a value: too many for all of them to be looked at after each rewrite
_CYCLE_SHOWN = 12
_NAME_SHOWN = 60
_LOOP_HINT = "let one of them decline what another makes, or mark it once=True"


@dataclass
class RuleStats:
    """Of one run: how often each rule was tried and fired, and why it declined.

    `timed`: whether `seconds` is measured, the time that each rule took to match and to be applied.
    """

    tried: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    declined: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    timed: bool = False

    def decline(self, name: str, reason: str) -> None:
        self.declined.setdefault(name, Counter())[reason] += 1


class Driver:
    """Applies rules to all graphs of a model until none matches.

    `rules` come with the names that the journal shows. `domains`: operator domains that replacements
    may use; None for all. `raised` is told of a rule whose replacement raised, and that is then left out; None: the
    error ends the run. `watch` is told of each match that declines, and why. `objections`: why
    rules are not to be applied, by name; they decline where they match. `kept`: why nodes are to stay as they are.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, Rule[Any]]],
        editor: Editor,
        *,
        domains: frozenset[str] | None = None,
        stats: RuleStats | None = None,
        tick: Callable[[int], None] | None = None,
        raised: Callable[[str, ReplacementError], None] | None = None,
        watch: Callable[[Match, str], None] | None = None,
        objections: Mapping[str, str] | None = None,
        kept: Mapping[oir.Node, str] | None = None,
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
        self._raised = raised
        self._watch = watch
        self._objections = objections or {}
        self._kept = kept or {}
        self._off: set[str] = set()
        self.stats = stats or RuleStats()
        self._attempt = self._try_timed if self.stats.timed else self._try

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
                    raise self._endless(f"rewriting did not end after {count} rewrites", node)
        return count

    def _roots(self) -> Iterator[oir.Node]:
        for graph in self._model.raw_graphs():
            for node in nodes_of(graph):
                if (node.domain, node.op_type) in self._index:
                    yield node

    def _visit(self, node: oir.Node) -> bool:
        """Try the rules rooted at a node; whether one was applied."""
        for entry in self._index.likely(node):
            for output in node.outputs:
                change = self._attempt(entry, node, output)
                if change is not None:
                    self._push(change)
                    return True
        return False

    def _try(self, entry: Entry, node: oir.Node, output: oir.Value) -> Change | None:
        """Apply a rule to one of its matches at a root, the first that no contract or `require` declines."""
        if self._off and entry.name in self._off:
            return None
        lineage = self._lineage.get(node)
        if entry.rule.once and lineage is not None and entry.name in lineage[1]:
            return None
        self.stats.tried[entry.name] += 1
        changes: list[Change] = []
        reasons: list[str] = []

        def accept(match: Match) -> bool:
            if entry.rule.once and entry.name in self._ancestry(match.nodes)[1]:
                return False
            try:
                changes.append(self._apply(entry, match))
            except Decline as declined:
                reasons.append(declined.reason)
                if self._watch is not None:
                    self._watch(match, declined.reason)
                return len(reasons) == _MAX_DECLINED
            except ReplacementError as error:
                self._leave_out(entry.name, error)
            return True

        entry.pattern.match(self._facts, output, accept, likely=True)
        if changes:
            return changes[0]
        if reasons:
            self.stats.decline(entry.name, reasons[0])
        return None

    def _leave_out(self, name: str, error: ReplacementError) -> None:
        """Go on without a rule that raised, or raise the error if nobody asked for that."""
        if self._raised is None:
            raise error
        self._off.add(name)
        self.stats.decline(name, error.reason)
        self._raised(name, error)

    def _try_timed(self, entry: Entry, node: oir.Node, output: oir.Value) -> Change | None:
        start = time.perf_counter()
        try:
            return self._try(entry, node, output)
        finally:
            seconds = self.stats.seconds
            seconds[entry.name] = seconds.get(entry.name, 0.0) + time.perf_counter() - start

    def _apply(self, entry: Entry, match: Match) -> Change:
        if entry.name in self._objections:
            raise Decline(self._objections[entry.name])
        for node in match.nodes if self._kept else ():
            if node in self._kept:
                raise Decline(self._kept[node])
        depth, history = self._ancestry(match.nodes)
        change = apply(entry.rule, match, self._editor, entry.name, self._domains)
        self.stats.fired[entry.name] += 1
        history = (*history, entry.name)
        for new in change.added:
            self._lineage[new] = (depth + 1, history)
        if depth >= _MAX_LINEAGE:
            raise RuleError(f"rules rewrite each other's results without end: {_cycle(history)}",
                            where=f"node {_short(change.at)!r}", hint=_LOOP_HINT)
        return change

    def _ancestry(self, nodes: Sequence[oir.Node]) -> tuple[int, tuple[str, ...]]:
        """The longest chain of rewrites that one of the nodes descends from."""
        known = [self._lineage[n] for n in nodes if n in self._lineage]
        return max(known, default=(0, ()))

    def _push(self, change: Change) -> None:
        """Queue what may match now, in program order, ahead of what waits."""
        self._index.admit(change.added)
        touched: dict[oir.Node, None] = dict.fromkeys((*change.added, *change.moved))
        for node in change.freed:
            # What lost a reader can become interior to a match only once all its readers fit in one pattern.
            if sum(count_uses(o) for o in node.outputs) <= self._index.operands:
                touched[node] = None
        if self._index.several_outputs:
            most = min(self._index.operands, _MANY_READERS)
            touched.update(dict.fromkeys(_relatives(list(touched), self._index.depth, most)))
        frontier = touched.copy()
        for _ in range(self._index.depth - 1):
            # Each reader once: where branches meet again, as around every residual sum, there are many ways to it.
            frontier = {
                use.node: None for node in frontier for o in node.outputs for use in o.uses() if use.node not in touched
            }
            touched.update(frontier)
        for node in reversed(touched):
            if node not in self._queued and (node.domain, node.op_type) in self._index:
                self._queue.appendleft(node)
                self._queued.add(node)

    def _endless(self, what: str, node: oir.Node) -> RuleError:
        """The error of a run that needs too many rewrites, with the rules that made the most of them."""
        history = self._lineage.get(node, (0, ()))[1]
        often = ", ".join(f"{name} ({count})" for name, count in self.stats.fired.most_common(3))
        return RuleError(f"{what}; most often: {often}{f'; there: {_cycle(history)}' if history else ''}",
                         where=f"node {_short(node.name or node.op_type)!r}", hint=_LOOP_HINT)


def _short(name: str) -> str:
    """A name without what endless rewriting made of it."""
    return name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}…"


def _cycle(history: tuple[str, ...]) -> str:
    """`a → b → a`: the rules that come again and again, or the last ones."""
    for period in range(1, _CYCLE_SHOWN):
        if history[-period:] == history[-2 * period : -period]:
            return " → ".join((*history[-period:], history[-period]))
    return " → ".join(history[-_CYCLE_SHOWN:])


def _relatives(nodes: list[oir.Node], depth: int, most: int) -> list[oir.Node]:
    """Nodes that read what these read, or what what they read is made of, up to `depth` operators before them.

    One of them may be the root of a pattern with several outputs, which is connected to another output by what
    both are made of.
    """
    found: dict[oir.Node, None] = {}
    for _ in range(depth):
        above: dict[oir.Node, None] = {}
        for node in nodes:
            for value in node.inputs:
                if value is None or count_uses(value) > most:
                    continue
                found.update(dict.fromkeys(use.node for use in value.uses()))
                producer = value.producer()
                if producer is not None:
                    above[producer] = None
        nodes = list(above)
    return list(found)
