"""Golden files: what a rule makes of small models, written in ONNX text.

    # rule: simplify.mul_one

    # case: a factor of one goes
    # before
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[N] x) => (float[N] y)
       <float one = {1}>
    {
       h = Mul (x, one)
       y = Relu (h)
    }
    # after
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[N] x) => (float[N] y)
    {
       y = Relu (x)
    }

    # case: any other factor stays
    # before
    …
    # unchanged: no match

`# rule:` (names of rules, as `graphopt rules list` shows them) or `# pass:` (passes, as `-p` takes them) holds for
the cases behind it, up to the next one. Between it and the first case, or for one case between its title and its
`# before`, may stand

* `# accuracy:` the class by which results are compared: by default the rule's own; for passes `close`, and then it is
  the loosest that is allowed as well;
* `# target:` where the model is to run: by default `onnx`, which takes standard operators only; or the TOML file of a
  target, relative to this one;
* `# rules:` the file that defines the rules, relative to this one;
* `# place: edge` for what holds only where values are inputs and outputs of the graph: everything else is tried
  inside of a graph as well, between Identity operators.

A case may name its inputs, in lines such as `# feed: float[2] x = {1, 2}`. `# unchanged:` tells why: the reason why the
rule declined, a part of it, or a pattern with `*`; or `no match`. Other lines that begin with `#` are comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.errors import UsageError

__all__ = ["EDGE", "NO_MATCH", "SUFFIX", "Case", "Section", "is_golden", "parse_golden", "read_golden", "replaced"]

SUFFIX = ".onnxtxt"
NO_MATCH = "no match"
EDGE = "edge"

_SUBJECT = ("rule", "pass")
_SETTING = ("accuracy", "target", "rules", "place")
_DIRECTIVE = re.compile(
    r"#[ \t]*(rule|pass|accuracy|target|rules|place|case|feed|before|after|unchanged)[ \t]*(?::[ \t]*(.*?))?[ \t]*$"
)
_HEADER = re.compile(r"#[ \t]*(rule|pass)[ \t]*:")


@dataclass(frozen=True)
class Section:
    """Text of a file: its lines from `first` on (counted from 1), without comments and empty lines at its end."""

    first: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Case:
    """One case. `line` is that of its title; `settings` by name; `feeds` are lines of text with their number.

    `after` is the expected model, `unchanged` why nothing is expected to change: one of the two, or none yet.
    `span`: the lines that hold the expectation, first and behind the last; empty where it is to be inserted.
    """

    file: Path
    title: str
    line: int
    settings: Mapping[str, str]
    feeds: tuple[tuple[int, str], ...]
    before: Section
    after: Section | None
    unchanged: str | None
    span: tuple[int, int]

    @property
    def id(self) -> str:
        """`golden/gelu.onnxtxt::the usual form`"""
        return f"{self.file}::{self.title}"

    @property
    def subject(self) -> str:
        """What is tested, in the words of the file."""
        return self.settings.get("rule") or self.settings["pass"]


def is_golden(path: Path) -> bool:
    """Whether a file says, ahead of any model, which rule or pass it tests."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if _HEADER.match(line):
                    return True
                if line.strip() and not line.startswith("#"):
                    return False
    except (OSError, UnicodeDecodeError):
        return False
    return False


def read_golden(path: Path) -> list[Case]:
    """The cases of a file. Raises `UsageError` with file and line for what is wrong with it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UsageError("is no text in UTF-8", where=str(path)) from None
    return parse_golden(text, path)


def parse_golden(text: str, path: Path) -> list[Case]:
    """As `read_golden`, for a text that stands or will stand in that file."""
    cases = _Reader(text, path).cases
    if not cases:
        raise UsageError("has no case", where=str(path), hint="a case begins with `# case:` and its title")
    return cases


def replaced(text: str, changes: Iterable[tuple[Case, Sequence[str]]]) -> str:
    """The file's text with other expectations for some cases, each given as lines; all else is kept."""
    lines = text.splitlines()
    for case, new in sorted(changes, key=lambda change: -change[0].span[0]):
        first, last = case.span
        lines[first - 1 : last - 1] = new
    return "\n".join(lines) + "\n"


@dataclass
class _Draft:
    title: str
    line: int
    settings: dict[str, str]
    feeds: list[tuple[int, str]] = field(default_factory=list)
    before: int = 0  # line of the directive
    expectation: int = 0
    after: bool = False
    unchanged: str | None = None


