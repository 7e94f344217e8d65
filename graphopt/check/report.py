"""What a check found, as data and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from graphopt.ir.text import to_text

__all__ = ["CheckReport", "Failure", "as_dict", "literal"]

VerdictName = Literal["ok", "wrong", "never fired", "not run"]

_SHOWN = 6  # values of a trait, reasons
_PRINTED = 512  # elements of a constant
_WRITTEN = 256  # elements of an input


@dataclass(frozen=True, eq=False)
class Failure:
    """An example that shows what is wrong with a rule.

    `kind`: raises, loops, invalid (no valid model results), interface (the outputs have other names or types),
    refused (the result does not run), dies (running it ends the process), differs (it computes something else).
    `what` says it in a sentence. `sample`: the number of the draw that showed it; `traits`: how that was drawn.
    `before`, `after` and `feeds` are the example made small; `after` is None where there is no result.
    """

    kind: str
    what: str
    sample: int
    traits: Mapping[str, str]
    before: onnx.ModelProto
    after: onnx.ModelProto | None
    feeds: Mapping[str, np.ndarray[Any, Any]]

    def __str__(self) -> str:
        lines = [self.what, "", "drawn as", *(f"  {name}: {text}" for name, text in self.traits.items())]
        lines += ["", "before", _indented(_text(self.before))]
        if self.after is not None:
            lines += ["", "after", _indented(_text(self.after))]
        if self.feeds:
            lines += ["", "inputs", *(f"  {name} = {literal(array)}" for name, array in self.feeds.items())]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class CheckReport:
    """The outcome of checking one rule.

    `samples` were drawn; on `fired` of them the rule fired, `unmatched` it did not match, `declined` counts the
    samples by the reason why it declined, `invalid` those that are no examples by the reason (no valid model, or
    nothing runs them). `compared`: samples that ran before and after; `disputed`: what one executor had against some
    of these that passed. `traits`: what was drawn, and how often.
    `failure`: the first example that shows the rule to be wrong.
    """

    rule: str
    seed: int
    samples: int
    fired: int
    compared: int
    unmatched: int
    declined: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    disputed: tuple[str, ...] = ()
    traits: Mapping[str, Counter[str]] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> VerdictName:
        """`ok`, `wrong`, `never fired`, or `not run`: it fired, but nothing here runs the models."""
        if self.failure is not None:
            return "wrong"
        if not self.fired:
            return "never fired"
        return "ok" if self.compared else "not run"

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    def text(self, what: str | None = None) -> str:
        """The verdict and what led to it; `what`: how `graphopt rules check` finds the rule, for the command that
        repeats it."""
        if self.ok:
            disputed = f", {len(self.disputed)} disputed between the executors" if self.disputed else ""
            return f"{self.rule}: ok; fired on {self.fired} of {self.samples} samples{disputed}"
        if self.failure is None:
            return self.details()
        head = f"{self.rule}: {self.verdict}, sample {self.failure.sample} of seed {self.seed}"
        return f"{head}\n{_indented(str(self.failure))}\n\n  again: {self.command(what)}"

    def command(self, what: str | None = None) -> str:
        """The command that repeats the check; after a failure, of that sample alone."""
        sample = "" if self.failure is None else f" --sample {self.failure.sample}"
        return f"graphopt rules check {what or self.rule} --seed {self.seed}{sample}"

    def __str__(self) -> str:
        return self.text()

    def details(self) -> str:
        """The verdict, what was drawn, and what came of it."""
        lines = [f"{self.rule}: {self.verdict}"]
        lines += [f"  {self.samples} samples: {self.fired} fired, {self.unmatched} did not match"]
        lines += [f"  declined {count}: {reason}" for reason, count in self.declined.most_common(_SHOWN)]
        lines += [f"  invalid {count}: {reason}" for reason, count in self.invalid.most_common(_SHOWN)]
        lines += [f"  disputed: {text}" for text in self.disputed]
        lines += [f"  tried {name}: {_counted(values)}" for name, values in self.traits.items()]
        return "\n".join(lines)


def _counted(values: Counter[str]) -> str:
    shown = [f"{value} ({count})" for value, count in values.most_common(_SHOWN)]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")


def literal(array: np.ndarray[Any, Any]) -> str:
    """An array as Python that makes it: `np.array([[1.0, np.nan]], np.float32)`; a long one only by its shape."""
    home = "np" if array.dtype.isbuiltin == 1 else "ml_dtypes"
    kind = "bool_" if array.dtype.kind == "b" else array.dtype.name
    if array.size > _WRITTEN:
        return f"...  # {array.dtype.name}{list(array.shape)}, {array.size} elements"
    content = _nested(array) if array.size else "[]"
    shape = "" if array.size else f".reshape({array.shape})"
    return f"np.array({content}, {home}.{kind}){shape}"


def _nested(array: np.ndarray[Any, Any]) -> str:
    if array.ndim:
        return f"[{', '.join(_nested(array[i, ...]) for i in range(len(array)))}]"
    if array.dtype.kind in "fV" and not np.isfinite(array):
        return "np.nan" if np.isnan(array) else "np.inf" if array > 0 else "-np.inf"
    return str(array[()]) if array.dtype.kind not in "OSU" else repr(array[()])


def as_dict(report: CheckReport, what: str | None = None) -> dict[str, Any]:
    """A report as plain dicts, lists, texts and numbers; `what` as in `CheckReport.text`."""
    failure = report.failure
    return {
        "rule": report.rule,
        "verdict": report.verdict,
        "seed": report.seed,
        "samples": report.samples,
        "fired": report.fired,
        "compared": report.compared,
        "unmatched": report.unmatched,
        "declined": dict(report.declined.most_common()),
        "invalid": dict(report.invalid.most_common()),
        "disputed": list(report.disputed),
        "traits": {name: dict(values.most_common()) for name, values in report.traits.items()},
        "seconds": report.seconds,
        "command": report.command(what),
        "failure": None if failure is None else {
            "kind": failure.kind,
            "what": failure.what,
            "sample": failure.sample,
            "traits": dict(failure.traits),
            "before": _text(failure.before),
            "after": None if failure.after is None else _text(failure.after),
            "inputs": {name: literal(array) for name, array in failure.feeds.items()},
        },
    }  # fmt: skip


def _text(model: onnx.ModelProto) -> str:
    return to_text(model, limit=_PRINTED, names=False, types=False, metadata=False)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
