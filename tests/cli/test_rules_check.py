"""`graphopt rules check`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graphopt.cli import rules_check
from tests.cli.conftest import Cli

RULES = '''
"""Rules of mine."""
from graphopt import Tensor, op, require, rule


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def right(x: Tensor) -> Tensor:
    """Twice negated is as before."""
    return x


@rule(lambda x: op.Sqrt(x * x))
def wrong(x: Tensor) -> Tensor:
    """The root of a square is not the number."""
    return x


@rule(lambda x: op.Abs(op.Abs(x)))
def shy(x: Tensor) -> Tensor:
    """Never fires."""
    require(False, "not today")
    return op.Abs(x)
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(RULES)
    return path


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if re.match(r"[\w-]+\.\w+ +\d", line)}


def test_rules_that_are_fine(cli: Cli, mine: Path) -> None:
    code, out, err = cli("rules", "check", "mine.py::right", "simplify.double_negation", "--quick")
    assert (code, err) == (0, "")
    found = rows(out)
    assert list(found) == ["mine.right", "simplify.double_negation"]
    assert all(row[-2] == "ok" and int(row[0]) < 60 and int(row[1]) > 0 for row in found.values())
    assert out.endswith("\n2 rules checked: fine\n")


def test_a_file_with_rules_that_are_not(cli: Cli, mine: Path) -> None:
    code, out, _ = cli("rules", "check", "mine.py")
    assert code == 4
    found = rows(out)
    assert [" ".join(row[4:-1]) for row in found.values()] == ["ok", "wrong", "never fired"]
    assert out.endswith("\n3 rules checked, 2 not fine\n")
    sample = int(re.search(r"again: graphopt rules check mine.py::wrong --seed 0 --sample (\d+)\n", out).group(1))  # type: ignore[union-attr]
    assert f"mine.wrong: wrong, sample {sample} of seed 0\n  output '" in out
    assert "Sqrt (" in out and "np.array([" in out
    assert "mine.shy: never fired\n  240 samples: 0 fired" in out
    assert re.search(r"\n  declined \d+: not today\n", out)
    assert "mine.right: ok" not in out


def test_the_command_that_is_printed_repeats_the_failure(cli: Cli, mine: Path) -> None:
    first = cli("rules", "check", "mine.py::wrong", "--seed", "7").out
    command = next(line for line in first.splitlines() if "again: graphopt " in line).partition("graphopt ")[2]
    code, again, _ = cli(*command.split())
    assert code == 4
    body = "mine.wrong: wrong"
    assert again[again.index(body) :] == first[first.index(body) :]
    assert rows(again)["mine.wrong"][0] == "1"


def test_verbose_says_what_was_tried(cli: Cli, mine: Path) -> None:
    out = cli("rules", "check", "mine.py::right", "--quick", "-v").out
    assert "\nmine.right: ok\n" in out and "tried dtypes: " in out


def test_json(cli: Cli, mine: Path, tmp_path: Path) -> None:
    code, out, _ = cli("rules", "check", "mine.py", "--json", "-", "--seed", "2")
    assert code == 4
    document = json.loads(out)
    assert document["schema"] == rules_check.SCHEMA and document["ok"] is False
    right, wrong, shy = document["rules"]
    assert (right["rule"], right["verdict"], right["failure"], right["seed"]) == ("mine.right", "ok", None, 2)
    assert wrong["failure"]["kind"] == "differs" and "Sqrt" in wrong["failure"]["before"]
    assert wrong["command"].startswith("graphopt rules check mine.py::wrong --seed 2 --sample ")
    assert shy["declined"]["not today"] > 200
    assert sum(shy["declined"].values()) + sum(shy["invalid"].values()) + shy["unmatched"] == shy["samples"]
    code, out, _ = cli("rules", "check", "mine.py::right", "--quick", "--json", tmp_path / "report.json")
    assert code == 0 and "mine.right" in out
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is True


def test_a_rule_is_checked_once(cli: Cli, mine: Path) -> None:
    out = cli("rules", "check", "mine.py::right", "mine.py::r*", "--quick").out
    assert list(rows(out)) == ["mine.right"] and out.endswith("1 rule checked: fine\n")


def test_patterns_of_names(cli: Cli) -> None:
    out = cli("rules", "check", "simplify.where_*", "--samples", "5").out
    assert {"simplify.where_constant", "simplify.where_not", "simplify.where_same"} <= set(rows(out))


def test_without_anything_to_check_the_packs_are_named(cli: Cli) -> None:
    code, out, err = cli("rules", "check")
    assert (code, out) == (2, "")
    assert err.startswith("graphopt: error: say what to check\n  a file of rules such as my_rules.py, or one of: ")
    assert "fuse" in err and "simplify" in err


def test_bad_calls(cli: Cli, mine: Path) -> None:
    code, _, err = cli("rules", "check", "fuse.gelu_er")
    assert code == 2 and "there is no rule 'fuse.gelu_er'" in err and "fuse.gelu_erf" in err
    code, _, err = cli("rules", "check", "yours.py")
    assert code == 2 and "there is no such file of rules" in err
    code, _, err = cli("rules", "check", "mine.py", "--samples", "0")
    assert code == 2
    code, _, err = cli("rules", "check", "mine.py", "--json", "no/such/folder.json")
    assert code == 2 and "cannot write the JSON" in err


def test_a_rule_that_raises_is_shown_with_the_sample(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from graphopt import Tensor, op, rule\n\n\n"
        "@rule(lambda x: op.Neg(op.Neg(x)))\n"
        "def bad(x: Tensor) -> Tensor:\n"
        '    """Raises."""\n'
        "    return {}['x']\n"
    )
    code, out, _ = cli("rules", "check", "bad.py")
    assert code == 4
    assert "rule 'bad.bad' raised KeyError: 'x'" in out or "rule 'bad' raised KeyError: 'x'" in out
    assert "bad.py:" in out and "Neg (" in out
