"""`Pass` and `Context`: what a pass is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from graphopt.engine.constants import compute
from graphopt.engine.driver import Driver
from graphopt.engine.journal import PassRecord
from graphopt.ir.edit import Change, Decline, Editor, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.value import Node, Value
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
    `changes` are the commits of the run so far, `swept` how many of them each set of rules has seen.
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

    def apply(self, rules: Sequence[Rule[Any]], pack: str) -> int:
        """Run the driver with those of `rules` that the accuracy allows; the number of rewrites."""
        allowed = [(f"{pack}.{r.name}", r) for r in rules if r.accuracy <= self.accuracy]
        key = (pack, *[name for name, _ in allowed])
        done = self.swept.get(key)
        driver = Driver(
            allowed,
            self.edit,
            domains=self._domains(),
            stats=self.record.stats,
            tick=lambda n: self.progress(pack, n, None),
        )
        count = driver.run(None if done is None else self.changes[done:])
        self.swept[key] = len(self.changes)
        return count

    def _domains(self) -> frozenset[str]:
        """Domains whose operators a rule may introduce: those of the target, some only when speed is all."""
        target = self.target
        fast = self.accuracy >= Accuracy.FAST
        return frozenset(d for d in target.domains if fast or d not in target.fast_domains)

    @contextmanager
    def rewrite(self, by: str, *, at: Node, sources: Sequence[Node] = (), same_type: bool = True) -> Iterator[Rewrite]:
        """As `edit.rewrite`, but a `Decline` within is counted with its reason instead of raised."""
        try:
            with self.edit.rewrite(by, at=at, sources=sources, same_type=same_type) as rewrite:
                yield rewrite
        except Decline as declined:
            self.decline(by, at, declined.reason)

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
    the pipeline may repeat it until nothing changes at all.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    settles: ClassVar[bool] = True
    accuracy: ClassVar[Accuracy] = Accuracy.CLOSE

    @abstractmethod
    def run(self, ctx: Context) -> None:
        """Change the model through `ctx.edit`."""

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def rules(cls) -> tuple[Rule[Any], ...]:
        """The rules that the pass applies, if it is a rule pack."""
        return ()

    def spelling(self) -> str:
        """The pass as `-p` takes it, with the options that differ from their defaults."""
        options = [
            f"{f.name.replace('_', '-')}={_text(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{','.join(options)}}}" if options else "")


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
