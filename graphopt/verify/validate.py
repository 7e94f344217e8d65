"""Does the result compute what the original computes? Both run, outputs are compared, disputes are settled.

ONNX Runtime runs both with its optimizations off, one after the other on the same weights. Three things can
turn a difference into agreement, and the report says which: outputs that the original itself does not repeat
(random operators) are left out; onnx's reference evaluator sees no difference (ONNX Runtime has bugs of its
own); or the difference is no larger than that between the two executors on the original, the model's own
numerical noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import DataError
from graphopt.runtime.executor import ExecutorError, ExecutorTimeout, executor
from graphopt.runtime.package import Package, package
from graphopt.runtime.run import open_session, release_weights
from graphopt.verify.compare import Accuracy, OutputReport, compare
from graphopt.verify.dims import Plan
from graphopt.verify.feeds import Shapes, plans, synthesize

__all__ = ["Original", "Verification", "allowance", "made_up_feeds", "patience", "validate", "verify"]

Arrays = dict[str, np.ndarray[Any, Any]]

TIMEOUT = 60.0
"""Seconds that one run may take before verification gives up, for a model without weights."""

_WEIGHTS_PER_SECOND = 20e6  # bytes: large models are given more time, even on a slow disk and a busy machine
_MEMORY = 1 << 31  # bytes that a run may take beyond a few times the weights
_REFERENCE_TIMEOUT = 60.0
_NOISE_FACTOR = 4.0
_MOST_NOISE = 0.05  # a model whose executors disagree by more is chaotic: agreement says nothing
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclass(frozen=True)
class Verification:
    """The outcome.

    `status`: ok, failed, or skipped when nothing could be compared; `reason` says why it is not ok, or how a
    dispute was settled. `outputs`: the worst sample of each output. `executor`: what ran both models.
    """

    status: Literal["ok", "failed", "skipped"]
    reason: str | None = None
    outputs: tuple[OutputReport, ...] = ()
    samples: int = 0
    seconds: float = 0.0
    executor: Literal["onnxruntime", "reference", "none"] = "none"
    feeds: Literal["synthetic", "data"] = "synthetic"
    accuracy: Accuracy = "close"
    left_out: tuple[str, ...] = field(default=())

    @property
    def worst(self) -> OutputReport | None:
        """The output that differs most: one that fails before one that does not."""
        return max(self.outputs, key=lambda output: (not output.ok, output.error), default=None)


def verify(
    original: ir.Model,
    result: ir.Model,
    *,
    accuracy: Accuracy = "close",
    tolerance: float | None = None,
    data: Iterable[Arrays] | None = None,
    facts: Shapes | None = None,
    samples: int = 1,
    timeout: float | None = None,
) -> Verification:
    """Verify `result` against `original` on the first `samples` of `data`, or on made-up inputs."""
    start = time.perf_counter()
    before, after = package(original), package(result)
    if data is not None:
        feeds = list(islice(data, samples))
    else:
        try:
            feeds = made_up_feeds(original, before, facts=facts, samples=samples)
        except (DataError, ExecutorError) as error:
            return Verification("skipped", str(error), seconds=time.perf_counter() - start, accuracy=accuracy)
    found = validate(before, after, feeds, accuracy=accuracy, tolerance=tolerance, timeout=timeout)
    release_weights()
    seconds = time.perf_counter() - start
    return replace(found, seconds=seconds, feeds="synthetic" if data is None else "data")


def made_up_feeds(
    model: ir.Model, packed: Package | None = None, *, facts: Shapes | None = None, samples: int = 1, seed: int = 0
) -> list[Arrays]:
    """Inputs that ONNX Runtime accepts for `model`, found by trying sizes.

    When it does not even load the model, the first attempt is returned untried. Raises DataError for inputs
    that cannot be made up, ExecutorTimeout for a model that does not come to an end, and the runtime's first
    refusal when no attempt is accepted.
    """
    plan = _accepted_plan(model, packed, facts)
    return [synthesize(model, facts, seed=seed + i, plan=plan) for i in range(samples)]


def _accepted_plan(model: ir.Model, packed: Package | None, facts: Shapes | None) -> Plan:
    choices = plans(model)
    if len(choices) == 1:
        return choices[0]
    attempt = synthesize(model, facts, plan=choices[0])  # raises before a session is opened in vain
    try:
        return _first_accepted(choices, attempt, packed or package(model), model, facts)
    except ExecutorTimeout as error:  # other sizes would take as long
        raise ExecutorTimeout(_too_long(error), where=error.where, hint=error.hint) from None


def _first_accepted(
    choices: Sequence[Plan], attempt: Arrays, packed: Package, model: ir.Model, facts: Shapes | None
) -> Plan:
    try:
        session = open_session(packed, timeout=patience(packed), memory=allowance(packed))
    except ExecutorTimeout:
        raise
    except ExecutorError:
        return choices[0]
    with session:
        refusal: ExecutorError | None = None
        for plan in choices:
            try:
                session.run(attempt if plan is choices[0] else synthesize(model, facts, plan=plan))
            except ExecutorTimeout:
                raise
            except ExecutorError as error:
                refusal = refusal or error
            else:
                return plan
    assert refusal is not None
    raise refusal


def patience(packed: Package) -> float:
    """Seconds that one run of a model may take: an endless Loop must not keep anybody waiting for long."""
    return TIMEOUT + packed.weight_bytes / _WEIGHTS_PER_SECOND


def allowance(packed: Package) -> int:
    """Bytes that opening or running a model may add to the child process: a few lines of text can ask for exabytes."""
    return _MEMORY + 4 * packed.weight_bytes


class Original:
    """A model and what it computes from `feeds`, for comparison with any number of results.

    `timeout`: seconds that each run may take; by default a minute, and more for a large model. A model that takes
    longer, or gigabytes beyond its weights, is not verified, which the outcome says.
    """

    def __init__(self, packed: Package, feeds: Sequence[Arrays], *, timeout: float | None = None) -> None:
        self.package = packed
        self.feeds = list(feeds)
        self.timeout = patience(packed) if timeout is None else timeout
        self._computed: tuple[list[Arrays], set[str]] | ExecutorError | None = None
        self._plain: list[Arrays] | ExecutorError | None = None

    def compare(
        self, result: Package, *, accuracy: Accuracy = "close", tolerance: float | None = None
    ) -> Verification:
        """Does `result` compute the same? See the module for how a difference is judged."""
        start = time.perf_counter()
        found = _Case(self, result, accuracy, tolerance).judge()
        return replace(found, samples=len(self.feeds), seconds=time.perf_counter() - start, accuracy=accuracy)

    @property
    def computed(self) -> tuple[list[Arrays], set[str]]:
        """What ONNX Runtime computes, and the names of outputs that it computes differently each time."""
        if self._computed is None:
            try:
                self._computed = self._run_twice()
            except ExecutorError as error:
                self._computed = error
        if isinstance(self._computed, ExecutorError):
            raise self._computed
        return self._computed

    def _run_twice(self) -> tuple[list[Arrays], set[str]]:
        with open_session(self.package, timeout=self.timeout, memory=allowance(self.package)) as session:
            first = [session.run(feed) for feed in self.feeds]
            if not _is_random(self.package):
                return first, set()
            unsteady: set[str] = set()
            for feed, outputs in zip(self.feeds, first, strict=True):
                again = compare(outputs, session.run(feed), "exact")
                unsteady.update(output.name for output in again if not output.ok)
            return first, unsteady

    @property
    def plain(self) -> list[Arrays]:
        """What the reference evaluator computes."""
        if self._plain is None:
            try:
                self._plain = self.reference(self.package)
            except ExecutorError as error:
                self._plain = error
        if isinstance(self._plain, ExecutorError):
            raise self._plain
        return self._plain

    def reference(self, packed: Package) -> list[Arrays]:
        """What the reference evaluator makes of a model from the same feeds."""
        found: list[Arrays] = executor().call(
            "graphopt.runtime.reference:run_reference",
            packed,
            self.feeds,
            timeout=min(_REFERENCE_TIMEOUT, self.timeout),
            memory=allowance(self.package),
        )
        return found


def validate(
    original: Package,
    result: Package,
    feeds: Sequence[Arrays],
    *,
    accuracy: Accuracy = "close",
    tolerance: float | None = None,
    timeout: float | None = None,
) -> Verification:
    """Compare two packages on `feeds`, as `Original.compare` does."""
    return Original(original, feeds, timeout=timeout).compare(result, accuracy=accuracy, tolerance=tolerance)


@dataclass
class _Case:
    original: Original
    result: Package
    accuracy: Accuracy
    tolerance: float | None

    def judge(self) -> Verification:
        try:
            expected, unsteady = self.original.computed
        except ExecutorError as error:
            return self._by_reference_alone(error)
        if unsteady and all(set(sample) <= unsteady for sample in expected):
            return Verification(
                "skipped",
                "the model is random: no output is the same twice",
                left_out=tuple(sorted(unsteady)),
            )
        expected = [{name: a for name, a in sample.items() if name not in unsteady} for sample in expected]
        left_out = tuple(sorted(unsteady))
        try:
            found = self._run(self.result)
        except ExecutorError as error:
            reason = f"ONNX Runtime runs the original, but not the result: {error.what}"
            return Verification("failed", reason, executor="onnxruntime", left_out=left_out)
        outputs = self._worst(expected, found)
        ok = all(output.ok for output in outputs)
        verdict = Verification("ok" if ok else "failed", None, outputs, executor="onnxruntime", left_out=left_out)
        return verdict if ok else self._settle(verdict, expected)

    def _run(self, packed: Package) -> list[Arrays]:
        original = self.original
        with open_session(packed, timeout=original.timeout, memory=allowance(original.package)) as session:
            return [session.run(feed) for feed in original.feeds]

    def _worst(self, expected: list[Arrays], found: list[Arrays]) -> tuple[OutputReport, ...]:
        worst: dict[str, OutputReport] = {}
        for want, have in zip(expected, found, strict=True):
            for output in compare(want, have, self.accuracy, self.tolerance):
                held = worst.get(output.name)
                if held is None or _tells(output) > _tells(held):
                    worst[output.name] = output
        return tuple(worst.values())

    def _by_reference_alone(self, refusal: ExecutorError) -> Verification:
        """ONNX Runtime cannot run the original: let the reference evaluator run both, unless it is a matter of time."""
        if isinstance(refusal, ExecutorTimeout):
            return Verification("skipped", _too_long(refusal))
        if _is_random(self.original.package):
            return Verification("skipped", f"ONNX Runtime: {refusal.what}; and the model is random")
        try:
            expected = self.original.plain
        except ExecutorError as error:
            both = f"ONNX Runtime: {refusal.what}; reference evaluator: {error.what}"
            return Verification("skipped", f"nothing here runs the model. {both}")
        try:
            found = self.original.reference(self.result)
        except ExecutorError as error:
            reason = f"the reference evaluator runs the original, but not the result: {error.what}"
            return Verification("failed", reason, executor="reference")
        outputs = self._worst(expected, found)
        ok = all(output.ok for output in outputs)
        reason = f"ONNX Runtime does not run the original: {refusal.what}" if ok else _blame(outputs)
        return Verification("ok" if ok else "failed", reason, outputs, executor="reference")

    def _settle(self, verdict: Verification, expected: list[Arrays]) -> Verification:
        """ONNX Runtime sees a difference: is it the result's fault?"""
        failed = replace(verdict, reason=_blame(verdict.outputs))
        if self.accuracy == "approx" or verdict.left_out:
            return failed
        try:
            plain = self.original.plain
            outputs = self._worst(plain, self.original.reference(self.result))
        except ExecutorError:
            return failed
        if outputs and all(output.ok for output in outputs):
            reason = f"settled by the reference evaluator; under ONNX Runtime, {_blame(verdict.outputs)}"
            return replace(verdict, status="ok", reason=reason, outputs=outputs, executor="reference")
        if self.accuracy in ("close", "fast") and self.tolerance is None:
            noise = {output.name: output for output in self._worst(plain, expected)}
            if all(output.ok or _is_noise(output, noise.get(output.name)) for output in verdict.outputs):
                reason = f"{_blame(verdict.outputs)}, but two executors differ as much on the original"
                return replace(verdict, status="ok", reason=reason)
        return failed


