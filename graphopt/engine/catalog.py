"""All rules by name: those of the installed passes, and those of the files that the user names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from graphopt.engine.passes import Pass
from graphopt.engine.registry import pass_class, pass_names, usable_passes
from graphopt.engine.rules_file import RulesFile, load_rules_file
from graphopt.errors import UsageError
from graphopt.rules.rule import Rule


@dataclass(frozen=True)
class Named:
    """A rule under its full name, such as `fuse.gelu_erf`. `file`: the rules file it is from, if it is from one."""

    name: str
    rule: Rule[Any]
    pack: str
    file: Path | None = None


def find_rules(text: str, files: Sequence[str | Path] = ()) -> list[Named]:
    """The rules that `text` names, in the order in which their packs have them.

    `text` is a file (`my_rules.py`), one of its rules (`my_rules.py::mul_one`), a pack (`fuse`), a rule
    (`fuse.gelu_erf`, or `gelu_erf` in whichever packs), or a pattern of such names (`fuse.gelu_*`). `files`: rules
    files whose packs are known besides those that are installed.

    Raises `UsageError` with the nearest name if there is none, `RuleError` for what is wrong with a file.
    """
    path, separator, name = text.partition("::")
    if separator or path.endswith(".py") or "/" in path:
        found = in_file(load_rules_file(path))
        return _matching(name, found, f" in {path}") if separator else found
    if (pack := text.partition(".")[0]) in pass_names():
        pass_class(pack)  # says what is wrong with one that cannot be loaded
    known = all_rules(files)
    found = [n for n in known if n.pack == text]
    if not found and text in pass_names():
        raise UsageError(f"the pass {text!r} applies no rules: it works on the whole graph",
                         hint="see: graphopt rules list")
    return found or _matching(text, known, "")


def all_rules(files: Sequence[str | Path] = ()) -> list[Named]:
    """The rules of all passes that are installed and can be loaded, then those of the files."""
    found = _in_passes(usable_passes(), None)
    for file in files:
        found += in_file(load_rules_file(file))
    return found


def in_file(file: RulesFile) -> list[Named]:
    """The rules of a rules file, each under the name of the pass that applies it."""
    return _in_passes(file.passes, file.path)


def _in_passes(passes: Iterable[type[Pass]], file: Path | None) -> list[Named]:
    return [Named(f"{kind.name}.{rule.name}", rule, kind.name, file) for kind in passes for rule in kind.rules()]


def _matching(text: str, known: Sequence[Named], place: str) -> list[Named]:
    found = [n for n in known if text == n.name] or [
        n for n in known if fnmatchcase(n.name, text) or fnmatchcase(n.rule.name, text)
    ]
    if not found:
        names = [*(n.name for n in known), *(n.rule.name for n in known), *(n.pack for n in known)]
        what = f"there is no rule {text!r}{place}"
        raise UsageError(what, hint=nearest_of(text, names, "see: graphopt rules list"))
    return found


def nearest_of(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint with the known name nearest to `name`; with many names around, that one alone."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise
