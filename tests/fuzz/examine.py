"""What is wrong with what the optimizer makes of a model."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.check.execute import Ran, run_groups
from graphopt.check.finding import Example, is_doubtful
from graphopt.check.judge import Verdict, judge
from graphopt.check.modest import tame, tame_constants
from graphopt.check.truth import is_as_true
from graphopt.check.widen import widen
from graphopt.engine.assemble import accuracy_of, assemble
from graphopt.engine.pipeline import Pipeline
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.kinds import Kind
from graphopt.ir.collector import collect_if_grown
from graphopt.ir.model import Model
from graphopt.rules.rule import Accuracy, Rule
from graphopt.runtime.executor import ExecutorError
from graphopt.targets.target import load_target
from graphopt.verify.compare import compare
from tests.fuzz.noise import is_noise

Arrays = dict[str, np.ndarray[Any, Any]]

_RUNS = 3  # of the original, twice each, to see whether it agrees with itself
_OF_THE_EXECUTOR = ("its Conv hangs", "its Gather of words")  # refusals that say nothing of the result


@dataclass(frozen=True)
class Setting:
    """How a model is optimized. `rules`: further rules, behind those of the level."""

    level: str = "O2"
    target: str = "onnx"
    rules: tuple[Rule[Any], ...] = ()

    @functools.cached_property
    def accuracy(self) -> Accuracy:
        return accuracy_of(self.level, None)

    def pipeline(self, stop_after: int | None = None) -> Pipeline:
        passes = assemble(self.level, self.rules).passes
        return Pipeline(passes, target=load_target(self.target), accuracy=self.accuracy, stop_after=stop_after)

    def __str__(self) -> str:
        return f"-{self.level} -t {self.target}"


@dataclass(frozen=True, eq=False)
class Fault:
    """`kind`: crash, invalid, interface, again (a second run still rewrites), grown (more nodes than before), refused,
    dies or differs. `after`: what came out, if something did."""

    setting: Setting
    kind: str
    text: str
    example: Example
    after: onnx.ModelProto | None = None


@dataclass(frozen=True, eq=False)
class Optimized:
    """A result, and the rewrites that led to it."""

    model: onnx.ModelProto
    rules: tuple[str, ...]


def optimized(model: onnx.ModelProto, setting: Setting, stop_after: int | None = None) -> Optimized:
    """Raises what the optimizer raises."""
    loaded = Model(*to_ir(model))
    journal = setting.pipeline(stop_after).run(loaded)
    return Optimized(from_ir(loaded.ir, Kind.PROTO), tuple(entry.rule for entry in journal.entries))


class Examiner:
    """Examines examples at several settings. `fired` counts rewrites by rule, `seen` what became of examples."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = settings
        self.fired: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def examine(self, example: Example, feeds: Sequence[Arrays] = ()) -> list[Fault]:
        """The faults, at most one for each setting; `feeds` are further inputs."""
        collect_if_grown()
        faults: dict[Setting, Fault] = {}
        results: dict[Setting, onnx.ModelProto] = {}
        turn = zlib.crc32(example.model.SerializeToString(deterministic=True)) % len(self.settings)
        for number, setting in enumerate(self.settings):
            made = _made(example, setting)
            if isinstance(made, Fault):
                faults[setting] = made
                continue
            self.fired.update(made.rules)
            if made.rules:
                results[setting] = made.model
                fault = _plain_fault(example, setting, made, twice=number == turn)
                if fault is not None:
                    faults[setting] = fault
        for inputs in (example.feeds, *feeds):
            self._compare(Example(example.model, inputs), results, faults)
        return list(faults.values())

    def _compare(self, example: Example, results: dict[Setting, onnx.ModelProto], faults: dict[Setting, Fault]) -> None:
        left = {s: m for s, m in results.items() if s not in faults}
        finite = Example(example.model, tame(example.feeds, infinite=True))
        for group, given in (
            ({s: m for s, m in left.items() if s.accuracy < Accuracy.FAST}, example),
            ({s: m for s, m in left.items() if s.accuracy >= Accuracy.FAST}, finite),
        ):
            if group:
                self._judge(given, group, faults)

    def _judge(self, example: Example, results: dict[Setting, onnx.ModelProto], faults: dict[Setting, Fault]) -> None:
        distinct = {m.SerializeToString(deterministic=True): m for m in results.values()}
        try:
            found = run_groups([((example.model, *distinct.values()), example.feeds)])
        except ExecutorError:
            self.seen["not run"] += 1
            return
        if found[0][0]["onnxruntime"].arrays is None:
            self.seen["refused to begin with"] += 1  # the reference evaluator runs what is not valid, too
            return
        outcomes = dict(zip(distinct, found[0][1:], strict=True))
        known: dict[tuple[bytes, Accuracy], Verdict] = {}
        for setting, model in results.items():
            key = model.SerializeToString(deterministic=True)
            ran = found[0][0], outcomes[key]
            if (key, setting.accuracy) not in known:
                known[key, setting.accuracy] = verdict_on(example, setting, ran)
            verdict = known[key, setting.accuracy]
            if verdict.kind == "refused" and any(word in verdict.reason for word in _OF_THE_EXECUTOR):
                verdict = Verdict("unknown", verdict.reason)
            self.seen["settled" if verdict.kind == "same" and verdict.reason else verdict.kind] += 1
            if verdict.kind not in ("same", "unknown"):
                kind = {"different": "differs"}.get(verdict.kind, verdict.kind)
                faults[setting] = Fault(setting, kind, verdict.reason, example, model)


