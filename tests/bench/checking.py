"""The rule checker: what it catches, after how many samples, and what it takes for the built-in rules."""

from __future__ import annotations

import statistics
import time

import graphopt
from graphopt.check import checker
from graphopt.check.execute import warm
from graphopt.engine.catalog import all_rules
from tests.rules.mutants import MUTANTS
from tests.rules.twins import TWINS


def checking() -> None:
    """Print the figures."""
    print("\n== rules check ==")
    warm()
    shrink = checker.shrink
    checker.shrink = lambda finding, *_: finding  # how a failure is shown takes time, and changes no verdict
    try:
        for seed in (0, 1):
            caught = [r for r in (graphopt.check_rule(rule, seed=seed) for rule in MUTANTS) if r.failure is not None]
            samples = sorted(r.failure.sample + 1 for r in caught if r.failure is not None)
            print(
                f"  seed {seed}: {len(caught)} of {len(MUTANTS)} wrong rules caught (goal: all), after"
                f" {statistics.median(samples):g} samples, at most {samples[-1]} (goal: 60)"
            )
        passed = sum(graphopt.check_rule(rule).ok for rule in TWINS)
        print(f"  {passed} of {len(TWINS)} right rules that look like them pass")
    finally:
        checker.shrink = shrink
    for quick in (True, False):
        times, fine = [], 0
        for named in all_rules():
            start = time.perf_counter()
            fine += graphopt.check_rule(named.rule, name=named.name, quick=quick).ok
            times.append(time.perf_counter() - start)
        goal = " (goal: under 1)" if quick else ""
        print(
            f"  {'--quick' if quick else '60 samples'}: {fine} of {len(times)} built-in rules pass, median"
            f" {statistics.median(times):.2f} s, the slowest {max(times):.2f} s{goal}"
        )
