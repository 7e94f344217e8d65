"""What a rule makes of a model: where it fires, where it declines and why, and how far it gets elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import onnx_ir as oir

from graphopt.engine.catalog import nearest_of
from graphopt.engine.driver import Driver
from graphopt.errors import UsageError
from graphopt.ir.draft import Change, Draft
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.ir.value import Node
from graphopt.rules.apply import FAN_OUT, escaping
from graphopt.rules.doc import LEVELS, replacement_operators, since
from graphopt.rules.explain import Miss, Prober, roots
from graphopt.rules.match import Match
from graphopt.rules.rule import Accuracy, Rule
from graphopt.rules.words import any_of
from graphopt.targets.target import Target, list_targets, load_target

Status = Literal["fired", "declined", "consumed", "missed"]
_READERS_SHOWN = 3


@dataclass(frozen=True)
class Outcome:
    """What became of one root.

    fired: the rule was applied. declined: it matched, and a contract or a `require` had something against it, which
    `reason` says. consumed: the node became part of a match at another root. missed: it does not match; `matched`
    are the nodes that do fit, root first, and `reason` says what does not. `kind` is the reason without names.
    """

    root: str
    operator: str
    status: Status
    reason: str = ""
    kind: str = ""
    matched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The outcomes of a rule at all roots, or at those that were asked for, in the order of the graph.

    `operators`: those that a root may have. `again`: how often the rule fired at nodes that it had made itself.
    """

    operators: tuple[str, ...]
    outcomes: list[Outcome] = field(default_factory=list)
    again: int = 0

    def having(self, status: Status) -> list[Outcome]:
        return [o for o in self.outcomes if o.status == status]


def explain(
    rule: Rule[Any], model: Model, *, near: str | None = None, domains: frozenset[str] | None = None,
    name: str | None = None,
) -> Explanation:
    """Apply a rule to a model until it settles, and say what became of each root.

    The model is changed: it is as after a run of this rule alone. What does not match is judged by the model as it
    was before. `near`: the name of a node or value, or a pattern of such names; only the roots that are there, or
    that a match could reach it from. `domains`: operator domains that the replacement may use; None for all.
    `name`: what errors call the rule, if not by its own name.

    Raises `UsageError` with the nearest name if nothing is called `near`, `RuleError` if the replacement raises.
    """
    every = list(roots(rule, model))
    asked = every
    if near is not None:
        reach = _reach(model, near, max(pattern.depth for pattern in rule.patterns))
        asked = [node for node in every if node in reach]
    names = {node: Node(model, node).name for node in every}
    prober = Prober(rule, model)
    misses = {node: prober.miss(node) for node in asked}
    run = _Run(rule, model, domains, name)
    result = Explanation(_operators(rule), again=sum(n for node, n in run.fired.items() if node not in names))
    for node in asked:
        miss = misses[node]
        if miss is None and node not in run.fired and node not in run.declined and model.is_alive(node):
            miss = prober.miss(node)  # it matched, until the rule changed something else
        result.outcomes.append(_outcome(names[node], node, run, miss))
    return result


def _operators(rule: Rule[Any]) -> tuple[str, ...]:
    found = {f"{domain}.{name}" if domain else name for p in rule.patterns for domain, name in p.roots}
    return tuple(sorted(found))


def _outcome(name: str, node: oir.Node, run: _Run, miss: Miss | None) -> Outcome:
    op = node.op_type
    if node in run.fired:
        return Outcome(name, op, "fired")
    if node in run.declined:
        reasons = run.declined[node]
        return Outcome(name, op, "declined", "; ".join(reasons.values()), "; ".join(reasons))
    if node in run.consumed or miss is None:
        by = run.consumed.get(node)
        return Outcome(name, op, "consumed", f"it was part of the match at {by}" if by else "a rewrite removed it")
    return Outcome(name, op, "missed", miss.reason, miss.kind, miss.matched)


