"""A failing example made small, so that what is wrong can be seen by looking at it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from graphopt.check.finding import Example, Finding
from graphopt.check.judge import Mismatch
from graphopt.check.reduce import REDUCTIONS

__all__ = ["shrink"]

Examine = Callable[[Example], Finding]

_ROUNDING = 1e-5
_BUDGET = 400  # examples to try
_BUDGET_DEADLY = 6  # of those that may end the process: starting another takes a second


def shrink(
    finding: Finding, examine: Examine, redrawn: Iterable[Example | None] = (), others: Iterable[Example] = ()
) -> Finding:
    """A smaller example that fails in the same way, or the finding itself.

    `examine` says what comes of an example. The first that fails in the same way is begun with: of `redrawn`, the
    same example without features that make it hard to read, the plainest first (None: not possible); or of
    `others`, the plain ones.
    """
    search = _Search(finding, examine)
    plain = any(example is not None and search.take(example) for example in redrawn)
    if not plain:
        any(search.take(example) for example in others)
    progress = True
    while progress:
        progress = False
        for reduction in REDUCTIONS:
            progress |= search.exhaust(reduction)
    return search.best


class _Search:
    def __init__(self, finding: Finding, examine: Examine) -> None:
        self.best = finding
        self._examine = examine
        self._manner = _manner(finding)
        deadly = finding.fault is not None and finding.fault.kind == "dies"
        self._left = _BUDGET_DEADLY if deadly else _BUDGET

    def exhaust(self, reduction: Callable[[Example], Iterator[Example]]) -> bool:
        """Apply a reduction as long as it leads to a smaller example that fails; whether it did."""
        progress = False
        while any(self.take(candidate) for candidate in reduction(self.best.example)):
            progress = True
        return progress

    def take(self, candidate: Example) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        found = self._examine(candidate)
        if found.status != "wrong" or _manner(found) != self._manner:
            return False
        self.best = found
        return True


def _manner(finding: Finding) -> tuple[str, str, str]:
    """How an example fails: the kind of fault, the sentence about it without its numbers, how far off it is."""
    assert finding.fault is not None
    if not finding.mismatches:
        return finding.fault.kind, "", ""
    worst = finding.mismatches[0]
    return finding.fault.kind, re.sub(r"[-+.\d]+(e[-+]?\d+)?", "#", worst.why), _distance(worst)


def _distance(mismatch: Mismatch) -> str:
    """Whether a value is another, or only rounded otherwise, or a zero of the other sign."""
    try:
        expected, got = float(mismatch.expected or ""), float(mismatch.got or "")
    except ValueError:  # a truth value, a text, or no single element
        return "other"
    if expected == got:
        return "sign"
    return "rounding" if abs(expected - got) <= _ROUNDING * abs(expected) else "other"
