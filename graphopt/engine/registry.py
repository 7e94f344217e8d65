"""Passes and presets by name, found through entry points; the built-in ones are found no other way.

An entry point that cannot be used is an error when somebody asks for it; all others are as usable as before.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from graphopt.engine.passes import Pass, Preset
from graphopt.engine.rules_file import module_rules, rule_pack, summary_of
from graphopt.errors import GraphoptError, UsageError, nearest

PASSES = "graphopt.passes"
PRESETS = "graphopt.presets"


@functools.cache
def _points(group: str) -> dict[str, list[EntryPoint]]:
    """The entry points by name; more than one where two packages offer different things under one name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        same = found.setdefault(point.name, [])
        if all(other.value != point.value for other in same):
            same.append(point)
    return found


def pass_names() -> list[str]:
    """Names of all passes that are installed, sorted."""
    return sorted(_points(PASSES))


def usable_passes() -> list[type[Pass]]:
    """The passes that are installed and can be loaded; `broken` says what is wrong with the others."""
    found = []
    for name in pass_names():
        try:
            found.append(pass_class(name))
        except GraphoptError:
            continue
    return found


def pass_class(name: str, more: Mapping[str, type[Pass]] = types.MappingProxyType({})) -> type[Pass]:
    """The pass of that name; of an entry point that is a module, the pack of its rules.

    `more`: passes that are known besides those that are installed. Raises `UsageError` with the nearest known name,
    `GraphoptError` for an entry point that cannot be used.
    """
    points = _points(PASSES)
    if name in more:
        return more[name]
    if name not in points:
        if name.endswith(".py"):
            stem = name.removesuffix(".py")
            raise UsageError(f"there is no pass {name!r}", hint=f"a file of rules: --rules {name}, then -p {stem}")
        also = [f"{error.where}: {error.what}" for error in _presets()[1]]
        raise UsageError(f"there is no pass {name!r}", hint="\n  ".join([nearest(name, [*points, *more]), *also]))
    loaded, point = _load(points[name]), points[name][0]
    hint = f"correct its entry point of {PASSES}, or uninstall it"
    if isinstance(loaded, types.ModuleType):
        loaded = _module_pack(name, loaded)
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        what = f"{name!r} is neither a Pass nor a module with rules: {point.value}"
        raise GraphoptError(what, where=_package(point), hint=hint)
    if getattr(loaded, "name", None) != name:
        what = f"the entry point {name!r} leads to a pass called {getattr(loaded, 'name', None)!r}: {point.value}"
        raise GraphoptError(what, where=_package(point), hint=hint)
    return loaded


def broken() -> list[GraphoptError]:
    """What is wrong with those installed passes and presets that cannot be used."""
    found = list(_presets()[1])
    for name in pass_names():
        try:
            pass_class(name)
        except GraphoptError as error:
            found.append(error)
    return found


@functools.cache
def _module_pack(name: str, module: types.ModuleType) -> type[Pass] | None:
    rules = module_rules(module)
    return rule_pack(name, rules, summary_of(module, f"The rules of {module.__name__}.")) if rules else None


def _load(points: list[EntryPoint]) -> Any:
    """What an entry point stands for. Raises `GraphoptError` that names the package."""
    first, *others = points
    if others:
        raise GraphoptError(
            f"two packages offer {first.name!r} in {first.group}: "
            + " and ".join(f"{_package(p)} ({p.value})" for p in points),
            hint="uninstall one of them",
        )
    try:
        return first.load()
    except Exception as error:
        text = " ".join(str(error).split())
        raise GraphoptError(
            f"{first.name!r} cannot be loaded from {first.value}: {type(error).__name__}{': ' if text else ''}{text}",
            where=_package(first), hint="update or uninstall the package; the others can be used without it",
        ) from error


def _package(point: EntryPoint) -> str:
    """The package that an entry point is from, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def presets() -> Mapping[str, Preset]:
    """Presets by name, such as `O2`; those of packages that cannot be loaded are missing, see `broken`."""
    return _presets()[0]


@functools.cache
def _presets() -> tuple[Mapping[str, Preset], Sequence[GraphoptError]]:
    """The presets, and what is wrong with those that are missing."""
    merged: dict[str, Preset] = {}
    errors: list[GraphoptError] = []
    for points in _points(PRESETS).values():
        try:
            merged.update(_load(points))
        except GraphoptError as error:
            errors.append(error)
        except (TypeError, ValueError):
            errors.append(GraphoptError(f"{points[0].name!r} is no dict of presets: {points[0].value}",
                                        where=_package(points[0]), hint=f"correct its entry point of {PRESETS}"))
    return merged, errors
