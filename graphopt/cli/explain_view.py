"""What `graphopt explain` found out, as tables and as the JSON schema `graphopt.explain/1`.

    schema    "graphopt.explain/1"
    model     the path
    target    the target's name
    near      the name that was asked for, or null
    before    {passes [spelling], rewrites, nodes [before, after]}: what the model went through first
    rules     [{rule, accuracy, operators, obstacles [text], fired_before, fired_again, roots}]
    roots     [{root, operator, status, reason, matched [nodes that fit, root first]}]

`operators` are those that a root may have. `status` is fired, declined, consumed (the node became part of another
match) or missed. `fired_before`: how often the passes applied the rule before; `fired_again`: how often it fired at
nodes that it had made itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from graphopt.report.table import table
from graphopt.rules.words import any_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.engine.catalog import Named
    from graphopt.engine.explain import Explanation, Outcome

SCHEMA = "graphopt.explain/1"
_EXAMPLES = 3


@dataclass(frozen=True)
class _Item:
    named: Named
    found: Explanation
    obstacles: list[str]
    fired_before: int


@dataclass
class Explained:
    """Rules and what became of them. `asked`: whether the passes before were, or else are what the rules require."""

    passes: list[str]
    required: list[str]
    rewrites: int
    nodes: tuple[int, int]
    target: str
    near: str | None
    model: str = ""
    asked: bool = False
    items: list[_Item] = field(default_factory=list)

    def add(self, named: Named, found: Explanation, obstacles: list[str], fired_before: int) -> None:
        self.items.append(_Item(named, found, obstacles, fired_before))

    def document(self) -> dict[str, Any]:
        """As JSON; see above."""
        return {
            "schema": SCHEMA, "model": self.model, "target": self.target, "near": self.near,
            "before": {"passes": self.passes, "rewrites": self.rewrites, "nodes": list(self.nodes)},
            "rules": [_rule_document(item) for item in self.items],
        }  # fmt: skip

    def view(self, limit: int | None) -> RenderableType:
        """One rule in detail, several as an overview. `limit`: rows for places where a rule does not match."""
        if len(self.items) > 1:
            return Group(self._title(f"{len(self.items)} rules"), self._facts([]), Text(), _overview(self.items))
        (item,) = self.items
        parts: list[RenderableType] = [self._title(item.named.name), self._facts(_remarks(item))]
        if not item.found.outcomes:
            return Group(*parts, Text(), Text(self._nothing(item)))
        if self.near is not None:
            return Group(*parts, Text(), *_each(item.found, limit))
        return Group(*parts, Text(), *_grouped(item.found, limit))

    def _title(self, what: str) -> Text:
        return Text(f"{what} in {self.model}", style="bold", overflow="fold")

    def _facts(self, remarks: Iterable[str]) -> Table:
        made = Table.grid(padding=(0, 2))
        made.add_column(style="bold", no_wrap=True)
        made.add_column(overflow="fold")
        made.add_row("looked at", self._state())
        for remark in remarks:
            made.add_row("note", remark)
        return made

    def _state(self) -> str:
        if not self.passes:
            return "the model as it is" if self.asked else "the model as it is: the pass of the rule requires no others"
        why = "" if self.asked else f", which {any_of(self.required)} requires"
        before, after = self.nodes
        alone = "this rule" if len(self.items) == 1 else "each rule"
        return f"the model after {', '.join(self.passes)}{why} ({before} → {after} nodes); then {alone} alone"

    def _nothing(self, item: _Item) -> str:
        operators = any_of(item.found.operators)
        if self.near is not None:
            return f"no match can be at or behind {self.near!r}: there is no {operators} near enough"
        other = "" if self.asked else f"; if another rule of {item.named.pack} makes one, try -p {item.named.pack}"
        return f"there is no {operators} in the model{other}"


def _remarks(item: _Item) -> list[str]:
    remarks = list(item.obstacles)
    if item.fired_before:
        remarks.append(f"it fired {_times(item.fired_before)} in the passes before")
    if item.found.again:
        remarks.append(f"it also fired {_times(item.found.again)} at nodes that it had made itself")
    return remarks


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _rule_document(item: _Item) -> dict[str, Any]:
    return {
        "rule": item.named.name,
        "accuracy": item.named.rule.accuracy.label,
        "operators": list(item.found.operators),
        "obstacles": item.obstacles,
        "fired_before": item.fired_before,
        "fired_again": item.found.again,
        "roots": [
            {"root": o.root, "operator": o.operator, "status": o.status, "reason": o.reason, "matched": list(o.matched)}
            for o in item.found.outcomes
        ],
    }


# -- one rule --------------------------------------------------------------------------------------

_LABELS = {"fired": "fired", "declined": "declined", "consumed": "inside a match", "missed": "no match"}


def _grouped(found: Explanation, limit: int | None) -> Iterator[RenderableType]:
    """Outcomes that are alike together, commonest first; of those without a match, the nearest first."""
    made = table("", "nodes", "why, and where", right=("nodes",), fold="why, and where")
    for status in ("fired", "declined", "consumed"):
        groups = _groups((o.kind if status == "declined" else "", o) for o in found.having(status))
        for group in sorted(groups, key=len, reverse=True):
            reason = f"{group[0].reason}\n" if status == "declined" else ""
            made.add_row(_LABELS[status], str(len(group)), f"{reason}{_places(group)}")
    missed = _groups(((len(o.matched), o.kind), o) for o in found.having("missed"))
    missed.sort(key=lambda g: (-len(g[0].matched), -len(g)))
    for first, *others in missed[:limit]:
        more = f"\nand the same {_places(others)}" if others else ""
        made.add_row(_LABELS["missed"], str(1 + len(others)), f"{_miss(first)}{more}")
    yield made
    if limit is not None and len(missed) > limit:
        yield _rest(sum(map(len, missed[limit:])))


def _rest(count: int) -> Text:
    return Text(f"and {count} more without a match: --limit 0 shows all")


def _groups(items: Iterable[tuple[Any, Outcome]]) -> list[list[Outcome]]:
    found: dict[Any, list[Outcome]] = {}
    for key, outcome in items:
        found.setdefault(key, []).append(outcome)
    return list(found.values())


def _places(outcomes: Sequence[Outcome]) -> str:
    shown = [o.root for o in outcomes[:_EXAMPLES]]
    if len(outcomes) > len(shown):
        shown[-1:] = [shown[-1], f"{len(outcomes) - len(shown)} more"]
    *others, last = shown
    return f"at {', '.join(others)} and {last}" if others else f"at {last}"


def _miss(outcome: Outcome, reason: str = "") -> str:
    count = len(outcome.matched)
    fits = f"{count} nodes fit, then " if count > 1 else ""
    return f"{fits}{reason or outcome.reason}"


def _each(found: Explanation, limit: int | None) -> Iterator[RenderableType]:
    """Each root by itself, in the order of the graph, with the nodes that fit."""
    made = table("", "node", "why", fold="why")
    hidden = found.having("missed")[limit:] if limit is not None else []
    for o in found.outcomes:
        if o not in hidden:
            fits = f"\nwhat fits: {', '.join(o.matched)}" if o.status == "missed" and len(o.matched) > 1 else ""
            made.add_row(_LABELS[o.status], o.root, f"{o.reason}{fits}")
    yield made
    if hidden:
        yield _rest(len(hidden))


# -- several rules ---------------------------------------------------------------------------------


def _overview(items: Iterable[_Item]) -> Table:
    numbers = ("roots", "fired", "declined")
    made = table("rule", *numbers, "what is in the way", right=numbers, fold="what is in the way")
    for item in items:
        found = item.found
        counts = (len(found.outcomes), len(found.having("fired")), len(found.having("declined")))
        made.add_row(item.named.name, *(str(n) if n else "" for n in counts), _hurdle(item))
    return made


def _hurdle(item: _Item) -> str:
    """The commonest reason to decline, or else how near the nearest miss is."""
    found = item.found
    declined = sorted(_groups((o.kind, o) for o in found.having("declined")), key=len, reverse=True)
    if declined:
        return declined[0][0].reason
    missed = sorted(found.having("missed"), key=lambda o: -len(o.matched))
    if not found.outcomes:
        return f"there is no {any_of(found.operators)}"
    return _miss(missed[0], missed[0].kind) if missed and not found.having("fired") else ""
