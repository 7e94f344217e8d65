"""The names of all rewrites, by which a selection takes or leaves them: a name that nothing has is a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from graphopt.engine.passes import Pass
from graphopt.engine.registry import usable_passes
from graphopt.engine.selection import Selection, matches
from graphopt.errors import UsageError
from graphopt.rules.rule import Accuracy


def check_names(selection: Selection, passes: Iterable[Pass]) -> None:
    """Raise `UsageError`, with the nearest name, for a pattern that names nothing in these passes or installed ones."""
    if not selection.select and not selection.ignore:
        return
    kinds: dict[str, type[Pass]] = {kind.name: kind for kind in usable_passes()}
    kinds.update((item.name, type(item)) for item in passes)
    rules = [name for kind in kinds.values() for name in _rules(kind)]
    others = [name for kind in kinds.values() for name in kind.rewrites]
    free = [kind.name for kind in kinds.values() if not kind.rewrites and not kind.rules()]
    for pattern in selection.select:
        if not _found(pattern, rules):
            what = f"there is no rule {pattern!r} to select"
            if _found(pattern, others):
                raise UsageError(f"{what}: it is what a pass does to the whole graph",
                                 hint="choose passes with -p, or leave this out with --ignore")
            raise UsageError(what, hint=_hint(pattern, rules))
    for pattern in selection.ignore:
        own = pattern.partition(".")[0] in free  # a pass that does not say what its rewrites are called
        if not own and not _found(pattern, [*rules, *others]):
            raise UsageError(f"there is no rewrite {pattern!r} to ignore", hint=_hint(pattern, [*rules, *others]))


def remarks(selection: Selection, passes: Sequence[Pass], packs: Iterable[str], accuracy: Accuracy) -> list[str]:
    """What the user should know of rules that were asked for by name, and will not be applied.

    `packs`: those that were given as files or rules. `accuracy`: the loosest class that the run allows.
    """
    needed: dict[str, Accuracy] = {}
    for item in passes:
        needed.update({f"{item.name}.{r.name}": r.accuracy for r in item.rules()})
    found = [
        f"select {pattern!r} has no effect: no pass of this run has such a rule"
        for pattern in selection.select
        if not _found(pattern, needed)
    ]
    wanted = [*selection.select, *(f"{name}.*" for name in packs)]
    for name, least in needed.items():
        if least > accuracy and matches(name, wanted) and selection.applies(name):
            found.append(f"{name} is not applied: it is {least.label}, and this run allows {accuracy.label}")
    return found


def _rules(kind: type[Pass]) -> list[str]:
    return [f"{kind.name}.{rule.name}" for rule in kind.rules()]


def _found(pattern: str, names: Iterable[str]) -> bool:
    return any(matches(name, [pattern]) for name in names)


def _hint(pattern: str, names: Sequence[str]) -> str:
    """The name that was probably meant: one with the pack in front, a whole pack, or one that is spelled alike."""
    full = [name for name in names if name.partition(".")[2] == pattern]
    packs = {f"{name.partition('.')[0]}.*" for name in names if "." in name}
    whole = [p for p in packs if p == f"{pattern}.*"]
    close = full or whole or difflib.get_close_matches(pattern, sorted({*names, *packs}), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "see: graphopt rules list"