class _Reader:
    def __init__(self, text: str, path: Path) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._settings: dict[str, str] = {}
        self._case: _Draft | None = None
        self.cases: list[Case] = []
        for number, line in enumerate(self._lines, 1):
            match = _DIRECTIVE.match(line)
            if match is not None:
                self._directive(number, match[1], match[2])
            elif line.strip() and not line.startswith("#") and not self._in_model():
                raise self._error("only a comment may stand here", number, "a model stands behind `# before`")
        self._close(len(self._lines) + 1)
        self._check_titles()

    def _in_model(self) -> bool:
        case = self._case
        return case is not None and bool(case.before) and (not case.expectation or case.after)

    def _error(self, what: str, line: int, hint: str | None = None) -> UsageError:
        return UsageError(what, where=f"{self._path}:{line}", hint=hint)

    def _directive(self, line: int, word: str, value: str | None) -> None:
        if word in ("before", "after"):
            if value is not None:
                raise self._error(f"`# {word}` stands alone in its line", line)
        elif not value:
            raise self._error(f"`# {word}:` says nothing", line, _WHAT.get(word))
        if word == "case":
            self._close(line)
            if not self._settings:
                raise self._error("it is not said which rule is tested", line, "write `# rule:` or `# pass:` above")
            if "::" in str(value):
                raise self._error("a title has no `::` in it", line, "that ends the name of the file in FILE::TITLE")
            self._case = _Draft(str(value), line, dict(self._settings))
        elif word in _SUBJECT:
            self._close(line)
            self._settings = {word: str(value)}
        elif word in _SETTING:
            self._setting(line, word, str(value))
        else:
            self._part(line, word, value)

    def _setting(self, line: int, word: str, value: str) -> None:
        case = self._case
        if word == "place" and value != EDGE:
            raise self._error(f"there is no place {value!r}", line, f"known: {EDGE}")
        if case is not None and not case.before:
            case.settings[word] = value
        elif case is None and self._settings:
            self._settings[word] = value
        else:
            raise self._error(f"`# {word}:` stands behind `# rule:` or `# pass:`, or behind a title", line)

    def _part(self, line: int, word: str, value: str | None) -> None:
        case = self._case
        if case is None:
            raise self._error(f"`# {word}` belongs to a case", line, "a case begins with `# case:` and its title")
        if word == "before":
            if case.before:
                raise self._error(f"the case {case.title!r} has two models to begin with", line)
            case.before = line
        elif not case.before:
            if word != "feed":
                raise self._error(f"`# {word}` stands behind the model of `# before`", line)
            case.feeds.append((line, str(value)))
        elif word == "feed":
            raise self._error("`# feed:` stands ahead of `# before`", line)
        else:
            if case.expectation:
                raise self._error(f"the case {case.title!r} has two expectations", line)
            case.expectation, case.after, case.unchanged = line, word == "after", value

    def _close(self, end: int) -> None:
        """The case is complete; `end` is the line behind it."""
        case, self._case = self._case, None
        if case is None:
            return
        if not case.before:
            raise self._error(f"the case {case.title!r} has no model", case.line, "write it behind `# before`")
        before = self._section(case.before + 1, case.expectation or end)
        if not before.lines:
            raise self._error("the model is missing", case.before)
        after = self._section(case.expectation + 1, end) if case.after else None
        if after is not None and not after.lines:
            after = None
        if not case.expectation:
            behind = before.first + len(before.lines)
            span = behind, behind
        else:
            span = case.expectation, case.expectation + 1 if after is None else after.first + len(after.lines)
        self.cases.append(Case(
            self._path, case.title, case.line, case.settings, tuple(case.feeds), before, after, case.unchanged, span
        ))  # fmt: skip

    def _section(self, first: int, end: int) -> Section:
        lines = self._lines[first - 1 : end - 1]
        while lines and (not lines[-1].strip() or (lines[-1].startswith("#") and not lines[-1].startswith("#:"))):
            lines.pop()
        return Section(first, tuple(lines))

    def _check_titles(self) -> None:
        seen: dict[str, Case] = {}
        for case in self.cases:
            other = seen.setdefault(case.title, case)
            if other is not case:
                what = f"two cases are called {case.title!r}"
                raise self._error(what, case.line, f"the other one is in line {other.line}")


_WHAT = {
    "unchanged": "write the reason why the rule declines, or `# unchanged: no match`",
    "case": "write what the case shows",
    "rule": "write the name of the rule, such as simplify.mul_one",
    "pass": "write the passes as -p takes them",
}


