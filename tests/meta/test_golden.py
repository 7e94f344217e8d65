"""Every built-in rule has golden cases: one where it fires, and one that breaks a precondition and names the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.check.golden_file import read_golden
from graphopt.check.golden_find import golden_in
from graphopt.engine.catalog import all_rules

ROOT = Path(__file__).parents[1] / "golden"
CASES = [case for path in golden_in(ROOT) for case in read_golden(path)]
BUILT_IN = [named for named in all_rules() if named.rule.function.__module__.startswith("graphopt_passes")]


@pytest.mark.parametrize("name", [named.name for named in BUILT_IN])
def test_every_rule_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    cases = [case for case in CASES if case.subject == name]
    assert any(case.after is not None for case in cases), "no case shows what it does"
    assert any(case.unchanged is not None for case in cases), "no case shows where it stays away"


@pytest.mark.parametrize("path", golden_in(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_tests_the_rules_of_the_module_that_it_is_called_after(path: Path) -> None:
    module = ".".join(["graphopt_passes", *path.relative_to(ROOT).with_suffix("").parts])
    own = {named.name for named in BUILT_IN if named.rule.function.__module__ == module}
    cases = read_golden(path)
    assert {case.subject for case in cases if "rule" in case.settings} == own
    passes = {name for case in cases if "pass" in case.settings for name in case.subject.split(",")}
    assert not passes or path.relative_to(ROOT).parts[0] in passes or path.parent == ROOT, "it stands in another folder"


def test_golden_files_are_collected_by_the_plugin(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.has_plugin("graphopt"), "install the project again: its entry points changed"
