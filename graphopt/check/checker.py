"""`check_rule`: tries a rule on random models that its pattern matches, and compares before with after."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from graphopt.check.execute import warm
from graphopt.check.finding import Example, Finding, examine
from graphopt.check.report import CheckReport, Failure
from graphopt.check.sample import Rejected, Sample, SampleOptions, draw, instantiate
from graphopt.check.shrink import shrink
from graphopt.errors import UsageError
from graphopt.rules.rule import Rule

__all__ = ["QUICK", "SAMPLES", "check_rule"]

SAMPLES = 60
QUICK = 16

_BATCH = 20  # samples between two looks at whether one failed
_ENOUGH = 5  # samples on which a rule should fire and be compared; up to SAMPLES are drawn for that,
_PATIENCE = 240  # and so many for one of them at all
_OTHERS = 24  # simple samples among which shrinking looks for one that fails in the same way
_FLOAT = 1  # TensorProto.FLOAT
_SIMPLER = (
    SampleOptions(plain=True, dtype=_FLOAT),
    SampleOptions(plain=True),
    SampleOptions(interior=False, variety=False),
    SampleOptions(interior=False),
    SampleOptions(variety=False),
)

Progress = Callable[[int, int], None]


def check_rule(
    rule: Rule[Any],
    *,
    name: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    quick: bool = False,
    only: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a rule on random models.

    `name`: how reports call it, its own name by default. `samples`: how many models to draw, `quick`: at most 16.
    Where the rule fires on few of them, up to 60 are drawn, and up to 240 until it fires at all. `seed` determines
    them all; `only` draws the one with this number. `progress(done, samples)` is called now and then.

    Raises `UsageError` for what is no rule, or for no samples.
    """
    if not isinstance(rule, Rule) or samples < 1:
        wrong = f"{rule!r} is no rule" if not isinstance(rule, Rule) else f"cannot draw {samples} samples"
        raise UsageError(wrong, where="check_rule", hint="pass what @rule made of a function, and samples=60")
    start = time.perf_counter()
    warm()
    check = _Check(rule, name or rule.name, seed)
    least = min(samples, QUICK) if quick else samples
    numbers = range(max(least, _PATIENCE)) if only is None else range(only, only + 1)
    for batch in _batches(numbers, least):
        if check.failed is not None or (batch[0] >= least and check.is_enough(batch[0])):
            break
        check.run(batch)
        if progress is not None:
            progress(min(batch[-1] + 1, least), least)
    report = check.report()
    return replace(report, seconds=time.perf_counter() - start)


def _batches(numbers: range, least: int) -> Iterator[range]:
    """Of the usual size, but one ends behind the first `least`."""
    first = 0
    while first < len(numbers):
        end = first + _BATCH if first >= least else min(first + _BATCH, least)
        yield numbers[first:end]
        first = end


class _Check:
    """The samples of one rule so far."""

    def __init__(self, rule: Rule[Any], name: str, seed: int) -> None:
        self.failed: tuple[int, Sample, Finding] | None = None
        self._rule, self._name, self._seed = rule, name, seed
        self._drawn = 0
        self._counts: Counter[str] = Counter()
        self._declined: Counter[str] = Counter()
        self._invalid: Counter[str] = Counter()
        self._disputed: list[str] = []
        self._traits: dict[str, Counter[str]] = {}

    def is_enough(self, drawn: int) -> bool:
        """Whether to stop: it was compared on enough of them, or on some and many were drawn."""
        return self._counts["same"] >= (_ENOUGH if drawn < SAMPLES else 1)

    def run(self, numbers: Sequence[int]) -> None:
        """Draw these samples and find out what comes of them, up to the first that fails."""
        drawn = [(number, self._draw(number)) for number in numbers]
        samples = [(number, sample) for number, sample in drawn if isinstance(sample, Sample)]
        found = examine(self._rule, self._name, [_example(sample) for _, sample in samples])
        by_number = dict(zip((n for n, _ in samples), found, strict=False))
        for number, sample in drawn:
            self._drawn += 1
            if isinstance(sample, str):
                self._invalid[sample] += 1
                continue
            finding = by_number[number]  # they end with one that is wrong, if not with the last
            self._count(sample, finding)
            if finding.status == "wrong":
                self.failed = number, sample, finding
                return

    def report(self) -> CheckReport:
        counts = self._counts
        return CheckReport(
            self._name,
            self._seed,
            samples=self._drawn,
            fired=counts["same"] + counts["wrong"] + counts["fired, but not run"],
            compared=counts["same"] + counts["wrong"],
            unmatched=counts["unmatched"],
            declined=self._declined,
            invalid=self._invalid,
            disputed=tuple(self._disputed),
            traits=self._traits,
            failure=self._failure(),
        )

    def _draw(self, number: int) -> Sample | str:
        """The sample of this number; why there is none if no draw is a valid model."""
        try:
            return draw(self._rule, Random(f"{self._seed}:{number}"))
        except Rejected as rejected:
            return rejected.reason

    def _count(self, sample: Sample, finding: Finding) -> None:
        for trait, value in sample.traits.items():
            self._traits.setdefault(trait, Counter())[value] += 1
        self._counts[finding.status] += 1
        if finding.status == "same" and finding.reason:
            self._disputed.append(finding.reason)
        if finding.status == "invalid":
            self._invalid[finding.reason] += 1
            self._counts["fired, but not run"] += finding.after is not None
        if finding.status == "declined":
            self._declined[finding.declined.most_common(1)[0][0]] += 1

    def _failure(self) -> Failure | None:
        if self.failed is None:
            return None
        number, sample, finding = self.failed
        small = shrink(finding, self._examine, (self._redrawn(sample, o) for o in _SIMPLER), self._simple(sample))
        assert small.fault is not None
        return Failure(
            small.fault.kind, small.fault.text, number, sample.traits, small.example.model, small.after,
            small.example.feeds,
        )  # fmt: skip

    def _examine(self, example: Example) -> Finding:
        return examine(self._rule, self._name, [example])[0]

    def _redrawn(self, sample: Sample, options: SampleOptions) -> Example | None:
        """The same sample without some of its features."""
        try:
            return _example(instantiate(self._rule, sample.seed, options=options))
        except Rejected:
            return None

    def _simple(self, sample: Sample) -> Iterator[Example]:
        """Other samples of the same left side that have no such features."""
        rng = Random(f"{sample.seed}")
        options = SampleOptions(plain=True, dtype=_FLOAT, pattern=sample.pattern)
        for _ in range(_OTHERS):
            try:
                yield _example(draw(self._rule, rng, options=options))
            except Rejected:
                return


def _example(sample: Sample) -> Example:
    return Example(sample.model, dict(sample.feeds))