class _Run:
    """One run of the driver with one rule, and what it did at which node."""

    def __init__(self, rule: Rule[Any], model: Model, domains: frozenset[str] | None, name: str | None) -> None:
        self.fired: dict[oir.Node, int] = {}
        self.declined: dict[oir.Node, dict[str, str]] = {}
        self.consumed: dict[oir.Node, str] = {}
        self._model = model
        self._draft: Draft | None = None
        editor = Editor(model)
        editor.preview(self._propose)
        editor.listen(self._commit)
        Driver([(name or rule.name, rule)], editor, domains=domains, watch=self._decline).run()

    def _propose(self, draft: Draft) -> None:
        self._draft = draft

    def _commit(self, _: Change) -> None:
        draft = self._draft
        assert draft is not None, "a change is proposed before it is made"
        self.fired[draft.anchor] = self.fired.get(draft.anchor, 0) + 1
        name = Node(self._model, draft.anchor).name
        for node in draft.sources:
            if not self._model.is_alive(node):
                self.consumed.setdefault(node, name)

    def _decline(self, match: Match, reason: str) -> None:
        """Note a reason, and how it reads at this node: a value that is read elsewhere is named with its readers."""
        text = f"{reason}: {'; '.join(self._readers(match))}" if reason == FAN_OUT else reason
        self.declined.setdefault(match.nodes[0], {}).setdefault(reason, text)

    def _readers(self, match: Match) -> Iterator[str]:
        inner = set(match.nodes)
        for value in escaping(match):
            readers = dict.fromkeys(Node(self._model, u.node).name for u in value.uses() if u.node not in inner)
            shown = list(readers)[:_READERS_SHOWN]
            if len(readers) > len(shown):
                shown.append(f"{len(readers) - len(shown)} more")
            parts = [f"is read by {', '.join(shown)}"] if shown else []
            if value.is_graph_output():
                parts.append("is an output of the graph")
            yield f"{value.name!r} {' and '.join(parts)}"


# -- what can be known without looking at a node ---------------------------------------------------


def obstacles(rule: Rule[Any], model: Model, target: Target, name: str | None = None) -> list[str]:
    """What keeps a rule from being applied to this model in a usual run for this target, wherever it matches.

    `name`: its full name, under which a target may have something against it; by default the rule's own.
    """
    found = []
    objection = target.objection(name or rule.name)
    if objection is not None:
        found.append(f"the target {target.name} does not want it: {objection}")
    if rule.accuracy > Accuracy.CLOSE:
        level = LEVELS.get(rule.accuracy)
        who = "only a pass that may lose accuracy" if level is None else f"only {level}"
        found.append(f"its accuracy is {rule.accuracy.label}: {who} applies it")
    made, always = replacement_operators(rule)
    for domain in sorted({domain for domain, _ in made} - {*target.domains}):
        takers = [name for name in list_targets() if domain in load_target(name).domains]
        hint = f": {any_of(takers)} does" if takers else ""
        found.append(f"the target {target.name} does not take operators of {domain}{hint}")
    for domain, name in made if always else ():
        first = since((domain, name))
        if first is not None and first > model.opset():
            found.append(f"it makes {name}, which came with opset {first}; the model has {model.opset()}")
    return found


# -- near a node -----------------------------------------------------------------------------------


def _reach(model: Model, text: str, depth: int) -> set[oir.Node]:
    """The nodes of that name, and those that are up to `depth - 1` steps behind them."""
    reached = dict.fromkeys(nodes_named(model, text))
    frontier: Collection[oir.Node] = list(reached)
    for _ in range(depth - 1):
        frontier = dict.fromkeys(use.node for node in frontier for o in node.outputs for use in o.uses())
        reached.update(frontier)
    return set(reached)


def nodes_named(model: Model, text: str) -> list[oir.Node]:
    """The nodes that are called `text`, or make a value of that name, or read an input or a constant of that name.

    `text` may be a pattern as in a shell. Raises `UsageError` with the nearest name if there is nothing.
    """
    known: dict[str, list[oir.Node]] = {}
    for graph in model.raw_graphs():
        for node in graph:
            for name in dict.fromkeys((Node(model, node).name, *(o.name or "" for o in node.outputs))):
                known.setdefault(name, []).append(node)
        for value in _sources(graph):
            readers = [use.node for use in value.uses()]
            known.setdefault(value.name or "", []).extend(readers)
    found = known.get(text) or [n for name, nodes in known.items() if fnmatchcase(name, text) for n in nodes]
    if not found:
        raise UsageError(f"there is no node or value {text!r}", hint=nearest_of(text, known, "see: graphopt inspect"))
    return found


def _sources(graph: oir.Graph) -> Iterable[oir.Value]:
    return (*graph.inputs, *graph.initializers.values())
