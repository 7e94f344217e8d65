"""Every rule of every installed pass, on random models."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.engine.catalog import Named, all_rules


@pytest.mark.parametrize("named", all_rules(), ids=lambda named: named.name)
def test_the_rule_checker_has_nothing_against_it(named: Named) -> None:
    report = graphopt.check_rule(named.rule, name=named.name, quick=True)
    assert report.ok, report.text()
