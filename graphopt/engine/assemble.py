"""From what a user names to the passes of a run: names, rules files, rules, modules and passes, put in order."""

from __future__ import annotations

import dataclasses
import itertools
import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graphopt.engine.passes import Pass
from graphopt.engine.registry import pass_names, presets
from graphopt.engine.rules_file import load_rules_file, module_rules, rule_pack, summary_of
from graphopt.engine.spec import parse, with_prerequisites
from graphopt.errors import UsageError, nearest
from graphopt.rules.rule import Accuracy, Rule

_ANONYMOUS = "rules"

Ruleful = str | os.PathLike[str] | types.ModuleType | Rule[Any]
"""Where rules come from: a rules file, a module with rules, or one rule."""


class Foreign(Protocol):
    """A rule or a set of rules of onnxscript, as far as types tell."""

    def apply_to_model(self, model: Any, /) -> Any: ...


Asked = str | Pass | types.ModuleType | Rule[Any] | Sequence[Rule[Any]] | Foreign
"""An item of a list of passes: names as `-p` takes them, a pass, a module with rules, a rule or several."""


@dataclass(frozen=True)
class Assembly:
    """The passes of a run, in order. `added`: names of those that another needs and nobody asked for. `packs`: names
    of those that were given as files, modules or rules; `files`: the files.
    """

    passes: list[Pass]
    added: list[str]
    packs: list[str]
    files: list[str]


def with_options(passes: Sequence[Pass], options: Mapping[str, Any]) -> list[Pass]:
    """The passes, with these values in the fields of these names wherever a pass has such.

    Raises `UsageError` for an option that none of them has.
    """
    known = {field.name for item in passes for field in dataclasses.fields(item)}
    for name in options:
        if name not in known:
            raise UsageError(f"no pass of this run takes {name.replace('_', '-')}", hint="such as -p fuse,quant")
    return [
        dataclasses.replace(item, **{f.name: options[f.name] for f in dataclasses.fields(item) if f.name in options})
        for item in passes
    ]


def assemble(asked: str | Sequence[Asked], rules: Ruleful | Iterable[Ruleful] = ()) -> Assembly:
    """The passes that `asked` and `rules` name, with those that they require put in front.

    What `rules` offers can be asked for by name. If none of the packs of an item is, they all run at the end of the
    passes that settle, that is before those, such as `quant`, that do not. Raises `UsageError` for what cannot be
    read or is not known, and for two passes of one name; `RuleError` for what is wrong with a rules file.
    """
    offers = _Offers()
    sources: Any = [rules] if isinstance(rules, str | os.PathLike | types.ModuleType | Rule) else rules
    for source in _together(sources):
        offers.add(source)
    wanted: list[Pass] = []
    for item in [asked] if isinstance(asked, str) else _together(asked):
        wanted += parse(item, offers.known) if isinstance(item, str) else offers.passes_of(item)
    passes, added = with_prerequisites(wanted, offers.known)
    named = {item.name for item in passes}
    for kinds in offers.groups:
        if named.isdisjoint(kind.name for kind in kinds):
            _put(passes, [kind() for kind in kinds])
    passes, more = with_prerequisites(passes, offers.known)
    return Assembly(passes, [*added, *more], offers.names, offers.files)


def accuracy_of(passes: str | Sequence[Asked], asked: str | None) -> Accuracy:
    """What was asked for, else that of the presets among the passes, else `close`."""
    if asked is not None:
        names = [a.label for a in Accuracy]
        if asked not in names:
            raise UsageError(f"there is no accuracy class {asked!r}", hint=nearest(asked, names))
        return Accuracy[asked.upper()]
    known = presets()
    words = passes.replace(",", " ").split() if isinstance(passes, str) else [p for p in passes if isinstance(p, str)]
    classes = [Accuracy[known[w].accuracy.upper()] for w in words if w in known]
    return max(classes, default=Accuracy.CLOSE)


