"""`bisect`: the first rewrite of a run that makes the model bad."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.compile import Job
from graphopt.culprit import Culprit, crashed, culprit_of
from graphopt.emit.emitter import EmitOptions
from graphopt.engine.assemble import Asked, Ruleful
from graphopt.engine.passes import Progress, silent
from graphopt.engine.selection import Selection
from graphopt.errors import DataError, GraphoptError, ModelError, TargetError, UsageError
from graphopt.interop.clone import clone
from graphopt.ir.collector import paused_gc
from graphopt.ir.draft import Change
from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.targets.target import Target
from graphopt.verify.bisect import first_bad
from graphopt.verify.criteria import (
    Builds,
    Command,
    Criterion,
    Metric,
    SameValues,
    State,
    Tell,
    all_of,
    is_well_formed,
)
from graphopt.verify.recipe import prepared
from graphopt.verify.record import Recorder

__all__ = ["Bisection", "bisect"]

_OF_THE_CALLER = (UsageError, DataError, ModelError, TargetError)  # no rewrite is to blame for these


@dataclass(frozen=True)
class Bisection:
    """What `bisect` found. `culprit` is None where the result of the whole run is good.

    `rewrites` of the whole run; `replays`: how often passes were run, the whole run included; `probes`: how many
    states of the model were judged; `seconds` of wall time.
    """

    culprit: Culprit | None
    rewrites: int
    replays: int
    probes: int
    seconds: float


def bisect(
    model: Any,
    passes: str | Sequence[Asked] = "O2",
    *,
    rules: Iterable[Ruleful] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    protect: Sequence[str] = (),
    keep_going: bool = False,
    target: str | Target = "onnx",
    data: Any = None,
    preprocess: str | None = None,
    oracle: str | None = None,
    evaluate: Callable[[Any], float] | None = None,
    max_drop: float | None = None,
    build: str | None = None,
    options: EmitOptions | None = None,
    accuracy: str | None = None,
    seed: int = 0,
    allow_links: bool = False,
    timeout: float = 600.0,
    progress: Progress = silent,
    tell: Tell = lambda _: None,
    show: Tell = lambda _: None,
) -> Bisection:
    """Find the first rewrite that makes a model bad, by replaying the beginning of a run.

    `model` to `keep_going`, `target`, `data`, `preprocess`, `accuracy`, `seed` and `allow_links` are those of
    `optimize`. A model is bad if onnx's checker or the runtime refuses it, or if it computes something else than
    the original. Instead, it is bad if one of these says so: `oracle`, a command that gets the path of the model
    for `{model}` and ends with another exit code than 0, or not within `timeout` seconds; `evaluate`, if the metric
    falls by more than `max_drop` percent of the original's; `build`, a suffix such as `".engine"`, if that file
    cannot be written, with `options`. `tell` gets a line for each step, `show` what the command prints.

    Raises `UsageError` if the original itself is bad, and what `optimize` raises for wrong arguments.
    """
    if evaluate is not None and max_drop is None:
        raise UsageError("a metric needs the fall that is too much", hint="give max_drop, in percent")
    selection = Selection(tuple(select), tuple(ignore), tuple(protect), keep_going)

    steps: list[str] = []

    def follow(what: str, done: int, total: int | None) -> None:
        if what not in steps[-1:]:
            steps.append(what)
        progress(what, done, total)

    def start(stop_after: int | None) -> Job:
        return Job(
            model,
            passes,
            target=target,
            data=prepared(data, preprocess),
            accuracy=accuracy,
            stop_after=stop_after,
            seed=seed,
            allow_links=allow_links,
            rules=rules,
            selection=selection,
            progress=follow,
        )

    job = start(None)
    criteria: list[Criterion] = []
    if oracle is not None:
        criteria.append(Command(oracle, timeout, show))
    if evaluate is not None and max_drop is not None:
        criteria.append(Metric(evaluate, max_drop))
    if build is not None:
        criteria.append(Builds(build, job.target.name, options or EmitOptions()))
    return _Search(start, job, criteria, steps, tell).run()


class _Search:
    """One search: the replays it takes, and what it has learnt so far."""

    def __init__(
        self,
        start: Callable[[int | None], Job],
        job: Job,
        criteria: list[Criterion],
        steps: Sequence[str],
        tell: Tell,
    ) -> None:
        self._start, self._job, self._steps, self._tell = start, job, steps, tell
        self._begin = time.perf_counter()
        self._replays = self._probes = 0
        self._entries: list[tuple[str, str]] = []
        self._reasons: dict[int, str] = {}
        job.prepare()
        if not criteria:
            if job.no_feeds is not None:
                hint = "give inputs with --data, or say what is bad with --oracle"
                raise DataError(f"values cannot be compared: {job.no_feeds}", where=job.source, hint=hint)
            assert job.original is not None
            criteria = [is_well_formed, SameValues(job.original, job.feeds, job.accuracy)]
        self._criterion = all_of(criteria)

    def run(self) -> Bisection:
        """Judge both ends, then search between them."""
        why = self._criterion(State(_snapshot(self._job.model)))
        if why is not None:
            raise UsageError(f"the original itself fails: {why}", where=self._job.source)
        replay = _Replay(self._job)
        with paused_gc():
            error = self._play(replay)
        self._entries = replay.entries
        last = len(replay.entries)
        if self._is_bad(last, replay.state(self._job.model)):
            number = first_bad(0, last, self._states, self._is_bad)
            return self._result(self._culprit(number))
        if isinstance(error, _OF_THE_CALLER):
            raise error
        if error is not None:
            self._tell(f"the run fails behind rewrite {last}: {error}")
            running = next(name for name in reversed(self._steps) if name in {p.name for p in self._job.passes})
            return self._result(crashed(self._job, replay.editor, running, error, last + 1))
        return self._result(None)

    def _result(self, culprit: Culprit | None) -> Bisection:
        seconds = time.perf_counter() - self._begin
        return Bisection(culprit, len(self._entries), self._replays, self._probes, seconds)

    def _play(self, replay: _Replay) -> Exception | None:
        """Run the passes; what a rule or pass raised, if one did."""
        self._replays += 1
        try:
            replay.run()
        except Exception as error:
            return error
        return None

    def _is_bad(self, number: int, state: State) -> bool:
        self._probes += 1
        why = self._criterion(state)
        if why is not None:
            self._reasons[number] = why
        first = "no rewrite" if number == 0 else "rewrite 1" if number == 1 else f"rewrites 1 to {number}"
        self._tell(f"{first}: {'good' if why is None else f'bad: {why}'}")
        return why is not None

    def _states(self, stops: Sequence[int]) -> dict[int, State]:
        gc.collect()  # graphs are full of cycles, and the states of the last replay are no longer needed
        with paused_gc():
            replay = _Replay(self._start(max(stops)), stops)
            self._replayed(replay)
        return replay.states

    def _replayed(self, replay: _Replay) -> None:
        error = self._play(replay)
        if error is not None:
            raise error
        made = replay.entries
        if made != self._entries[: len(made)] or len(made) != min(replay.last, len(self._entries)):
            pairs = zip(made, self._entries, strict=False)
            at = next((i for i, (found, known) in enumerate(pairs) if found != known), len(made))
            raise GraphoptError(
                f"a replay takes another course at rewrite {at + 1}, so nothing can be found this way",
                where=self._job.source,
                hint="a pass decides by time or by chance; leave it out",
            )

    def _culprit(self, number: int) -> Culprit:
        """One more replay, in which the rewrite is recorded."""
        job = self._start(number)
        replay = _Replay(job, record=number)
        self._replayed(replay)
        assert replay.recorder is not None
        return culprit_of(job, replay.recorder, self._job.feeds, self._reasons[number])


class _Replay:
    """One run of the passes of a job: its rewrites, states at `stops`, and one of its rewrites recorded."""

    def __init__(self, job: Job, stops: Sequence[int] = (), record: int | None = None) -> None:
        self._job, self._stops, self._record = job, frozenset(stops), record
        self.last = max(stops, default=record or 0)
        self.entries: list[tuple[str, str]] = []
        self.states: dict[int, State] = {}
        self.recorder: Recorder | None = None
        self.editor: Editor
        self._lossless: Model | None = None

    def run(self) -> None:
        """Raises whatever the passes raise."""
        self._job.replay(self._watch, self._keep)

    def state(self, model: Model) -> State:
        return State(model, self._lossless)

    def _watch(self, editor: Editor) -> None:
        self.editor = editor
        editor.listen(self._committed)
        if self._record == 1:
            self.recorder = Recorder(editor)

    def _keep(self, model: Model) -> None:
        self._lossless = _snapshot(model)

    def _committed(self, change: Change) -> None:
        self.entries.append((change.by, change.at))
        if change.ordinal in self._stops:
            self.states[change.ordinal] = self.state(_snapshot(self._job.model))
        if self._record is not None and change.ordinal == self._record - 1:
            self.recorder = Recorder(self.editor)


def _snapshot(model: Model) -> Model:
    """A copy that shares the weights' bytes; the file that the model came from describes it no longer."""
    source = model.source
    return Model(clone(model.ir), source and dataclasses.replace(source, proto=None))
