"""Running passes in order, and again until nothing changes any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.engine.goals import Goals
from graphopt.engine.journal import Journal
from graphopt.engine.passes import Context, Pass, Progress, silent
from graphopt.engine.selection import Selection
from graphopt.errors import GraphoptError
from graphopt.ir.control import inside_out
from graphopt.ir.edit import Change, Editor, StopRewriting
from graphopt.ir.initial import infer_functions_again
from graphopt.ir.model import Model
from graphopt.ir.protect import protect
from graphopt.rules.rule import Accuracy
from graphopt.targets.target import Target

_MAX_ROUNDS = 8


@dataclass
class Pipeline:
    """Passes with the circumstances they run under. `run` changes the model in place.

    Passes that settle are repeated, as a group, until a round of them rewrites nothing: a fold may
    make a fusion possible and the other way round. `stop_after`: the last ordinal to apply.
    `before_lossy` is called with the model before the first pass that changes values by design, `after_pass` with
    a pass that has changed the model and the ordinals of its first and last rewrite, `watch` with the editor before
    anything is changed. `selection`: which rewrites the user wants to have or to leave out. `timed`: measure the time
    that each rule takes, which costs a little itself. `goals`: what a pass that costs accuracy has to heed.
    """

    passes: Sequence[Pass]
    target: Target
    accuracy: Accuracy = Accuracy.CLOSE
    data: Iterable[dict[str, np.ndarray]] | None = None
    seed: int = 0
    stop_after: int | None = None
    progress: Progress = silent
    shared: dict[str, Any] = field(default_factory=dict)
    before_lossy: Callable[[Model], None] | None = None
    after_pass: Callable[[Pass, Model, int, int], None] | None = None
    watch: Callable[[Editor], None] | None = None
    selection: Selection = field(default_factory=Selection)
    timed: bool = False
    goals: Goals = field(default_factory=Goals)

    def run(self, model: Model) -> Journal:
        """Apply the passes to `model`; the journal of what they did.

        Raises `UsageError` if there is nothing in the model that `selection` protects by name.
        """
        journal = Journal(timed=self.timed)
        protection = protect(model, self.selection.protect)
        self._off: set[str] = set()
        self._changes: list[Change] = []
        self._swept: dict[tuple[str, ...], int] = {}
        self._reviewed = 0
        if self.passes and model.leave_ir_3():
            journal.notes.append("IR version 4 from here on, in which initializers are no graph inputs")
        editor = Editor(
            model,
            stop_after=self.stop_after,
            on_commit=journal.commit,
            protection=protection,
            ignored=self.selection.ignores if self.selection.ignore else None,
        )
        editor.listen(self._note)
        if self.watch is not None:
            self.watch(editor)
        lossless = self.before_lossy is not None
        try:
            for group in self._groups():
                if lossless and self.before_lossy and any(p.accuracy is Accuracy.APPROX for p in group):
                    self.before_lossy(model)
                    lossless = False
                self._run_group(group, model, editor, journal)
            self._run_last(model, editor, journal)
        except StopRewriting:
            journal.stopped = True
        return journal

    def _note(self, change: Change) -> None:
        """Remember a change for the passes that only look at what changed; of a new graph they look at everything."""
        if change.whole:
            self._changes.clear()
            self._swept.clear()
        else:
            self._changes.append(change)

    def _groups(self) -> list[list[Pass]]:
        """Runs of passes that settle together; each other pass stands alone, and is tidied up after.

        What settled before a pass that does not settle is run once more behind it: that is what a second run of
        the whole pipeline would begin with.
        """
        groups: list[list[Pass]] = []
        for item in self.passes:
            if item.last:
                continue
            if item.settles and groups and groups[-1][0].settles:
                groups[-1].append(item)
            else:
                groups.append([item])
        if len(groups) > 1 and groups[0][0].settles and not groups[-1][0].settles:
            groups.append(groups[0])
        return groups

    def _run_last(self, model: Model, editor: Editor, journal: Journal) -> None:
        """Run the passes that come behind all others; if they did something, the first group is tidied up again."""
        last = [item for item in self.passes if item.last]
        before = editor.ordinal
        if last:
            self._run_group(last, model, editor, journal)
        first = next(iter(self._groups()), [])
        if editor.ordinal > before and first and first[0].settles:
            self._run_group([*first, *last], model, editor, journal)

    def _run_group(self, group: list[Pass], model: Model, editor: Editor, journal: Journal) -> None:
        quiet = 0  # passes in a row that changed nothing; a whole group of them has settled
        distinct = len(group)
        for round_number in range(_MAX_ROUNDS):
            for item in group:
                before = editor.ordinal
                self._run_pass(item, model, editor, journal)
                if self.after_pass is not None and editor.ordinal > before:
                    self.after_pass(item, model, before + 1, editor.ordinal)
                quiet = quiet + 1 if editor.ordinal == before else 0
                if quiet >= distinct and group[0].settles and self._learned(model, editor):
                    quiet = 0
                if round_number and quiet >= distinct:
                    return
            if not group[0].settles or quiet >= distinct:
                return
        last = [f"{e.rule} at {e.at!r}" for e in journal.entries[-4:]]
        raise GraphoptError(
            f"the passes {', '.join(p.name for p in group)} still change the model after {_MAX_ROUNDS} rounds",
            hint=f"two of them undo each other; the last rewrites: {' → '.join(last)}",
        )

    def _learned(self, model: Model, editor: Editor) -> bool:
        """Whether more is known of local functions, now that some calls are gone or read other values.

        Nothing has been rewritten then, but what is in the functions has to be looked at once more.
        """
        if self._reviewed == editor.ordinal or not model.ir.functions:
            return False
        self._reviewed = editor.ordinal
        bodies = infer_functions_again(model.facts)
        for graph in bodies:
            nodes = tuple(inside_out(graph, lambda *_: None))
            self._changes.append(Change(editor.ordinal, "facts", "", graph, (), (), (), nodes))
        return bool(bodies)

    def _run_pass(self, item: Pass, model: Model, editor: Editor, journal: Journal) -> None:
        self.progress(item.name, 0, None)
        nodes = model.node_count
        with journal.recording(item.name) as record:
            context = Context(
                model=model,
                edit=editor,
                target=self.target,
                record=record,
                accuracy=max(self.accuracy, item.accuracy) if item.accuracy is Accuracy.APPROX else self.accuracy,
                data=self.data,
                seed=self.seed,
                progress=self.progress,
                shared=self.shared,
                changes=self._changes,
                swept=self._swept,
                selection=self.selection,
                off=self._off,
                goals=self.goals,
            )
            try:
                item.run(context)
            finally:
                record.nodes_added += model.node_count - nodes
