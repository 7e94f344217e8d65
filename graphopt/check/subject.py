"""What a golden case tests: the rules or passes that it names, the target, the classes of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.check.golden_file import Case
from graphopt.engine.catalog import find_rules
from graphopt.engine.passes import Pass
from graphopt.engine.rules_file import rule_pack
from graphopt.engine.spec import parse
from graphopt.errors import UsageError, nearest
from graphopt.rules.rule import Accuracy, Rule
from graphopt.targets.target import Target, load_target

__all__ = ["Subject", "rules_file_of", "subject_of"]


@dataclass(frozen=True)
class Subject:
    """Passes, with the rules in them if rules are named, on a target.

    `allowed`: the loosest class of rewrite that may be made; `judged`: the class by which results are compared.
    """

    passes: tuple[Pass, ...]
    rules: tuple[Rule[Any], ...]
    target: Target
    allowed: Accuracy
    judged: Accuracy

    @property
    def settles(self) -> bool:
        """Whether a second run must find nothing more to do."""
        return all(p.settles for p in self.passes) and not any(r.once for r in self.rules)


def subject_of(case: Case, files: Sequence[Path] = ()) -> Subject:
    """What a case tests. Raises `UsageError` for names that lead nowhere."""
    settings, where = case.settings, f"{case.file}:{case.line}"
    try:
        named_target = settings.get("target", "onnx")
        target = load_target(case.file.parent / named_target if named_target.endswith(".toml") else named_target)
        asked = _accuracy(settings.get("accuracy"))
        if "pass" in settings:
            passes = tuple(parse(settings["pass"]))
            judged = Accuracy.CLOSE if asked is None else asked
            return Subject(passes, (), target, judged, judged)
        known = _files(case, files)
        named = [found for word in settings["rule"].replace(",", " ").split() for found in find_rules(word, known)]
    except UsageError as error:
        raise UsageError(error.what, where=where if error.where is None else f"{where}: {error.where}",
                         hint=error.hint) from None
    packs: dict[str, dict[Rule[Any], None]] = {}
    for one in named:
        packs.setdefault(one.pack, {})[one.rule] = None
    rules = tuple(rule for pack in packs.values() for rule in pack)
    own = max(rule.accuracy for rule in rules)
    made = tuple(rule_pack(pack, tuple(rules), "Rules under test.")() for pack, rules in packs.items())
    return Subject(made, rules, target, max(own, Accuracy.FAST), own if asked is None else asked)


def _accuracy(text: str | None) -> Accuracy | None:
    if text is None:
        return None
    names = [accuracy.label for accuracy in Accuracy]
    if text not in names:
        raise UsageError(f"there is no accuracy class {text!r}", hint=nearest(text, names))
    return Accuracy[text.upper()]


def _files(case: Case, files: Sequence[Path]) -> list[Path]:
    own = rules_file_of(case.file, case.settings.get("rules"))
    known = [*([own] if own is not None else []), *files]
    return list({path.resolve(): path for path in reversed(known)}.values())


def rules_file_of(golden: Path, named: str | None = None) -> Path | None:
    """The rules file that a golden file belongs to: the one it names; else the one called like it, beside it or, if
    it lies in a folder `golden` or `tests`, beside that."""
    if named is not None:
        return golden.parent / named
    folder = golden.parent
    while True:
        beside = folder / f"{golden.stem}.py"
        if beside.is_file():
            return beside
        if folder.name not in ("golden", "tests") or folder.parent == folder:
            return None
        folder = folder.parent
