"""From a fault to a small model, the rewrite to blame, and a golden test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from graphopt.check.finding import Example
from graphopt.check.golden_update import golden_text
from graphopt.check.normal import names_in, readable
from graphopt.check.reduce import REDUCTIONS
from graphopt.engine.catalog import find_rules
from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.text import tensor_to_text
from graphopt.rules.rule import Accuracy
from graphopt.verify.bisect import first_bad
from tests.fuzz.examine import Examiner, Fault, Setting, optimized, run_one, verdict_on

_BUDGET = 250  # examples tried to make one smaller
_FED = 64  # elements of an input that is written down
_RUN = ("differs", "refused", "dies")


@dataclass(frozen=True, eq=False)
class Blamed:
    """A fault with a model made small. `rule`: the rewrite after which it is there, None if no single one is;
    `text`: a golden test."""

    fault: Fault
    rule: str | None
    text: str

    def save(self, folder: Path, name: str) -> Path:
        """Write the test; where it is then."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.onnxtxt"
        path.write_text(self.text, encoding="utf-8")
        return path


def blame(fault: Fault) -> Blamed:
    """Find the rewrite, and make the example small as long as that rewrite makes the same kind of fault."""
    rule = culprit(fault)
    small = _shrunk(fault, rule)
    return Blamed(small, rule, _text(small, rule))


def culprit(fault: Fault) -> str | None:
    """The first rewrite after which the fault is there."""
    example, setting = fault.example, fault.setting
    if fault.kind in ("crash", "again", "grown"):
        named = re.findall(r"[a-z_]+\.[a-z_0-9]+(?= \(|, |$)", fault.text)
        return ", ".join(sorted(set(named))) or None
    try:
        rules = optimized(example.model, setting).rules
        last = len(rules)
        bad = first_bad(0, last, lambda stops: dict.fromkeys(stops), lambda n, _: _is_bad(fault, n))
    except Exception:
        return None
    return rules[bad - 1]


def _is_bad(fault: Fault, number: int) -> bool:
    """Whether the fault is there after the first `number` rewrites."""
    example, setting = fault.example, fault.setting
    if fault.kind in _RUN:
        ran = run_one(example, setting, number)
        return ran is not None and verdict_on(example, setting, ran).kind not in ("same", "unknown")
    model = optimized(example.model, setting, number).model
    if fault.kind == "interface":
        return [v.type for v in model.graph.output] != [v.type for v in example.model.graph.output]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return True
    return False


# -- shrinking ------------------------------------------------------------------------------------


class _Search:
    def __init__(self, fault: Fault, rule: str | None) -> None:
        self.best = fault
        self._rule = rule
        self._examiner = Examiner([fault.setting])
        self._left = _BUDGET if fault.kind != "dies" else 8

    def exhaust(self, reduction: Callable[[Example], Iterator[Example]]) -> bool:
        progress = False
        while any(self.take(candidate) for candidate in _safe(reduction, self.best.example)):
            progress = True
        return progress

    def take(self, candidate: Example) -> bool:
        """Whether a candidate fails in the same way; it is the best then."""
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            onnx.checker.check_model(candidate.model, full_check=True)
        except Exception:
            return False
        found = self._examiner.examine(candidate)
        if not found or found[0].kind != self.best.kind or not _is_alike(found[0], self.best):
            return False
        if self._rule is not None and culprit(found[0]) != self._rule:
            return False
        self.best = found[0]
        return True


def _is_alike(a: Fault, b: Fault) -> bool:
    """Whether two faults read the same but for numbers and names."""
    first, second = (re.sub(r"'[^']*'|[-+.\d]+(e[-+]?\d+)?|\bv\d+\b", "#", f.text)[:60] for f in (a, b))
    return a.kind in _RUN or first == second


def _safe(reduction: Callable[[Example], Iterator[Example]], example: Example) -> Iterator[Example]:
    """The candidates of a reduction, up to where it fails on a model of a kind that it was not made for."""
    try:
        yield from reduction(example)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError):
        return


def _shrunk(fault: Fault, rule: str | None) -> Fault:
    search = _Search(fault, rule)
    progress = True
    while progress:
        progress = False
        for reduction in REDUCTIONS:
            progress |= search.exhaust(reduction)
    return search.best


# -- writing --------------------------------------------------------------------------------------


def _text(fault: Fault, rule: str | None) -> str:
    """A golden test of the rule, or of the level where no rule of that name is installed."""
    setting, example = fault.setting, fault.example
    title = f"{rule or 'several rewrites'}: {' '.join(fault.text.split())[:160]}"
    after = fault.after if fault.after is not None else example.model
    settings = [] if setting.target == "onnx" else [("target", setting.target)]
    feeds = {name: array for name, array in example.feeds.items() if array.size <= _FED}
    subject = _subject(rule)
    note = f"{setting}: {fault.kind}"
    try:
        if subject is not None:
            return golden_text(subject, title, example.model, after, settings=settings, feeds=feeds.items(), comment=note)
    except (GraphoptError, ValueError, TypeError):
        pass
    lines = [f"# {note}", f"# pass: {_passes(setting)}", *(f"# {n}: {v}" for n, v in settings), "", f"# case: {title}"]
    if setting.accuracy is not Accuracy.CLOSE:
        lines.insert(2, f"# accuracy: {setting.accuracy.label}")
    try:
        lines += [f"# feed: {tensor_to_text(name, array)}" for name, array in feeds.items()]
        lines += ["# before", readable(example.model, names_in(example.model), rounded=False).rstrip()]
    except (GraphoptError, ValueError, TypeError):
        lines += ["# before", onnx.printer.to_text(example.model).rstrip()]
    return "\n".join(lines) + "\n"


def _subject(rule: str | None) -> str | None:
    try:
        return rule if rule and len(find_rules(rule)) == 1 else None
    except UsageError:
        return None


def _passes(setting: Setting) -> str:
    return ",".join(item.name for item in replace(setting, rules=()).pipeline().passes)
