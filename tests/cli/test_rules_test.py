"""`graphopt rules test`: the table, failures in full, exit codes, and `--update`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\ng (float[N,4] x) => (float[N,4] y)\n'
GOLDEN = f"""# rule: simplify.double_negation

# case: twice
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
# unchanged: no match
"""
RULES = """
from graphopt import op, rule

@rule(lambda x: op.Neg(op.Neg(x)), single_use=False)
def double_neg(x):
    '''Twice negated is as before.'''
    return x

@rule(lambda x: op.Abs(op.Neg(x)))
def untested(x):
    '''The sign does not count.'''
    return op.Abs(x)
"""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "double.onnxtxt"
    path.write_text(GOLDEN)
    return path


def test_a_table_of_what_passed(cli: Cli, golden: Path) -> None:
    done = cli("rules", "test", "double.onnxtxt")
    assert done.code == 0 and not done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["golden", "file", "cases", "failed", "time"]
    assert re.fullmatch(r"double\.onnxtxt +2 +[\d.]+ m?s", lines[2])


def test_failures_in_full_and_exit_code_4(cli: Cli, golden: Path) -> None:
    golden.write_text(GOLDEN.replace("   y = Relu (x)\n", "   y = Abs (x)\n").replace("no match", "too large"))
    done = cli("rules", "test", "double.onnxtxt")
    assert done.code == 4
    assert "\ndouble.onnxtxt:3: twice\n  the result is not the expected one\n  --- expected\n  +++ found\n" in done.out
    assert "  -   y = Abs (x)\n  +   y = Relu (x)\n" in done.out
    assert "double.onnxtxt:19: once\n  expected that it declines: too large\n    found: no pattern matches\n" in done.out
    assert done.err == (
        "graphopt: error: 2 of 2 golden cases fail\n"
        "  if what happens now is right: graphopt rules test double.onnxtxt --update\n"
    )


def test_update_writes_what_happens_and_says_how_often(cli: Cli, golden: Path) -> None:
    golden.write_text(GOLDEN.replace("   y = Relu (x)\n", "   y = Abs (x)\n"))
    done = cli("rules", "test", ".", "--update")
    assert done.code == 0
    assert re.search(r"double\.onnxtxt +2 +1 ", done.out)
    assert golden.read_text() == GOLDEN
    golden.write_text(GOLDEN.replace("simplify.double_negation", "mine.bad"))
    (golden.parent / "mine.py").write_text(RULES.replace("double_neg", "bad").replace("return x", "return op.Abs(x)"))
    done = cli("rules", "test", "double.onnxtxt", "--update")
    assert done.code == 2, "the rules file has another name than the golden file, which does not name it"
    golden.write_text(GOLDEN.replace("# rule: simplify.double_negation", "# rule: mine.bad\n# rules: mine.py"))
    done = cli("rules", "test", "double.onnxtxt", "--update")
    assert done.code == 4 and "what is wrong in itself is not written down" in done.err
    assert "other values are computed" in done.out


def test_update_says_which_rule_fires_no_longer(cli: Cli, golden: Path) -> None:
    golden.write_text(GOLDEN.replace("   b = Neg (a)\n", "   b = Abs (a)\n"))
    done = cli("rules", "test", "double.onnxtxt", "--update")
    assert done.code == 0, done.err
    assert "fires no longer: double.onnxtxt:3: twice: no match" in done.out
    assert "once" not in done.out
    assert "fires no longer" not in cli("rules", "test", "double.onnxtxt", "--update").out


def test_one_case_one_file_once(cli: Cli, golden: Path) -> None:
    done = cli("rules", "test", "double.onnxtxt::once")
    assert done.code == 0 and re.search(r"double\.onnxtxt +1 ", done.out)
    done = cli("rules", "test", ".", golden, "double.onnxtxt::once")
    assert done.code == 0 and re.search(r"double\.onnxtxt +2 ", done.out)


def test_of_a_rules_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(RULES)
    done = cli("rules", "test", "my.py")
    assert (done.code, done.err) == (
        2, "graphopt: error: there is no golden test of my.py\n  write one: `graphopt rules new` shows how they look\n"
    )  # fmt: skip
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "my.onnxtxt").write_text(GOLDEN.replace("simplify.double_negation", "my.double_neg"))
    done = cli("rules", "test", "my.py")
    assert done.code == 0
    assert "tests/my.onnxtxt" in done.out and "not tested: my.untested" in done.out
    assert cli("rules", "test", "my.py::double_neg").code == 0
    assert cli("rules", "test", "my.py::untested").code == 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("none.onnxtxt", "none.onnxtxt: there is no such file"),
        ("double.onnxtxt::nonce", "double.onnxtxt: there is no case 'nonce'\n  twice; once"),
        ("empty", "empty: there is no golden file in this folder"),
        ("fold", "the pass 'fold' applies no rules"),
        ("simplifi", "there is no rule 'simplifi'"),
        ("broken.onnxtxt", "broken.onnxtxt:4: expected '=>', found '{'"),
    ],
)
def test_what_cannot_be_tested(cli: Cli, golden: Path, tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnxtxt").write_text("# rule: simplify.mul_one\n# case: a\n# before\n<ir_version: 10> g () {}\n")
    done = cli("rules", "test", what)
    assert done.code == 2 and not done.out
    assert message in done.err