def _together(items: Iterable[Any]) -> Iterator[Any]:
    """The items, with rules that follow each other as one tuple: they make one pack."""
    for are_rules, group in itertools.groupby(items, lambda item: isinstance(item, Rule)):
        if are_rules:
            yield tuple(group)
        else:
            yield from group


def _put(passes: list[Pass], new: Sequence[Pass]) -> None:
    """Put passes behind those that settle; those that do not settle themselves go to the end."""
    place = next((i for i, item in enumerate(passes) if not item.settles), len(passes))
    passes[place:place] = [item for item in new if item.settles]
    passes.extend(item for item in new if not item.settles)


class _Offers:
    """Passes that are known besides the installed ones. `groups`: those that were given together."""

    def __init__(self) -> None:
        self.known: dict[str, type[Pass]] = {}
        self.groups: list[list[type[Pass]]] = []
        self.names: list[str] = []
        self._taken: Mapping[str, str] = {
            **dict.fromkeys(pass_names(), "an installed pass"), **dict.fromkeys(presets(), "a preset"),
        }  # fmt: skip
        self._origin: dict[str, str] = {}
        self.files: list[str] = []
        self._loaded: set[Path] = set()

    def add(self, item: str | os.PathLike[str] | types.ModuleType | Sequence[Rule[Any]]) -> None:
        """Make the passes known that a rules file, a module or rules stand for."""
        if isinstance(item, str | os.PathLike):
            file = load_rules_file(Path(item))
            if file.path in self._loaded:
                return
            self._loaded.add(file.path)
            self.files.append(os.fspath(item))
            kinds, origin = list(file.passes), os.fspath(item)
        else:
            kinds, origin = [self._pack_of(item)], _origin_of(item)
        for kind in kinds:
            self._check_free(kind.name, origin)
        self.known.update((kind.name, kind) for kind in kinds)
        self.names += [kind.name for kind in kinds]
        self.groups.append(kinds)

    def passes_of(self, item: Pass | types.ModuleType | Sequence[Rule[Any]]) -> list[Pass]:
        """The passes that one item of a list stands for, a string aside."""
        if isinstance(item, Pass):
            return [item]
        kind = self._pack_of(item)
        self._check_free(kind.name, _origin_of(item))
        self.names.append(kind.name)
        return [kind()]

    def _pack_of(self, item: Any) -> type[Pass]:
        if isinstance(item, types.ModuleType):
            rules = module_rules(item)
            if not rules:
                what = f"the module {item.__name__} has no rules"
                raise UsageError(what, hint="write them with @rule at its top level")
            name = item.__name__.rpartition(".")[2]
            return rule_pack(name, rules, summary_of(item, f"The rules of {item.__name__}."))
        rules = tuple(item) if isinstance(item, list | tuple) else ()
        if not rules or not all(isinstance(r, Rule) for r in rules):
            raise UsageError(f"{item!r} is no pass", hint="give names, Pass objects, rules, or modules with rules")
        return rule_pack(self._free_name(), rules, f"The rules {', '.join(r.name for r in rules)}.")

    def _free_name(self) -> str:
        """A name for rules that come without a module: `rules`, then `rules_2`."""
        name, number = _ANONYMOUS, 1
        while name in self._origin or name in self._taken:
            number += 1
            name = f"{_ANONYMOUS}_{number}"
        return name

    def _check_free(self, name: str, origin: str) -> None:
        other = self._taken.get(name) or self._origin.get(name)
        if other is not None:
            raise UsageError(f"its rules would make a pass called {name!r}, which is the name of {other}",
                             where=origin, hint="rename it: rules are called after their file or module")
        self._origin[name] = f"those of {origin}"


def _origin_of(item: types.ModuleType | Sequence[Rule[Any]]) -> str:
    return f"the module {item.__name__}" if isinstance(item, types.ModuleType) else repr(item)
