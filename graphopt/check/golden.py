"""Running golden cases: the rules make of the model what the file says, at the edge of a graph and inside of one,
and what is computed stays the same."""

from __future__ import annotations

import difflib
import functools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.check.execute import Pair, run_pairs
from graphopt.check.golden_file import EDGE, NO_MATCH, Case, Section
from graphopt.check.inputs import inputs_for
from graphopt.check.judge import Verdict, judge
from graphopt.check.normal import inside, names_in, normal_text, readable
from graphopt.check.subject import Subject, subject_of
from graphopt.engine.pipeline import Pipeline
from graphopt.errors import GraphoptError, ModelError, UsageError, nearest
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.kinds import Kind
from graphopt.ir.model import Model
from graphopt.ir.text import from_text, tensor_from_text, tensor_to_text
from graphopt.rules.rule import Accuracy

__all__ = ["Result", "Trial", "run_cases"]

_FEW = 16  # elements of an input that is shown with a failure
_INSIDE = "inside of a graph, between Identity operators"


@dataclass(frozen=True)
class Result:
    """How a case went. `failure`: what is wrong, in one or more lines, None if nothing is; `seconds` for all of it."""

    case: Case
    failure: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        return self.failure is None


def run_cases(cases: Iterable[Case], files: Sequence[Path] = ()) -> list[Result]:
    """Run cases. `files`: rules files in which their rules may be found, besides the installed passes.

    Raises `UsageError` with file and line for a case that cannot be run: no valid model, no such rule.
    """
    trials = [Trial(case, files) for case in cases]
    ran = iter(run_pairs([pair for trial in trials for pair in trial.pairs]))
    results = []
    for trial in trials:
        start = time.perf_counter()
        verdicts = [judge(*next(ran), trial.subject.judged) for _ in trial.pairs]
        failure = trial.failure or _computed(trial, verdicts)
        results.append(Result(trial.case, failure, trial.seconds + time.perf_counter() - start))
    return results