def _made(example: Example, setting: Setting) -> Optimized | Fault:
    try:
        return optimized(example.model, setting)
    except Exception as error:
        return Fault(setting, "crash", f"{type(error).__name__}: {error}", example)


def _plain_fault(example: Example, setting: Setting, made: Optimized, twice: bool) -> Fault | None:
    """What needs no running to be seen. `twice`: that a second run has nothing left to do is looked at, too."""

    def fault(kind: str, text: str) -> Fault:
        return Fault(setting, kind, text, example, made.model)

    try:
        onnx.checker.check_model(made.model, full_check=True)
    except Exception as error:
        return fault("invalid", " ".join(str(error).split())[:300])
    before, after = example.model.graph, made.model.graph
    if [(v.name, v.type) for v in before.output] != [(v.name, v.type) for v in after.output]:
        return fault("interface", "outputs have other names or types")
    if [(v.name, v.type) for v in before.input] != [(v.name, v.type) for v in after.input]:
        return fault("interface", "inputs have other names or types")
    unrolled = _bodies(after) < _bodies(before) or bool(example.model.functions)
    if _nodes(after) > _nodes(before) and not unrolled:
        return fault("grown", f"{_nodes(before)} nodes have become {_nodes(after)}")
    if not twice:
        return None
    again = _made(Example(made.model, {}), setting)
    if isinstance(again, Fault):
        return fault("crash", f"on its own result: {again.text}")
    if again.rules:
        return fault("again", f"a second run still applies {', '.join(sorted(set(again.rules)))}")
    return None


def _nodes(graph: onnx.GraphProto) -> int:
    """Nodes that compute something, in bodies as well: an Identity may give an output its name."""
    bodies = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return sum(n.op_type not in ("Constant", "Identity") for n in graph.node) + sum(map(_nodes, bodies))


def _bodies(graph: onnx.GraphProto) -> int:
    """Graphs within the graph."""
    bodies = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return len(bodies) + sum(map(_bodies, bodies))


# -- verdicts -------------------------------------------------------------------------------------


