"""`Pass` and `Context`: what a pass is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import onnx_ir as oir

from graphopt.engine.constants import compute
from graphopt.engine.driver import Driver
from graphopt.engine.goals import Goals
from graphopt.engine.journal import PassRecord
from graphopt.engine.selection import Selection
from graphopt.engine.tools import Tool, ToolError
from graphopt.ir.edit import Change, Decline, Editor, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.value import Node, Value
from graphopt.rules.apply import ReplacementError
from graphopt.rules.rule import Accuracy, Rule
from graphopt.targets.target import Target

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much is done, and of how much (None: not known)."""


def silent(what: str, done: int, total: int | None) -> None:
    """Shows no progress."""


@dataclass
class Context:
    """What a pass works with.

    `accuracy`: the loosest class of rewrite that is allowed. `data`: samples for calibration, each a
    dict of input name to array; None where the caller gave none. `record` takes notes and declines.
    `changes` are the commits of the run so far, `swept` how many of them each set of rules has seen. `selection`: what
    the user wants to have or to leave out, `off`: rules that raised in this run. `kept`: nodes that this pass leaves as
    they are, each with the reason; see `keep`. `goals`: the user's metric and limits, for what costs accuracy.
    """

    model: Model
    edit: Editor
    target: Target
    record: PassRecord
    accuracy: Accuracy = Accuracy.CLOSE
    data: Iterable[dict[str, np.ndarray]] | None = None
    seed: int = 0
    progress: Progress = silent
    shared: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    swept: dict[tuple[str, ...], int] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    off: set[str] = field(default_factory=set)
    kept: dict[oir.Node, str] = field(default_factory=dict)
    goals: Goals = field(default_factory=Goals)

    def apply(self, rules: Sequence[Rule[Any]], pack: str) -> int:
        """Run the driver with those of `rules` that accuracy and selection allow; the number of rewrites.

        Those that the target objects to are declined with its reason, where they match.
        """
        named = [(f"{pack}.{r.name}", r) for r in rules if r.accuracy <= self.accuracy]
        allowed = [(name, r) for name, r in named if name not in self.off and self.selection.applies(name)]
        key = (pack, *[name for name, _ in allowed])
        done = self.swept.get(key)
        driver = Driver(
            allowed,
            self.edit,
            domains=self._domains(),
            stats=self.record.stats,
            tick=lambda n: self.progress(pack, n, None),
            raised=self._switch_off if self.selection.keep_going else None,
            objections={name: why for name, _ in allowed if (why := self.target.objection(name)) is not None},
            kept=self.kept,
        )
        count = driver.run(None if done is None else self.changes[done:])
        self.swept[key] = len(self.changes)
        return count

    def keep(self, nodes: Iterable[Node], reason: str) -> None:
        """From now on this pass rewrites none of these nodes: what would is declined with the reason."""
        self.kept.update((node._raw, reason) for node in nodes)

    def _switch_off(self, name: str, error: ReplacementError) -> None:
        """A rule that raises cannot be trusted elsewhere: it is not applied any more in this run."""
        self.off.add(name)
        self.note(f"{error.what}, {error.place} ({error.where}); it was switched off")

    def _domains(self) -> frozenset[str]:
        """Domains whose operators a rule may introduce: those of the target, some only when speed is all."""
        target = self.target
        fast = self.accuracy >= Accuracy.FAST
        return frozenset(d for d in target.domains if fast or d not in target.fast_domains)

    @contextmanager
    def rewrite(self, by: str, *, at: Node, sources: Sequence[Node] = (), same_type: bool = True) -> Iterator[Rewrite]:
        """As `edit.rewrite`, but a `Decline` within is counted with its reason instead of raised.

        Names that the user ignores are declined when the block ends; a pass with much to compute asks `ignores` first.
        """
        try:
            with self.edit.rewrite(by, at=at, sources=sources, same_type=same_type) as rewrite:
                yield rewrite
                self._heed(by, at)
        except Decline as declined:
            self.decline(by, at, declined.reason)

    def _heed(self, by: str, at: Node) -> None:
        reason = self.target.objection(by) or self.kept.get(at._raw)
        if reason is not None:
            raise Decline(reason)

    def remove_dead(self, by: str, nodes: Sequence[Node]) -> int:
        """As `edit.remove_dead`; those that stay because they are protected are counted as declined."""
        for node in nodes:
            if self.edit.protects(node):
                self.decline(by, node, "it is protected")
        return self.edit.remove_dead(by, nodes)

    def position(self, node: Node) -> int:
        """A number by which nodes of one graph are in order; it holds until the next rewrite."""
        return self.edit.ranks.of(node._raw)

    def ignores(self, by: str) -> bool:
        """Whether the user does not want the rewrites of this name."""
        return self.selection.ignores(by)

    def replace_model(
        self, by: str, make: Callable[[oir.Model], oir.Model], *, domains: Collection[str] = ()
    ) -> bool:
        """As `edit.replace_all`, but a `Decline` is counted with its reason instead of raised; whether it was done.

        `domains`: those whose operators may come into the model, besides those that it or the target has.
        """

        def made(model: oir.Model) -> oir.Model:
            result = make(model)
            known = {*domains, *(n.domain for n in model.graph.all_nodes())}
            self.check_domains([n for n in result.graph.all_nodes() if n.domain not in known], result.opset_imports)
            return result

        try:
            return self.edit.replace_all(by, made) is not None
        except Decline as declined:
            self.decline(by, None, declined.reason)
            return False

    def check_domains(self, nodes: Iterable[oir.Node], imports: Mapping[str, int]) -> None:
        """Raise `Decline` if the target does not take the domain of one of these nodes in the imported version."""
        for node in nodes:
            if not self.target.takes(node.domain, imports.get(node.domain, 1)):
                raise Decline(f"it uses {node.op_type} of {node.domain or 'ai.onnx'}, which the target does not take")

    def run_tool(
        self, tool: Tool, *, by: str | None = None, domains: Collection[str] = (), timeout: float, **options: Any
    ) -> bool:
        """Let another optimizer replace the whole model, as one rewrite called `by`; whether it changed anything.

        The tool runs in a process of its own for at most `timeout` seconds. A result with another interface is
        declined; `domains` as for `replace_model`. Raises `UsageError` if the tool is not installed, and
        `ToolError` if it fails, crashes or takes too long, unless the user wants to keep going.
        """
        tool.require()
        self.note(f"by {tool.version}")
        try:
            return self.replace_model(
                by or tool.name, lambda model: tool.run(model, timeout=timeout, **options), domains=domains
            )
        except ToolError as error:
            if not self.selection.keep_going:
                raise
            self.note(f"{error.what}; the model is as it was before")
            return False

    def decline(self, by: str, node: Node | None, reason: str) -> None:
        """Count a rewrite that `by` did not make, and why."""
        del node  # counted by reason; `explain` names the nodes
        self.record.stats.decline(by, reason)

    def evaluate(
        self, nodes: Sequence[Node], wanted: Sequence[Value], *, budget: int = 1 << 28, timeout: float = 60.0
    ) -> dict[Value, np.ndarray]:
        """Values of `wanted`, outputs of `nodes`, which read constants and each other, in topological order.

        Nothing can crash or hang: no result of more than `budget` bytes is begun, none takes longer than
        `timeout` seconds. What could not be computed is missing, and declined with its reason.
        """
        return compute(
            self.model, nodes, wanted, budget=budget, timeout=timeout,
            decline=lambda node, reason: self.decline("evaluate", node, reason),
        )

    def note(self, text: str) -> None:
        """A remark for the report."""
        if text not in self.record.notes:
            self.record.notes.append(text)