class Trial:
    """A case, what came of it as far as no model has to run for that, and the models that remain to be run."""

    def __init__(self, case: Case, files: Sequence[Path]) -> None:
        start = time.perf_counter()
        self.case = case
        self.subject = subject_of(case, files)
        self.before = _model(case, case.before.text, case.before.first)
        self.failure: str | None = None
        self.pairs: list[Pair] = []
        self._ran: _Ran | None = None
        try:
            self._apply()
        except _Wrong as wrong:
            self.failure = str(wrong)
        self.seconds = time.perf_counter() - start

    def expectation(self) -> list[str] | None:
        """The lines to write down as expected; None if what stands there is right, or nothing can be expected."""
        ran = self._ran
        if ran is None or self.failure is None:
            return None
        if not ran.fired:
            return [f"# unchanged: {ran.declined.most_common(1)[0][0] if ran.declined else NO_MATCH}"]
        return ["# after", *readable(ran.model, names_in(self.before)).rstrip().split("\n")]

    def _apply(self) -> None:
        self._ran = ran = _run(self.before, self.subject)
        if ran.fired:
            _check_valid(self.before, ran.model)
            if self.subject.settles and (again := _run(ran.model, self.subject).fired):
                raise _Wrong(f"{', '.join(again)} fired once more on the result\n{readable(ran.model).rstrip()}")
        self._compare(ran)
        if self.case.settings.get("place") != EDGE:
            self._compare_inside(ran)
        if ran.fired:
            self.pairs = [(self.before, ran.model, feeds) for feeds in self._inputs()]

    def _compare(self, ran: _Ran) -> None:
        case = self.case
        if case.unchanged is not None:
            _check_unchanged(ran, case.unchanged, "")
        elif case.after is None:
            raise _Wrong("it is not said what is expected: --update writes down what happens")
        else:
            expected = normal_text(self._expected(case.after))
            found = normal_text(ran.model)
            if not ran.fired and expected != found:
                raise _Wrong(f"nothing was rewritten: {ran.why_not}")
            _check_same(expected, found, "expected", "found", "the result is not the expected one")

    def _expected(self, section: Section) -> onnx.ModelProto:
        try:
            return _model(self.case, section.text, section.first)
        except UsageError as error:  # unlike a wrong model to begin with, an update can put this right
            raise _Wrong(str(error)) from None

    def _compare_inside(self, ran: _Ran) -> None:
        """The same must happen where the values are no inputs and outputs of the graph."""
        within = _run(inside(self.before), self.subject)
        if self.case.unchanged is not None:
            _check_unchanged(within, self.case.unchanged, f" {_INSIDE}")
            return
        expected = normal_text(inside(ran.model), without_identity=True)
        found = normal_text(within.model, without_identity=True)
        _check_same(expected, found, "at the edge", "inside", f"something else happens {_INSIDE}")

    def _inputs(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        case = self.case
        given: dict[str, np.ndarray[Any, Any]] = {}
        known = {value.name for value in self.before.graph.input}
        for line, text in case.feeds:
            name, array = _tensor(case, text, line)
            if name not in known:
                raise UsageError(
                    f"the model has no input {name!r}", where=f"{case.file}:{line}", hint=nearest(name, known)
                )
            given[name] = array
        try:
            return inputs_for(self.before, given, special=self.subject.judged <= Accuracy.CLOSE)
        except GraphoptError as error:
            raise UsageError(
                f"no inputs can be made up: {error.what}",
                where=f"{case.file}:{case.line}",
                hint="give them in lines such as `# feed: int64[2] ids = {0, 1}`",
            ) from None


class _Wrong(Exception):
    """A case that fails, and how."""


@dataclass(frozen=True)
class _Ran:
    """A model after the passes; how often each rule rewrote something, and how often it declined for each reason."""

    model: onnx.ModelProto
    fired: Counter[str]
    declined: Counter[str]

    @property
    def why_not(self) -> str:
        return f"declined: {'; '.join(self.declined)}" if self.declined else "no pattern matches"


def _run(model: onnx.ModelProto, subject: Subject) -> _Ran:
    loaded = Model(*to_ir(model))
    try:
        journal = Pipeline(subject.passes, target=subject.target, accuracy=subject.allowed).run(loaded)
    except GraphoptError as error:
        raise _Wrong(str(error)) from None
    declined: Counter[str] = Counter()
    for record in journal.records.values():
        for counts in record.declined.values():
            declined.update(counts)
    return _Ran(from_ir(loaded.ir, Kind.PROTO), Counter(entry.rule for entry in journal.entries), declined)


# -- reading ------------------------------------------------------------------------------------


def _model(case: Case, text: str, line: int) -> onnx.ModelProto:
    try:
        return _parsed(text, str(case.file), line)
    except ModelError as error:
        raise UsageError(error.what, where=error.where, hint=error.hint) from None


@functools.lru_cache(maxsize=64)
def _parsed(text: str, file: str, line: int) -> onnx.ModelProto:
    """A model that is valid; not to be changed."""
    model = from_text(text, file, line)
    where = f"{file}:{line}"
    if not model.ir_version or not model.opset_import:
        hint = 'begin it with <ir_version: 10, opset_import: ["" : 20]>'
        raise UsageError("the model does not say its IR version and its opset", where=where, hint=hint)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UsageError(f"this is no valid model: {' '.join(str(error).split())}", where=where) from None
    return model


def _tensor(case: Case, text: str, line: int) -> tuple[str, np.ndarray[Any, Any]]:
    try:
        return tensor_from_text(text, str(case.file), line)
    except ModelError as error:
        raise UsageError(error.what, where=error.where, hint=error.hint) from None


# -- what is wrong ------------------------------------------------------------------------------


def _check_valid(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(after, full_check=True)
    except Exception as error:
        said = " ".join(str(error).split())
        raise _Wrong(f"the result is no valid model: {said}\n{readable(after).rstrip()}") from None
    for what, old, new in (
        ("inputs", before.graph.input, after.graph.input),
        ("outputs", before.graph.output, after.graph.output),
    ):
        if [(v.name, v.type) for v in old] != [(v.name, v.type) for v in new]:
            raise _Wrong(f"the result has other {what} than the model\n{readable(after).rstrip()}")


def _check_same(expected: str, found: str, a: str, b: str, what: str) -> None:
    if expected != found:
        lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), a, b, lineterm="", n=30)
        raise _Wrong("\n".join([what, *lines]))


def _check_unchanged(ran: _Ran, reason: str, place: str) -> None:
    if ran.fired:
        found = readable(ran.model).rstrip()
        raise _Wrong(f"nothing was to change{place} ({reason}), but {', '.join(ran.fired)} fired\n{found}")
    if reason == NO_MATCH:
        if ran.declined:
            raise _Wrong(f"expected no match{place}, but it matches; {ran.why_not}")
    elif not any(_fits(reason, found) for found in ran.declined):
        raise _Wrong(f"expected that it declines{place}: {reason}\n  found: {ran.why_not}")


def _fits(expected: str, found: str) -> bool:
    return fnmatchcase(found, expected) if "*" in expected else expected in found


def _computed(trial: Trial, verdicts: Sequence[Verdict]) -> str | None:
    """What is wrong with the values that are computed."""
    for verdict, (_, after, feeds) in zip(verdicts, trial.pairs, strict=True):
        if verdict.kind not in ("same", "unknown"):
            shown = [f"# feed: {tensor_to_text(name, array)}" for name, array in feeds.items() if array.size <= _FEW]
            return "\n".join([f"other values are computed: {verdict.reason}", *shown, readable(after).rstrip()])
    if verdicts and all(verdict.kind == "unknown" for verdict in verdicts):
        hint = "give other inputs, in lines such as `# feed: float[2] x = {1, 2}`"
        return f"nothing here runs the model: {verdicts[0].reason}\n  {hint}"
    return None