def verdict_on(example: Example, setting: Setting, ran: Ran) -> Verdict:
    """As the rule checker judges; and differences are none that rounding explains."""
    verdict = judge(*ran, setting.accuracy, doubtful=is_doubtful(example))
    if verdict.kind != "different":
        return verdict
    if {mismatch.output for mismatch in verdict.mismatches} <= unsteady(example):
        return Verdict("unknown", f"the original differs from itself: {verdict.reason}")
    if {mismatch.executor for mismatch in verdict.mismatches} == {"onnxruntime"} and reduces_nan(example):
        return Verdict("unknown", f"of NaN there is no largest: {verdict.reason}")
    if setting.accuracy is Accuracy.EXACT:
        return Verdict("same", verdict.reason) if _has_no_last_bit(ran) else verdict
    if is_as_true(example.model, example.feeds, ran, setting.accuracy) or _is_fine_plain(example, setting):
        return Verdict("same", verdict.reason)
    if is_noise(example, ran, setting.accuracy):
        return Verdict("same", verdict.reason)
    if setting.accuracy is Accuracy.FAST and _meets_infinities(example):
        return Verdict("same", verdict.reason)
    return verdict


def unsteady(example: Example) -> set[str]:
    """The outputs on which runs of the original do not agree with each other, in one and the same executor.

    That is so where numbers are drawn at random, and where ONNX Runtime reads memory that nobody has written: its Concat
    does if one operand is empty that must not be.
    """
    found: set[str] = set()
    for _ in range(_RUNS):
        (group,) = run_groups([((example.model,) * 2, example.feeds)])
        for name in group[0]:
            first, second = (outcome[name].arrays or {} for outcome in group)
            found |= {r.name for r in compare(first, second, "exact") if not r.ok} if first.keys() == second.keys() else set()
    return found


def _has_no_last_bit(ran: Ran) -> bool:
    """Whether only last bits differ, in a model on whose last bits the executors do not agree to begin with."""
    if judge(*ran, Accuracy.CLOSE).kind != "same":
        return False
    first, second = (outcome.arrays for outcome in ran[0].values())
    return first is not None and second is not None and not all(report.identical for report in compare(first, second))


def _is_fine_plain(example: Example, setting: Setting) -> bool:
    """Whether the difference is gone in more precision, with numbers of modest size."""
    fast = setting.accuracy >= Accuracy.FAST
    try:
        model, feeds = widen(tame_constants(example.model, infinite=fast), tame(example.feeds, infinite=fast))
    except Exception:
        return False
    if model is example.model and feeds is example.feeds:
        return False
    if setting.accuracy is Accuracy.CLOSE and _has_specials(example):
        return False  # there infinities and NaN are part of the question
    ran = run_one(Example(model, feeds), setting)
    return ran is not None and judge(*ran, setting.accuracy).kind == "same"


def _meets_infinities(example: Example) -> bool:
    """Whether the original computes an infinity or NaN on its way: what then comes of it is not promised at -O3."""
    return any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in _on_the_way(example).values())


def reduces_nan(example: Example) -> bool:
    """Whether the original takes the largest or smallest of several elements, one of them NaN.

    ONNX Runtime then passes over some of the other elements; which ones depends on how they lie.
    """
    found = {**_on_the_way(example), **example.feeds}
    found |= {t.name: numpy_helper.to_array(t) for t in example.model.graph.initializer}
    reduced = [node.input[0] for node in example.model.graph.node if node.op_type in ("ReduceMax", "ReduceMin")]
    return any(name in found and found[name].dtype.kind == "f" and np.isnan(found[name]).any() for name in reduced)


def _on_the_way(example: Example) -> Arrays:
    """What the original computes in the main graph, in whichever executor runs it."""
    model = onnx.ModelProto()
    model.CopyFrom(example.model)
    known = {value.name for value in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    outcomes = run_groups([((model,), example.feeds)])[0][0].values()
    return {name: a for outcome in outcomes for name, a in (outcome.arrays or {}).items()}


def _has_specials(example: Example) -> bool:
    arrays = [*example.feeds.values(), *map(numpy_helper.to_array, example.model.graph.initializer)]
    return any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in arrays)


def run_one(example: Example, setting: Setting, stop_after: int | None = None) -> Ran | None:
    """What the executors make of a model and its result; None if it is not optimized or not run."""
    try:
        after = optimized(example.model, setting, stop_after).model
        found = run_groups([((example.model, after), example.feeds)])
    except Exception:
        return None
    return (found[0][0], found[0][1]) if found else None
