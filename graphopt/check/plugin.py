"""The pytest plugin: rules and their golden cases as tests.

    [pytest]
    graphopt_rules = my_rules.py my_pack fuse.gelu_*

Every rule that is named there, or with `--graphopt-rules`, is checked on random models, as by `graphopt rules check
--quick`, and every golden case of it is run; the names are those that `graphopt rules check` takes. Golden files
(*.onnxtxt that begin with `# rule:` or `# pass:`) in the folders that pytest visits are run in any case. All of these
tests bear the mark `graphopt`.

Loaded whenever pytest starts, so it imports nothing but pytest until there is something to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from graphopt.check.golden_file import Case
    from graphopt.engine.catalog import Named

_SUFFIX = ".onnxtxt"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("graphopt").addoption(
        "--graphopt-rules",
        action="append",
        default=[],
        metavar="WHAT",
        help="also test these rules: FILE.py, FILE.py::RULE, a pass, a rule, or a pattern such as 'fuse.gelu_*'",
    )
    parser.addini("graphopt_rules", "rules to test: what --graphopt-rules takes", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "graphopt: checks a rewrite rule, or runs one of its golden cases")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == _SUFFIX:
        from graphopt.check.golden_file import is_golden

        return GoldenFile.from_parent(parent, path=file_path) if is_golden(file_path) else None
    if file_path.suffix == ".py":
        wanted = [what for what in _wanted(parent.config) if _file_of(what) == file_path.resolve()]
        return RulesFile.from_parent(parent, path=file_path, what=wanted) if wanted else None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the rules that are named, and their golden cases, unless pytest was asked for certain files only."""
    wanted = _wanted(config, only_asked=_is_narrowed(config))
    if not wanted:
        return
    known = {item.nodeid for item in items}
    try:
        items.extend(item for what in wanted for item in _items(session, what) if item.nodeid not in known)
    except _graphopt_error() as error:
        raise pytest.UsageError(str(error)) from None
    unique = {item.nodeid: item for item in reversed(items)}
    items[:] = [item for item in items if unique.get(item.nodeid) is item]


def _is_narrowed(config: pytest.Config) -> bool:
    """Whether files or folders are named on the command line."""
    return config.args_source is pytest.Config.ArgsSource.ARGS


def _wanted(config: pytest.Config, *, only_asked: bool = False) -> list[str]:
    """What is to be tested, with paths made absolute; `only_asked`: by the command line alone."""
    here = config.invocation_params.dir
    found = [_absolute(what, here) for what in config.getoption("graphopt_rules")]
    if not only_asked:
        base = config.inipath.parent if config.inipath is not None else config.rootpath
        found += [_absolute(what, base) for what in config.getini("graphopt_rules")]
    return list(dict.fromkeys(found))


def _absolute(what: str, base: Path) -> str:
    path, separator, name = what.partition("::")
    return f"{base / path}{separator}{name}" if path.endswith(".py") or "/" in path else what


def _file_of(what: str) -> Path | None:
    path = what.partition("::")[0]
    return Path(path).resolve() if path.endswith(".py") else None


def _graphopt_error() -> type[Exception]:
    from graphopt.errors import GraphoptError

    return GraphoptError


def _items(session: pytest.Session, what: str) -> Iterator[pytest.Item]:
    """The tests of rules: each one checked, then the golden cases."""
    from graphopt.check.golden_find import goldens_of
    from graphopt.engine.catalog import find_rules

    rules = find_rules(what)
    file = _file_of(what)
    if file is not None:
        yield from RulesFile.from_parent(session, path=file, nodeid=_nodeid(session, file), what=[what]).collect()
    else:
        packs = dict.fromkeys(rule.pack for rule in rules)
        for pack in packs:
            node = RulesPack.from_parent(session, name=pack, nodeid=pack)
            yield from (_rule_item(node, rule, rule.name) for rule in rules if rule.pack == pack)
    files = [file] if file is not None else []
    by_file: dict[Path, list[Case]] = {}
    for case in goldens_of(rules):
        by_file.setdefault(case.file.resolve(), []).append(case)
    for path, cases in by_file.items():
        golden = GoldenFile.from_parent(session, path=path, nodeid=_nodeid(session, path))
        yield from (golden.item(case, files) for case in cases)


def _nodeid(session: pytest.Session, path: Path) -> str:
    """As pytest has it for a file below its root folder; others by their whole path."""
    root = session.config.rootpath
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


class _Quiet(pytest.Collector):
    """A collector whose errors are shown as graphopt shows them."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, _graphopt_error()) else super().repr_failure(excinfo)


class RulesFile(_Quiet, pytest.File):
    """A file of rules, or some of its rules."""

    def __init__(self, *, what: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._what = what

    def collect(self) -> Iterator[pytest.Item]:
        from graphopt.engine.catalog import find_rules

        rules = dict.fromkeys(rule for what in self._what for rule in find_rules(what))
        shown = self.nodeid or str(self.path)
        return (_rule_item(self, rule, f"{shown}::{rule.rule.name}") for rule in rules)


class RulesPack(_Quiet, pytest.Collector):
    """The rules of an installed pass."""

    def collect(self) -> Iterator[pytest.Item]:
        return iter(())


class GoldenFile(_Quiet, pytest.File):
    """A golden file."""

    def collect(self) -> Iterator[pytest.Item]:
        from graphopt.check.golden_file import read_golden

        return (self.item(case, []) for case in read_golden(self.path))

    def item(self, case: Case, files: list[Path]) -> pytest.Item:
        return GoldenItem.from_parent(self, name=case.title, case=case, files=files)


class _Failed(Exception):
    """A rule or a case that fails, with all there is to say about it."""


class _GraphoptItem(pytest.Item):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_marker(pytest.mark.graphopt)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        known = (_Failed, _graphopt_error())
        return str(excinfo.value) if isinstance(excinfo.value, known) else super().repr_failure(excinfo, style)


class RuleItem(_GraphoptItem):
    """A rule on random models. `what`: how `graphopt rules check` finds it."""

    def __init__(self, *, rule: Named, what: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rule, self._what = rule, what

    def runtest(self) -> None:
        from graphopt.check.checker import check_rule

        report = check_rule(self._rule.rule, name=self._rule.name, quick=True)
        if not report.ok:
            raise _Failed(report.text(self._what))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        code = self._rule.rule.function.__code__
        return Path(code.co_filename), code.co_firstlineno - 1, f"rule {self._rule.name}"


def _rule_item(parent: pytest.Collector, rule: Named, what: str) -> pytest.Item:
    return RuleItem.from_parent(parent, name=f"{rule.rule.name}[check]", rule=rule, what=what)


class GoldenItem(_GraphoptItem):
    """A case of a golden file. `files`: where its rules may be found besides."""

    def __init__(self, *, case: Case, files: list[Path], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._case, self._files = case, files

    def runtest(self) -> None:
        from graphopt.check.golden import run_cases

        (result,) = run_cases([self._case], self._files)
        if not result.ok:
            raise _Failed(str(result.failure))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, self._case.line - 1, f"golden case {self.name!r}"
