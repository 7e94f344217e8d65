"""`graphopt rules new`: what it writes passes every check at once, and nothing is ever overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

ROOT = Path(__file__).parents[2]


def test_the_files_pass_their_tests_at_once(cli: Cli, tmp_path: Path) -> None:
    done = cli("rules", "new", "my_rules")
    assert done.code == 0
    assert done.out == (
        "wrote my_rules.py and my_rules.onnxtxt\n\nnext:\n"
        "  graphopt rules check my_rules.py\n"
        "  graphopt rules test my_rules.py\n"
        "  graphopt run model.onnx --rules my_rules.py -p my_rules\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_rules.onnxtxt", "my_rules.py"]
    test = cli("rules", "test", "my_rules.py")
    assert test.code == 0 and "not tested" not in test.out
    check = cli("rules", "check", "my_rules.py", "--quick")
    assert check.code == 0, check.out
    before = (tmp_path / "my_rules.onnxtxt").read_text()
    assert cli("rules", "test", "my_rules.py", "--update").code == 0
    assert (tmp_path / "my_rules.onnxtxt").read_text() == before


def test_the_next_steps_work(cli: Cli, model: Path) -> None:
    cli("rules", "new", "mine")
    done = cli("run", model, "--rules", "mine.py", "-p", "mine", "-o", "out.onnx")
    assert done.code == 0, done.err


@pytest.mark.slow
def test_it_is_strictly_typed_and_clean(cli: Cli, tmp_path: Path) -> None:
    cli("rules", "new", "my_rules")
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT}\nfollow_imports = silent\nfollow_untyped_imports = true\n")
    typed = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), "my_rules.py"]
    found = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    for style in (["--isolated", "--select", "ALL", "--ignore", "D,CPY,COM812,INP001"], ["--config", str(ROOT / "pyproject.toml")]):
        ruff = [sys.executable, "-m", "ruff", "check", *style, "my_rules.py"]
        found = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout


def test_in_another_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    done = cli("rules", "new", "mine", "--dir", "packs")
    assert done.code == 0 and "graphopt rules test packs/mine.py" in done.out
    assert (tmp_path / "packs" / "mine.onnxtxt").is_file()


@pytest.mark.parametrize("taken", ["mine.py", "mine.onnxtxt"])
def test_nothing_is_overwritten(cli: Cli, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    done = cli("rules", "new", "mine")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"graphopt: error: {taken}: is there already\n  nothing was written; choose another name\n"
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-rules", "'my-rules' cannot be the name of a Python module\n  try my_rules"),
        ("class", "'class' cannot be the name of a Python module\n  try class_rules"),
        ("3d", "'3d' cannot be the name of a Python module\n  try d_rules"),
        ("", "'' cannot be the name of a Python module\n  try my_rules"),
        ("a b.c", "'a b.c' cannot be the name of a Python module\n  try a_b_c"),
        ("ö", "'ö' cannot be the name of a Python module"),
        ("mine.py", "'mine.py' is the name of a file\n  leave the suffix out: mine"),
        ("packs/mine", "'packs/mine' is a path, not a name\n  name the folder with --dir"),
        ("fuse", "there is a pass called 'fuse' already\n  choose another name: my_fuse"),
    ],
)
def test_names_that_no_rules_file_can_have(cli: Cli, tmp_path: Path, name: str, message: str) -> None:
    done = cli("rules", "new", name)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_folders_that_are_none(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in [("none", "none: there is no such folder"), ("file", "file: is no folder")]:
        done = cli("rules", "new", "mine", "--dir", folder)
        assert done.code == 2 and message in done.err
