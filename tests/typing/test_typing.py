"""mypy (strict) and pyright accept right rules, and find exactly the marked mistakes in wrong ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def mypy(file: Path, cache: Path) -> set[int]:
    """Lines with errors."""
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(cache), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(n) for n in re.findall(rf"{file.name}:(\d+): error", done.stdout)}


def pyright(file: Path, _: Path) -> set[int]:
    """Lines with errors."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"}


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
class TestTypes:
    def test_right_rules_are_accepted(self, checker, tmp_path: Path) -> None:
        assert checker(HERE / "right_rules.py", tmp_path) == set()

    def test_each_mistake_is_found_and_nothing_else(self, checker, tmp_path: Path) -> None:
        file = HERE / "wrong_rules.py"
        marked = {n for n, line in enumerate(file.read_text().splitlines(), 1) if "# wrong:" in line}
        assert len(marked) == 11
        assert checker(file, tmp_path) == marked


def test_right_rules_can_be_defined() -> None:
    from tests.typing import right_rules

    assert len(right_rules.MyRules.rules()) == 6
