"""Golden files that are written: expectations brought up to date, and cases made of what went wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.check.golden import run_cases
from graphopt.check.golden_file import read_golden
from graphopt.check.golden_update import golden_text, update_file
from graphopt.ir.text import from_text
from tests.unit.golden import AFTER, HEADER, ONE, case, rules_in


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return rules_in(tmp_path)


def test_update_writes_expectations_and_keeps_all_else(tmp_path: Path) -> None:
    path = tmp_path / "g.onnxtxt"
    stale = ONE + AFTER.replace("Relu (x)", "Tanh (x)") + "\n# a remark\n\n"
    path.write_text("# About this.\n" + stale + case("x", "a = Ceil (x) y = Floor (a)").replace("# rule: x", "# rule: simplify.idempotent"))
    written, results = update_file(path)
    assert written == 2 and all(result.ok for result in results)
    text = path.read_text()
    assert text.startswith("# About this.\n" + ONE + AFTER + "\n# a remark\n\n# rule: simplify.idempotent\n")
    assert text.endswith("# unchanged: the operators differ\n")
    assert update_file(path)[0] == 0 and path.read_text() == text
    assert all(result.ok for result in run_cases(read_golden(path)))


def test_update_turns_one_kind_of_expectation_into_the_other(tmp_path: Path) -> None:
    path = tmp_path / "g.onnxtxt"
    path.write_text(ONE + "# unchanged: no match\n# a remark\n")
    assert update_file(path)[0] == 1
    assert path.read_text() == ONE + AFTER + "# a remark\n"
    path.write_text(ONE.replace("{1}", "{2}") + AFTER)
    assert update_file(path)[0] == 1
    assert path.read_text() == ONE.replace("{1}", "{2}") + "# unchanged: no match\n"


def test_update_mends_an_expectation_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "g.onnxtxt"
    path.write_text(ONE + AFTER.replace("Relu (x)", "Relu ("))
    assert update_file(path)[0] == 1
    assert path.read_text() == ONE + AFTER


def test_what_is_wrong_in_itself_is_not_written_down(tmp_path: Path, rules: Path) -> None:
    path = tmp_path / "my.onnxtxt"
    text = case("my.wrong", "a = Relu (x) y = Neg (a)")
    path.write_text(text)
    written, (result,) = update_file(path)
    assert written == 0 and path.read_text() == text
    assert str(result.failure).startswith("other values are computed")


def test_only_some_cases_are_updated(tmp_path: Path) -> None:
    path = tmp_path / "g.onnxtxt"
    path.write_text(ONE + ONE.replace("times one", "again"))
    cases = read_golden(path)
    assert update_file(path, only=cases[1:])[0] == 1
    assert path.read_text() == ONE + ONE.replace("times one", "again") + AFTER


def test_new_names_do_not_clash_with_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "g.onnxtxt"
    body = "t1 = Mul (x, c1) y = Mul (t1, c2)"
    path.write_text(case("simplify.mul_mul", body).replace("\n{", "\n<float c1 = {0.5}, float c2 = {0.5}>\n{", 1))
    assert update_file(path)[0] == 1
    assert "   <float c3 = {0.25}>\n{\n   y = Mul (x, c3)\n}" in path.read_text()


def test_a_case_is_made_of_a_rewrite_that_went_wrong(tmp_path: Path, rules: Path) -> None:
    before = from_text(f"{HEADER} g (float[2] x) => (float[2] y) {{ a = Relu (x) y = Neg (a) }}")
    bad = from_text(f"{HEADER} g (float[2] x) => (float[2] y) {{ y = Relu (x) }}")
    text = golden_text("my.wrong", "found by bisect", before, bad, settings=[("accuracy", "close")],
                       feeds=[("x", np.array([1, 2], np.float32))], comment="What went wrong.\nHere.")  # fmt: skip
    path = tmp_path / "found.onnxtxt"
    path.write_text(text)
    assert text.startswith("# What went wrong.\n# Here.\n\n# rule: my.wrong\n# accuracy: close\n\n# case: found by bisect\n")
    assert "# feed: float[2] x = {1, 2}\n# before\n" in text
    (result,) = run_cases(read_golden(path), [rules])
    assert str(result.failure).startswith("other values are computed")
