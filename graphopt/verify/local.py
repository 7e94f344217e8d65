"""Each rewrite judged on its own: what it replaced and what it put there, computed from the same values.

The values are those that occur when the model runs on a sample: random ones would be outside of the domain of a Log,
beyond the table of a Gather, or no shape at all for a Reshape. One run of the recorder's model serves all rewrites;
a suspicious one is then taken out and verified as any model is, by both executors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from graphopt.runtime.executor import ExecutorError, executor
from graphopt.runtime.package import Package, package
from graphopt.runtime.run import run_model
from graphopt.verify.compare import Accuracy
from graphopt.verify.pairs import RUN, Pair
from graphopt.verify.record import Recorder, Seen, Step
from graphopt.verify.region import Region, region_of
from graphopt.verify.validate import allowance, patience, validate

__all__ = ["Local", "Wrong", "capture", "check_locally"]

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Wrong:
    """A rewrite that does not compute what it replaces: both sides on their own, and inputs on which they differ."""

    step: Step
    reason: str
    region: Region
    inputs: tuple[Arrays, ...]


@dataclass
class Local:
    """The outcome: the first wrong rewrite, how many were compared, why others were not (counted), and what was
    found of those that looked wrong and are not.
    """

    wrong: Wrong | None = None
    compared: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    settled: list[tuple[Step, str]] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def check_locally(recorder: Recorder, feeds: Sequence[Arrays], accuracy_of: Callable[[str], Accuracy]) -> Local:
    """Judge each recorded rewrite by the class that `accuracy_of` gives for its name; lossy ones are left out."""
    found = Local()
    judged: list[Step] = []
    for step in recorder.steps:
        if accuracy_of(step.by) == "approx":
            found.skip("it changes values by design")
        elif step.skipped is not None:
            found.skip(step.skipped)
        elif any(_retyped(step.seen[old], step.seen[new]) for old, new in step.pairs):
            found.skip("it changes a type, which its pass adapts the readers to")
        elif step.pairs:
            judged.append(step)
    if not judged:
        return found
    case = _Case(recorder, list(feeds), accuracy_of)
    try:
        suspects = case.suspects(judged)
    except ExecutorError as error:
        found.skip(f"ONNX Runtime does not run the original: {error.what}")
        return found
    found.compared = len(judged)
    for step in sorted(suspects, key=lambda step: step.ordinal):
        outcome = case.confirm(step)
        if isinstance(outcome, Wrong):
            found.wrong = outcome
            break
        found.settled.append((step, outcome))
    return found


def capture(recorder: Recorder, region: Region, feeds: Sequence[Arrays]) -> list[Arrays]:
    """The inputs of a region as they occur when the recorded model runs on `feeds`. Raises ExecutorError."""
    names = list(dict.fromkeys(region.sources.values()))
    packed = _only(package(recorder.model, outputs=names), names)
    found = []
    for feed in feeds:
        given = run_model(packed, feed, fetch=names, timeout=patience(packed), memory=allowance(packed))
        found.append({name: given[source] for name, source in region.sources.items()})
    return found


class _Case:
    """The rewrites of one recorder, and what is run on which feeds to judge them."""

    def __init__(self, recorder: Recorder, feeds: list[Arrays], accuracy_of: Callable[[str], Accuracy]) -> None:
        self.recorder = recorder
        self.feeds = feeds
        self.accuracy_of = accuracy_of

    def suspects(self, steps: Sequence[Step]) -> list[Step]:
        """The steps whose sides differ, and those of which ONNX Runtime does not compute a side.

        Raises ExecutorError where the original itself does not run.
        """
        model = self.recorder.model
        names = [str(value.name) for step in steps for pair in step.pairs for value in pair]
        packed = package(model, outputs=names)
        try:
            return self._suspects(packed, steps)
        except ExecutorError:
            self._differing(_only(packed, [str(value.name) for value in model.graph.outputs]), [])
        return self._search(packed, list(steps))

    def _search(self, packed: Package, steps: list[Step]) -> list[Step]:
        """By halves where the whole does not run: that one side is no valid model says nothing of the others."""
        try:
            return self._suspects(packed, steps)
        except ExecutorError:
            if len(steps) == 1:
                return steps
            middle = len(steps) // 2
            return self._search(packed, steps[:middle]) + self._search(packed, steps[middle:])

    def _suspects(self, packed: Package, steps: Sequence[Step]) -> list[Step]:
        owned = [
            (step, (str(old.name), str(new.name), self.accuracy_of(step.by)))
            for step in steps
            for old, new in step.pairs
        ]
        pairs = [pair for _, pair in owned]
        found = self._differing(_only(packed, [name for a, b, _ in pairs for name in (a, b)]), pairs)
        return list({id(owned[i][0]): owned[i][0] for i in found}.values())

    def _differing(self, packed: Package, pairs: Sequence[Pair]) -> list[int]:
        runs = len(self.feeds) * (1 + len(pairs) // RUN)
        found: list[int] = executor().call(
            "graphopt.verify.pairs:differing",
            packed,
            self.feeds,
            pairs,
            timeout=runs * patience(packed),
            memory=allowance(packed),
        )
        return found

    def confirm(self, step: Step) -> Wrong | str:
        """The suspicious step on its own, judged by both executors; else why it is not wrong, or not to be judged."""
        region = region_of(step, self.recorder.model)
        if isinstance(region, str):
            return f"its sides differ, but {region}"
        try:
            values = capture(self.recorder, region, self.feeds)
        except ExecutorError as error:
            return f"what it reads cannot be computed: {error.what}"
        accuracy = self.accuracy_of(step.by)
        found = validate(package(region.before), package(region.after), values, accuracy=accuracy)
        if found.status != "failed":
            return found.reason or "its sides agree when they stand alone"
        return Wrong(step, found.reason or "its sides differ", region, tuple(values))


def _only(packed: Package, wanted: Sequence[str]) -> Package:
    """The package with those outputs alone, and without the nodes that they do not need."""
    proto = onnx.ModelProto.FromString(packed.proto)
    graph = proto.graph
    needed, nodes = set(wanted), []
    for node in reversed(graph.node):
        node.name = ""  # both sides of a rewrite and the original have the same
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(_read_by(node))
    ports = tuple(port for port in packed.outputs if port.name in set(wanted))
    infos = [info for info in graph.output if info.name in set(wanted)]
    del graph.node[:], graph.output[:]
    graph.node.extend(reversed(nodes))
    graph.output.extend(infos)
    return replace(packed, proto=proto.SerializeToString(), outputs=ports)


def _read_by(node: onnx.NodeProto) -> list[str]:
    """Names that a node and its bodies read, those of the bodies' own values among them."""
    names = list(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            names += [value.name for value in body.output]
            for child in body.node:
                names += _read_by(child)
    return names


def _retyped(old: Seen, new: Seen) -> bool:
    """Whether two values are known to have different types."""
    if None not in (old.dtype, new.dtype) and old.dtype != new.dtype:
        return True
    return old.shape is not None and new.shape is not None and len(old.shape) != len(new.shape)
