"""The rewrite that a search has found: what it did, whether its region alone shows the fault, and files about it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as oir

from graphopt.check.golden import run_cases
from graphopt.check.golden_file import parse_golden
from graphopt.check.golden_update import golden_text
from graphopt.compile import Job
from graphopt.engine.catalog import Named, find_rules
from graphopt.errors import DataError, GraphoptError, RuleError, UsageError
from graphopt.interop.convert import from_ir
from graphopt.interop.kinds import Kind
from graphopt.ir.edit import Editor
from graphopt.ir.text import region as region_around
from graphopt.ir.text import to_text
from graphopt.ir.value import Node
from graphopt.rules.rule import Accuracy, Rule
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import package
from graphopt.verify.local import capture
from graphopt.verify.record import Recorder
from graphopt.verify.region import Region, region_of
from graphopt.verify.validate import made_up_feeds, validate

__all__ = ["Culprit", "crashed", "culprit_of"]

_MARK = "graphopt bisect:"  # how a file of ours begins; no other file is written over
_MOST_ELEMENTS = 1 << 14  # constants of a test, which are written out
_FED = 1 << 10  # elements of an input that is written into a test
_SHOWN = 64
_SAMPLES = 4

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Culprit:
    """The first rewrite that makes the model bad.

    `rule`: as the journal calls it; `where`: file and line of its definition, None for a pass without rules.
    `ordinal` among the rewrites of the run; `node`: where it was made; `matched`: the nodes it was made from.
    `reason`: what is bad from then on. `alone`: whether its region alone shows that. `before` and `after`: the region
    as ONNX text, None where it cannot be cut out. `test`: a golden test that fails, or None, and `no_test` why not.
    `failed`: the rewrite was not completed, because the rule or pass raised.
    """

    rule: str
    where: str | None
    ordinal: int
    node: str
    matched: tuple[str, ...]
    reason: str
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    alone: str | None = None
    before: str | None = None
    after: str | None = None
    test: Test | None = None
    no_test: str | None = None
    failed: bool = False

    @property
    def title(self) -> str:
        """`rewrite 12, fuse.gelu_erf at '/block3/Mul'`"""
        return f"rewrite {self.ordinal}, {self.rule} at {self.node!r}"

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write the region before and after, and the test, into a folder, which is made if need be.

        Earlier files of a search are replaced. Raises `UsageError`, with nothing written, if a file of somebody else
        stands in the way.
        """
        place = Path(folder)
        texts = {"before.onnxtxt": self.before, "after.onnxtxt": self.after}
        files = {name: f"# {_MARK} {self.title}\n{text}" for name, text in texts.items() if text is not None}
        if self.test is not None:
            name = re.sub(r"\W", "_", self.rule.partition(".")[2] or self.rule)
            files[f"test_{name}.onnxtxt"] = self.test.text(self.title, place)
        for name in files:
            _require_ours(place / name)
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (place / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write the findings: {error.strerror}", where=str(place)) from None
        return tuple(place / name for name in files)


@dataclass(frozen=True)
class Test:
    """A golden test: the rule, the file that defines it if none is installed that does, the models and the inputs."""

    rule: str
    file: Path | None
    settings: Mapping[str, str]
    before: onnx.ModelProto
    after: onnx.ModelProto
    feeds: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def text(self, title: str, folder: Path) -> str:
        """The test as it stands in a file of `folder`."""
        settings = dict(self.settings)
        if self.file is not None:
            settings["rules"] = os.path.relpath(self.file, folder)
        comment = (
            f"{_MARK} {title}\nWhat the rule makes of the region today stands behind `after`, and this test fails.\n"
            "Once the rule is right, `graphopt rules test --update` writes down what it makes then."
        )
        return golden_text(
            self.rule, title, self.before, self.after,
            settings=settings.items(), feeds=self.feeds.items(), comment=comment,
        )  # fmt: skip

    def failure(self) -> str | None:
        """How it fails, None if it does not. Raises UsageError where it cannot be run, for want of the rule."""
        folder = Path.cwd()
        (result,) = run_cases(parse_golden(self.text("a region", folder), folder / "test.onnxtxt"))
        return result.failure


def culprit_of(job: Job, recorder: Recorder, feeds: Sequence[Arrays], reason: str) -> Culprit:
    """The latest rewrite that was recorded in a replay of the job. `feeds`: what the original is run on."""
    step = recorder.steps[-1]
    rule = _rule_of(job, step.by)
    common: dict[str, Any] = {
        "rule": step.by, "where": None if rule is None else rule.where, "ordinal": step.ordinal, "node": step.at,
        "matched": step.matched, "reason": reason, "removed": step.removed, "added": step.added,
    }  # fmt: skip
    if step.whole:
        why = "the whole model was replaced"
        hint = f"compare what `graphopt run` writes with --stop-after {step.ordinal - 1} and {step.ordinal}"
        return Culprit(**common, alone=f"{why}; {hint}", no_test=why)
    region = region_of(step, recorder.model)
    if isinstance(region, str):
        why = f"the region cannot stand alone: {region}"
        return Culprit(**common, alone=why, no_test=why)
    accuracy = job.accuracy if rule is None else rule.accuracy
    alone, values = _alone(recorder, region, feeds, accuracy)
    test = _test(job, step.by, rule, _proto(region.before), _proto(region.after), values)
    before, after = (to_text(side, limit=_SHOWN, metadata=False) for side in (region.before, region.after))
    if isinstance(test, str):
        return Culprit(**common, alone=alone, before=before, after=after, no_test=test)
    return Culprit(**common, alone=alone, before=before, after=after, test=test)


def crashed(job: Job, editor: Editor, running: str, error: Exception, ordinal: int) -> Culprit:
    """The rewrite at which a rule, or the pass `running`, raised; it would have been the one with that ordinal."""
    reason = str(error) if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
    begun = editor.begun
    if not isinstance(error, RuleError) or begun is None:
        return Culprit(running, None, ordinal, "?", (), reason, no_test="no rule raised it, but a pass", failed=True)
    rule = _rule_of(job, begun.by)
    nodes = [Node(job.model, node) for node in begun.sources if job.model.is_alive(node)]
    region = region_around(job.model, nodes) if nodes else None
    test = "what it matched is gone" if region is None else _test(job, begun.by, rule, region, region, {})
    return Culprit(
        rule=begun.by,
        where=None if rule is None else rule.where,
        ordinal=ordinal,
        node=begun.anchor.name or begun.anchor.op_type,
        matched=tuple(node.name for node in nodes),
        reason=reason,
        before=None if region is None else to_text(region, limit=_SHOWN, metadata=False),
        test=None if isinstance(test, str) else test,
        no_test=test if isinstance(test, str) else None,
        failed=True,
    )


def _rule_of(job: Job, by: str) -> Rule[Any] | None:
    return next((rule for item in job.passes for rule in item.rules() if f"{item.name}.{rule.name}" == by), None)


def _alone(
    recorder: Recorder, region: Region, feeds: Sequence[Arrays], accuracy: Accuracy
) -> tuple[str, Mapping[str, np.ndarray[Any, Any]]]:
    """Whether the two sides differ, first on what occurs in the model, then on made-up inputs; and such inputs."""
    before, after = package(region.before), package(region.after)
    tried = []
    for source in ("of the model", "made up"):
        try:
            given = capture(recorder, region, feeds) if source == "of the model" else _made_up(region)
        except (DataError, ExecutorError):
            continue
        for sample in given:
            found = validate(before, after, [sample], accuracy=accuracy.label)
            if found.status == "failed":
                return f"the region alone shows it, on inputs {source}: {found.reason}", sample
            if found.status == "ok":
                tried.append(source)
    if not tried:
        return "nothing here runs the region alone", {}
    inputs = " and ".join(dict.fromkeys(tried))
    return f"the region alone does not show it, on inputs {inputs}: its surroundings matter", {}


def _made_up(region: Region) -> list[Arrays]:
    return made_up_feeds(region.before, samples=_SAMPLES)


def _test(
    job: Job,
    by: str,
    rule: Rule[Any] | None,
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    values: Mapping[str, np.ndarray[Any, Any]],
) -> Test | str:
    """A golden test of the region that fails, or why there is none."""
    if rule is None:
        return "a pass made the rewrite, not a rule"
    if sum(_elements(tensor) for tensor in before.graph.initializer) > _MOST_ELEMENTS:
        return "the constants of the region are too large to be written out"
    settings = {} if job.target.name == "onnx" else {"target": job.target.name}
    feeds = {name: array for name, array in values.items() if array.size <= _FED}
    named = _named(job, by, rule)
    if named is None:  # it stands in a program, which must not run once more for a test
        return "the rule is in no rules file"
    test = Test(by, named.file, settings, before, after, feeds)
    try:
        failure = test.failure()
    except UsageError as error:
        return f"it cannot be run: {error.what}"
    if failure is None:
        return "the region alone passes it"
    return "the rule does not fire on the region alone" if failure.startswith("nothing was rewritten") else test


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _named(job: Job, by: str, rule: Rule[Any]) -> Named | None:
    """The rule as it is found by its name, in the installed passes or the rules files of the run."""
    try:
        found = find_rules(by, [Path(file) for file in job.assembly.files])
    except UsageError:
        return None
    return next((named for named in found if named.rule is rule), None)


def _proto(model: oir.Model) -> onnx.ModelProto:
    proto: onnx.ModelProto = from_ir(model, Kind.PROTO)
    return proto


def _require_ours(path: Path) -> None:
    """Raise `UsageError` for a file that no search has written."""
    try:
        with path.open(encoding="utf-8") as file:
            ours = file.readline().startswith(f"# {_MARK}")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise UsageError("would be written over", where=str(path), hint="name another folder with -o")
