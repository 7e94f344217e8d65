"""The rule checker catches rules that are wrong, and lets right ones pass that look much like them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import graphopt
from graphopt import Rule
from graphopt.check import checker
from tests.rules.mutants import MUTANTS
from tests.rules.twins import TWINS


@pytest.fixture(autouse=True)
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a rule is caught does not depend on how the example is shown."""
    monkeypatch.setattr(checker, "shrink", lambda finding, *_: finding)


@pytest.mark.parametrize("rule", MUTANTS, ids=lambda rule: rule.name)
def test_a_wrong_rule_is_caught(rule: Rule[Any], record_property: Callable[[str, Any], None]) -> None:
    report = graphopt.check_rule(rule)
    assert report.verdict == "wrong", report.details()
    assert report.failure is not None and report.failure.sample < 60
    assert report.failure.kind in ("differs", "refused"), report.text()
    record_property("sample", report.failure.sample)


@pytest.mark.parametrize("rule", TWINS, ids=lambda rule: rule.name)
def test_a_right_rule_passes(rule: Rule[Any]) -> None:
    report = graphopt.check_rule(rule)
    assert report.verdict == "ok", report.text()


def test_there_are_many_and_each_says_what_is_wrong() -> None:
    assert len(MUTANTS) >= 48 and len(TWINS) >= 10
    assert all(rule.doc for rule in (*MUTANTS, *TWINS))
