"""The pytest plugin: rules and golden cases as tests, with readable names and failures, at no cost when unused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

RULES = """
from graphopt import op, rule

@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact", single_use=False)
def double_neg(x):
    '''Twice negated is as before.'''
    return x

@rule(lambda x: op.Abs(op.Neg(x)), accuracy="exact")
def wrong(x):
    '''Wrong.'''
    return op.Relu(x)
"""
HEADER = '<ir_version: 10, opset_import: ["" : 18]>\ng (float[N,4] x) => (float[N,4] y)\n'
GOLDEN = f"""# rule: my_rules.double_neg
# case: v1.5: negated [twice]
# before
{HEADER}{{
   a = Neg (x)
   b = Neg (a)
   y = Relu (b)
}}
# after
{HEADER}{{
   y = Relu (x)
}}

# case: once
# before
{HEADER}{{
   y = Neg (x)
}}
# unchanged: it is odd
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makefile(".py", my_rules=RULES)
    pytester.makefile(".onnxtxt", my_rules=GOLDEN)
    pytester.makepyfile(test_else="def test_else(): pass")
    return pytester


def run(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", *args)


def names(result: pytest.RunResult) -> list[str]:
    """The tests that were collected, with `--collect-only -q`."""
    return [line for line in result.outlines if "::" in line]


ALL = [
    "my_rules.py::double_neg[check]",
    "my_rules.py::wrong[check]",
    "my_rules.onnxtxt::v1.5: negated [twice]",
    "my_rules.onnxtxt::once",
]


def test_golden_files_are_collected_and_fail_with_their_reason(project: pytest.Pytester) -> None:
    result = run(project, "-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([
        "my_rules.onnxtxt::v1.5: negated [[]twice] PASSED*",
        "my_rules.onnxtxt::once FAILED*",
        "*_ golden case 'once' _*",
        "expected that it declines: it is odd",
        "  found: no pattern matches",
        "FAILED my_rules.onnxtxt::once - expected that it declines: it is odd",
    ])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*plugin.py*")


@pytest.mark.parametrize("by", ["ini", "command line"])
def test_rules_are_checked_where_asked(project: pytest.Pytester, by: str) -> None:
    if by == "ini":
        project.makeini("[pytest]\ngraphopt_rules = my_rules.py\n")
    result = run(project, "-v", *(["--graphopt-rules", "my_rules.py"] if by == "command line" else []))
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines([
        "my_rules.py::double_neg[[]check] PASSED*",
        "my_rules.py::wrong[[]check] FAILED*",
        "*_ rule my_rules.wrong _*",
        "my_rules.wrong: wrong, sample * of seed 0",
        "*again: graphopt rules check my_rules.py::wrong --seed 0 --sample *",
    ])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_names_select_tests(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ngraphopt_rules = my_rules.py\n")
    for name in (ALL[0], ALL[2]):
        result = run(project, name)
        result.assert_outcomes(passed=1)
    run(project, "-k", "double_neg").assert_outcomes(passed=1, deselected=4)
    run(project, "-m", "graphopt", "--strict-markers", "--collect-only").stdout.fnmatch_lines(["*4/5 tests*"])


def test_files_that_are_named_are_all_that_is_run(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ngraphopt_rules = my_rules.py\n")
    assert names(run(project, "test_else.py", "--collect-only", "-q")) == ["test_else.py::test_else"]
    asked = names(run(project, "test_else.py", "--graphopt-rules", "my_rules.py", "--collect-only", "-q"))
    assert asked == ["test_else.py::test_else", *ALL]


def test_rules_and_golden_files_outside_of_the_folders_of_tests_are_found_once(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ntestpaths = tests\ngraphopt_rules = my_rules.py my_rules.py::wrong\n")
    (project.path / "tests").mkdir()
    (project.path / "test_else.py").rename(project.path / "tests" / "test_else.py")
    assert names(run(project, "--collect-only", "-q")) == ["tests/test_else.py::test_else", *ALL]
    project.makeini("[pytest]\ngraphopt_rules = my_rules.py my_rules.py::wrong\n")
    assert sorted(names(run(project, "--collect-only", "-q"))) == sorted([*ALL, "tests/test_else.py::test_else"])


def test_packs_and_patterns_of_names(project: pytest.Pytester) -> None:
    result = run(project, "test_else.py", "--graphopt-rules", "simplify.*_noop", "--collect-only", "-q")
    found = names(result)
    assert "simplify::pad_noop[check]" in found and "simplify::cast_noop[check]" in found
    assert any(name.endswith("golden/simplify/slicing.onnxtxt::by nothing") for name in found)
    run(project, "test_else.py", "--graphopt-rules", "simplify.abs_neg").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("none.py", "ERROR: *none.py: there is no such file of rules*"),
        ("simplify.nothing", "ERROR: there is no rule 'simplify.nothing'*"),
        ("broken.py", "ERROR: *broken.py:1: raised ZeroDivisionError when it was loaded: division by zero*"),
    ],
)
def test_rules_that_cannot_be_found_are_an_error_in_one_line(project: pytest.Pytester, what: str, shown: str) -> None:
    project.makefile(".py", broken="1 / 0")
    result = run(project, "--graphopt-rules", what)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([shown])


def test_a_golden_file_that_cannot_be_read_is_an_error_of_collection(project: pytest.Pytester) -> None:
    project.makefile(".onnxtxt", my_rules=GOLDEN.replace("# after", "# before", 1))
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*my_rules.onnxtxt:11: the case 'v1.5: negated [[]twice]' has two models to begin with"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_case_that_cannot_be_run_fails_in_one_line(project: pytest.Pytester) -> None:
    project.makefile(".onnxtxt", my_rules=GOLDEN.replace("my_rules.double_neg", "my_rules.doubl_neg"))
    result = run(project)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*my_rules.onnxtxt:2: there is no rule 'my_rules.doubl_neg'"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_other_onnx_text_is_left_alone(project: pytest.Pytester) -> None:
    (project.path / "my_rules.onnxtxt").unlink()
    project.makefile(".onnxtxt", model=HEADER + "{ y = Relu (x) }")
    assert names(run(project, "--collect-only", "-q")) == ["test_else.py::test_else"]


def test_pytest_starts_without_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass")
    (tmp_path / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure():\n"
        "    assert 'graphopt.check.plugin' in sys.modules\n"
        "    print([m for m in sys.modules if m.startswith(('graphopt.', 'onnx', 'numpy', 'rich', 'typer'))])\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0
    assert found.stdout.splitlines()[-1] == "['graphopt.check', 'graphopt.check.plugin']"
