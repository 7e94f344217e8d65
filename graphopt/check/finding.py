"""What came of a rule on examples: rewritten, run before and after, judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx

from graphopt.check.attempt import Attempt, Fault, attempt
from graphopt.check.execute import Ran, run_pairs
from graphopt.check.judge import Mismatch, judge
from graphopt.check.modest import tame, tame_constants
from graphopt.check.truth import is_as_true
from graphopt.check.widen import widen
from graphopt.errors import ModelError
from graphopt.rules.rule import Accuracy, Rule

__all__ = ["Example", "Finding", "Status", "examine", "is_doubtful"]

Arrays = dict[str, np.ndarray[Any, Any]]
Status = Literal["unmatched", "declined", "invalid", "same", "wrong"]


@dataclass(frozen=True, eq=False)
class Example:
    """A model that a rule may rewrite, and inputs for it by name."""

    model: onnx.ModelProto
    feeds: Arrays


@dataclass(frozen=True, eq=False)
class Finding:
    """What came of an example.

    `status`: the pattern did not match; it did, but the rule declined; the example does not run at all; the same is
    computed before and after; or something is wrong, which `fault` names. `reason`: why it is invalid, or how a
    dispute was settled. `mismatches`: for a fault of kind differs, the outputs that do.
    """

    status: Status
    example: Example
    after: onnx.ModelProto | None = None
    declined: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    fault: Fault | None = None
    mismatches: tuple[Mismatch, ...] = ()


def examine(rule: Rule[Any], name: str, examples: Sequence[Example]) -> list[Finding]:
    """Rewrite each example by the rule, under this name, and have it run and judged.

    The findings end with the first whose result ends the process that runs it.
    """
    if rule.accuracy >= Accuracy.FAST:
        examples = [Example(e.model, tame(e.feeds, infinite=True)) for e in examples]
    tried = [_attempt(rule, name, e) for e in examples]
    to_run = [i for i, t in enumerate(tried) if isinstance(t, Attempt) and t.after is not None and t.fault is None]
    ran = run_pairs([_pair(examples[i], tried[i]) for i in to_run])
    outcomes = dict(zip(to_run, ran, strict=False))
    end = to_run[len(ran) - 1] + 1 if len(ran) < len(to_run) else len(examples)
    found = [_finding(e, tried[i], outcomes.get(i), rule.accuracy) for i, e in enumerate(examples[:end])]
    return [_reconsidered(rule, name, f, outcomes.get(i)) for i, f in enumerate(found)]


def _reconsidered(rule: Rule[Any], name: str, finding: Finding, ran: Ran | None) -> Finding:
    """The same, or a dispute that is settled: where finite results differ, it may be no more than rounding.

    The result may be as near to what the original means as the original is. Or they no longer differ without huge
    numbers, whose sums have no right digits when they cancel, and without half precision, in which an exponential has
    few. For a rule that answers for finite inputs only, constants are made finite as well.
    """
    example, accuracy = finding.example, rule.accuracy
    finite = all(np.isfinite(m.error) for m in finding.mismatches)
    if ran is None or not finding.mismatches or accuracy not in (Accuracy.CLOSE, Accuracy.FAST):
        return finding
    if not finite and accuracy is Accuracy.CLOSE:
        return finding
    if not is_as_true(example.model, example.feeds, ran, accuracy) and not _is_fine_plain(rule, name, example):
        return finding
    return replace(finding, status="same", reason=str(finding.mismatches[0]), fault=None, mismatches=())


def _is_fine_plain(rule: Rule[Any], name: str, example: Example) -> bool:
    """Whether the same example in plain numbers passes."""
    constants = tame_constants(example.model, infinite=rule.accuracy >= Accuracy.FAST)
    model, feeds = widen(constants, tame(example.feeds))
    if model is example.model and feeds is example.feeds:
        return False
    (plain,) = examine(rule, name, [Example(model, feeds)])
    return plain.status == "same"


def _attempt(rule: Rule[Any], name: str, example: Example) -> Attempt | str:
    try:
        return attempt(rule, name, example.model)
    except ModelError as error:
        return str(error)


def _pair(example: Example, tried: Attempt | str) -> tuple[onnx.ModelProto, onnx.ModelProto, Arrays]:
    assert isinstance(tried, Attempt) and tried.after is not None
    return example.model, tried.after, example.feeds


def _finding(example: Example, tried: Attempt | str, ran: Ran | None, accuracy: Accuracy) -> Finding:
    if isinstance(tried, str):
        return Finding("invalid", example, reason=tried)
    if tried.fault is not None:
        return Finding("wrong", example, tried.after, tried.declined, fault=tried.fault)
    if ran is None:
        return Finding("declined" if tried.declined else "unmatched", example, declined=tried.declined)
    verdict = judge(*ran, accuracy, doubtful=is_doubtful(example))
    if verdict.kind == "unknown":
        return Finding("invalid", example, tried.after, tried.declined, verdict.reason)
    if verdict.kind == "same":
        return Finding("same", example, tried.after, tried.declined, verdict.reason)
    fault = Fault({"different": "differs"}.get(verdict.kind, verdict.kind), verdict.reason)
    return Finding("wrong", example, tried.after, tried.declined, fault=fault, mismatches=verdict.mismatches)


def is_doubtful(example: Example) -> bool:
    """Whether an input or a constant has no elements, or something is of half precision."""
    constants = example.model.graph.initializer
    shapes = [*(a.shape for a in example.feeds.values()), *(t.dims for t in constants)]
    half = any(a.dtype == np.float16 for a in example.feeds.values())
    half |= any(t.data_type == onnx.TensorProto.FLOAT16 for t in constants)
    casts = (node for node in example.model.graph.node if node.op_type == "Cast")
    half |= any(a.name == "to" and a.i == onnx.TensorProto.FLOAT16 for node in casts for a in node.attribute)
    return half or any(0 in shape for shape in shapes)
