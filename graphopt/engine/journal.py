"""The journal: every rewrite of a run, numbered, with what was tried and declined beside it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from graphopt.engine.driver import RuleStats
from graphopt.ir.draft import Change


@dataclass(frozen=True, slots=True)
class Entry:
    """One rewrite. Ordinals count from 1 and are the same in each run of the same passes on the same model."""

    ordinal: int
    rule: str
    at: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass
class PassRecord:
    """What one pass of the pipeline did, over all rounds. `seconds` is wall time."""

    name: str
    rewrites: int = 0
    nodes_added: int = 0
    seconds: float = 0.0
    fired: Counter[str] = field(default_factory=Counter)
    stats: RuleStats = field(default_factory=RuleStats)
    notes: list[str] = field(default_factory=list)

    @property
    def declined(self) -> dict[str, Counter[str]]:
        return self.stats.declined


class Journal:
    """Collects the entries and the records of the passes of one run. `timed`: with the time of each rule."""

    def __init__(self, *, timed: bool = False) -> None:
        self._timed = timed
        self.entries: list[Entry] = []
        self.records: dict[str, PassRecord] = {}
        self.notes: list[str] = []
        self.stopped = False

    def commit(self, change: Change) -> None:
        """Listens to the editor."""
        names = tuple(n.name or n.op_type for n in change.added)
        self.entries.append(Entry(change.ordinal, change.by, change.at, change.removed, names))

    @contextmanager
    def recording(self, name: str) -> Iterator[PassRecord]:
        """Within, rewrites and time count for the pass `name`."""
        record = self.records.setdefault(name, PassRecord(name, stats=RuleStats(timed=self._timed)))
        start, rewrites = time.perf_counter(), len(self.entries)
        try:
            yield record
        finally:
            record.seconds += time.perf_counter() - start
            made = self.entries[rewrites:]
            record.rewrites += len(made)
            record.fired.update(entry.rule for entry in made)