@dataclass(frozen=True)
class Preset:
    """A pipeline under a short name: its passes, the loosest accuracy class allowed, and what it is for."""

    passes: str
    accuracy: str
    title: str


@dataclass(frozen=True)
class Pass(ABC):
    """A step of a pipeline. Subclasses are frozen dataclasses: their fields are the pass's options.

    `name`: how `-p` calls it. `requires`: passes that must have run before; they are added where
    they are missing. `settles`: whether running it again on its own result changes nothing, so that
    the pipeline may repeat it until nothing changes at all. `last`: it makes operators that other passes do not know,
    so that it runs when all of them are done, wherever it stands. `rewrites`: what it does to the graph besides
    applying rules: the full name of each kind of rewrite, as in the journal (`mine.merge`, or `mine` alone), with a
    sentence that says what it does. They are listed with the rules, and can be ignored by name. `heeds_goals`:
    it sees to it that the metric in the `goals` of its context falls no further than it may.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    settles: ClassVar[bool] = True
    last: ClassVar[bool] = False
    rewrites: ClassVar[Mapping[str, str]] = {}
    accuracy: ClassVar[Accuracy] = Accuracy.CLOSE
    heeds_goals: ClassVar[bool] = False

    @abstractmethod
    def run(self, ctx: Context) -> None:
        """Change the model through `ctx.edit`."""

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @classmethod
    def rules(cls) -> tuple[Rule[Any], ...]:
        """The rules that the pass applies, if it is a rule pack."""
        return ()

    def spelling(self) -> str:
        """The pass as `-p` takes it, with the options that differ from their defaults."""
        options = [
            f"{option_name(f.name)}={_text(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{','.join(options)}}}" if options else "")


def option_name(field: str) -> str:
    """How `-p` calls the option that a field of a pass holds: `per-channel`, and `rules` for `rules_`."""
    return field.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that applies a pack of rules."""

    pack: ClassVar[tuple[Rule[Any], ...]] = ()

    @classmethod
    def rules(cls) -> tuple[Rule[Any], ...]:
        return cls.pack

    def run(self, ctx: Context) -> None:
        ctx.apply(self.pack, self.name)
