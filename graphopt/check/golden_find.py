"""Which golden cases test what: a rules file, a pack, a rule, a golden file, a folder of them.

A golden file belongs to the rules that it names, wherever it lies. It is looked for beside the file that defines
them and in the folders `golden` and `tests` there; for the rules of an installed package also in these folders
further up, as far as the project's own folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from graphopt.check.golden_file import SUFFIX, Case, is_golden, read_golden
from graphopt.check.subject import rules_file_of
from graphopt.engine.catalog import Named, find_rules, in_file
from graphopt.engine.rules_file import load_rules_file
from graphopt.errors import UsageError, nearest_file

__all__ = ["Found", "find_cases", "golden_in", "goldens_of"]

_FOLDERS = ("golden", "tests")
_TOP = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_INSTALLED = ("site-packages", "dist-packages")
_MOST_UP = 5
_NONE = "write one: `graphopt rules new` shows how they look"


@dataclass(frozen=True)
class Found:
    """Golden cases, the rules files in which their rules may be found, and rules that none of the cases tests."""

    cases: tuple[Case, ...]
    files: tuple[Path, ...] = ()
    untested: tuple[str, ...] = ()

    def by_file(self) -> dict[Path, list[Case]]:
        """The cases of each golden file, in order."""
        files: dict[Path, list[Case]] = {}
        for case in self.cases:
            files.setdefault(case.file, []).append(case)
        return files


def find_cases(what: str) -> Found:
    """The cases that test `what`: a folder, a golden file, one of its cases (`gelu.onnxtxt::title`), or rules as
    `find_rules` takes them.

    Raises `UsageError` if there are none, or if there is no such thing.
    """
    place, separator, title = what.partition("::")
    path = Path(place)
    if path.suffix == SUFFIX:
        return Found(tuple(_titled(_cases_in(path), title) if separator else _cases_in(path)))
    if path.is_dir():
        cases = [case for file in golden_in(path) for case in read_golden(file)]
        if not cases:
            raise UsageError("there is no golden file in this folder", where=str(path), hint=_NONE)
        return Found(tuple(cases))
    rules = find_rules(what)
    cases = goldens_of(rules)
    if not cases:
        raise UsageError(f"there is no golden test of {what}", hint=_NONE)
    files = tuple(dict.fromkeys(rule.file for rule in rules if rule.file is not None))
    return Found(tuple(cases), files, tuple(r.name for r in rules if not any(_names(c, [r.name]) for c in cases)))


def golden_in(folder: Path) -> list[Path]:
    """The golden files in a folder and below, sorted."""
    return sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file() and is_golden(path))


def goldens_of(rules: Sequence[Named]) -> list[Case]:
    """The cases that test some of these rules, sorted by file; of a whole rules file also those of a rule that is no
    longer in it, which are found wrong when they are run.
    """
    found: dict[tuple[Path, str], Case] = {}
    for file in dict.fromkeys(rule.file.resolve() for rule in rules if rule.file is not None):
        names = {rule.name for rule in rules if rule.file is not None and rule.file.resolve() == file}
        whole = names >= {rule.name for rule in in_file(load_rules_file(file))}
        for path in _around(_relative(file)):
            for case in read_golden(path):
                if _resolved(rules_file_of(path, case.settings.get("rules"))) != file:
                    continue
                if _names(case, names) or (whole and _names_a_lost_one(case, names)):
                    found[case.file, case.title] = case
    installed = [rule for rule in rules if rule.file is None]
    if installed:
        names = {rule.name for rule in installed}
        whole_packs = {pack for pack in {n.partition(".")[0] for n in names} if names >= _rules_of(pack)}

        def tests_one(case: Case) -> bool:
            """A whole pass has cases enough that they say nothing of one rule among many."""
            return _names(case, names) and ("pass" not in case.settings or not whole_packs.isdisjoint(_words(case)))

        for path in _above(installed, lambda p: any(tests_one(case) for case in read_golden(p))):
            for case in read_golden(path):
                if tests_one(case):
                    found[case.file, case.title] = case
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _rules_of(pack: str) -> set[str]:
    return {rule.name for rule in find_rules(pack)}


def _words(case: Case) -> set[str]:
    """The passes that a case is about."""
    return {word.partition("{")[0] for word in case.subject.replace(",", " ").split()}


def _names(case: Case, names: Iterable[str]) -> bool:
    """Whether a case says that it tests one of the rules; a pass counts as all of its rules."""
    words = case.subject.replace(",", " ").split()
    if "pass" in case.settings:
        words = [f"{word.partition('{')[0]}.*" for word in words]
    return any(
        fnmatchcase(name, word) or name.partition(".")[2] == word or name.partition(".")[0] == word
        for word in words
        for name in names
    )


def _names_a_lost_one(case: Case, names: Iterable[str]) -> bool:
    """Whether a case says that it tests a rule of the same pack as these, which is not among them."""
    packs = {name.partition(".")[0] for name in names}
    words = [] if "pass" in case.settings else case.subject.replace(",", " ").split()
    return any("." in word and word.partition(".")[0] in packs for word in words)


def _around(file: Path) -> Iterator[Path]:
    """Golden files beside a rules file, and in the folders for tests there."""
    beside = file.with_suffix(SUFFIX)
    if beside.is_file() and is_golden(beside):
        yield beside
    for name in _FOLDERS:
        yield from golden_in(file.parent / name)


def _above(rules: Sequence[Named], wanted: Callable[[Path], bool]) -> list[Path]:
    """The golden files for an installed pack: those of the nearest folder that has some."""
    homes = dict.fromkeys(Path(inspect.getfile(rule.rule.function)).resolve() for rule in rules)
    for home in homes:
        folder = home.parent
        for _ in range(_MOST_UP):
            if folder.name in _INSTALLED:
                break
            found = [path for name in _FOLDERS for path in golden_in(folder / name) if wanted(path)]
            if found:
                return [_relative(path) for path in found]
            if any((folder / name).exists() for name in _TOP):
                break
            folder = folder.parent
    return []


def _relative(path: Path) -> Path:
    """As one would write it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _cases_in(path: Path) -> list[Case]:
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path), hint=nearest_file(path))
    if not is_golden(path):
        hint = "a golden file begins with `# rule:` or `# pass:`"
        raise UsageError("is no golden file: it does not say what it tests", where=str(path), hint=hint)
    return read_golden(path)


def _titled(cases: Sequence[Case], title: str) -> list[Case]:
    found = [case for case in cases if case.title == title]
    if not found:
        raise UsageError(f"there is no case {title!r}", where=str(cases[0].file),
                         hint="; ".join(case.title for case in cases))
    return found
