"""The pages about the built-in rules say what the rules are today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graphopt import UsageError
from graphopt.engine.catalog import all_rules
from graphopt.report.pages import pages, passes_of, write

FOLDER = Path(__file__).parents[2] / "docs" / "rules"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(passes_of("graphopt_passes"))


def test_pages_are_current(made: dict[str, str]) -> None:
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    stale = sorted(name for name in {*made, *on_disk} if made.get(name) != on_disk.get(name))
    assert not stale, f"run `make docs`: {', '.join(stale)} in docs/rules are not what the rules are now"


def test_every_rule_has_its_section_and_its_line_in_the_index(made: dict[str, str]) -> None:
    builtin = [named for named in all_rules() if named.rule.function.__module__.startswith("graphopt_passes")]
    assert len(builtin) > 50
    for named in builtin:
        links = re.findall(rf"\[{named.rule.name}\]\(([\w-]+\.md)#{named.rule.name}\)", made["index.md"])
        assert any(f"\n## {named.rule.name}\n" in made[page] for page in links), named.name


def test_pages_name_no_machine(made: dict[str, str]) -> None:
    text = "\n".join(made.values())
    assert str(FOLDER.parents[1]) not in text
    assert not re.search(r"\.py:\d", text), "line numbers would change with every edit"


def test_writing_removes_pages_of_rules_that_are_gone(tmp_path: Path, made: dict[str, str]) -> None:
    stale, own = tmp_path / "gone.md", tmp_path / "mine.md"
    stale.write_text(made["cleanup.md"])
    own.write_text("# Mine\n")
    written = write("graphopt_passes", tmp_path)
    assert sorted(path.name for path in written) == sorted(made)
    assert not stale.exists() and own.exists()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        write("graphopt_passes", tmp_path / "none")
    with pytest.raises(UsageError, match="no installed pass is from 'no_such_package'"):
        write("no_such_package", tmp_path)