def _too_long(error: ExecutorTimeout) -> str:
    return f"the model takes too long: {error.what}"


def _is_noise(output: OutputReport, noise: OutputReport | None) -> bool:
    return noise is not None and output.error <= _NOISE_FACTOR * noise.error and noise.error <= _MOST_NOISE


def _tells(output: OutputReport) -> tuple[bool, float, bool]:
    """How much a sample says against an output, and of two that say the same, which had more to compare."""
    return not output.ok, output.error, not output.uniform


def _blame(outputs: Iterable[OutputReport]) -> str:
    bad = [output for output in outputs if not output.ok]
    worst = max(bad, key=lambda output: output.error)
    return f"output {worst.name!r}: {worst.why}"


def _is_random(packed: Package) -> bool:
    """Whether an operator draws random numbers without a seed of its own, or drops out as in training."""
    proto = onnx.ModelProto.FromString(packed.proto)
    graphs = [proto.graph, *proto.functions]
    return any(_draws(node) for graph in graphs for node in _all_nodes(graph))


def _all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    todo: list[Any] = [graph]
    while todo:
        for node in todo.pop().node:
            yield node
            for attribute in node.attribute:
                todo.extend(attribute.graphs)
                if attribute.type == onnx.AttributeProto.GRAPH:
                    todo.append(attribute.g)


def _draws(node: onnx.NodeProto) -> bool:
    if any(attribute.name == "seed" for attribute in node.attribute):
        return False
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2]))
