"""Passes and presets by name, found through entry points; the built-in ones are found no other way."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from graphopt.engine.passes import Pass, Preset
from graphopt.errors import GraphoptError, UsageError, nearest

PASSES = "graphopt.passes"
PRESETS = "graphopt.presets"


@functools.cache
def _points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise GraphoptError(
                f"two installed packages offer {point.name!r} in {group}: {other.value} and {point.value}",
                hint="uninstall one of them",
            )
    return found


def pass_names() -> list[str]:
    """Names of all passes that are installed, sorted."""
    return sorted(_points(PASSES))


def pass_class(name: str) -> type[Pass]:
    """The pass of that name. Raises UsageError with the nearest known name."""
    points = _points(PASSES)
    if name not in points:
        raise UsageError(f"there is no pass {name!r}", hint=nearest(name, points))
    loaded: Any = points[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise GraphoptError(f"the entry point {name!r} of {PASSES} is no Pass: {points[name].value}")
    return loaded


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Presets by name, such as `O2`."""
    merged: dict[str, Preset] = {}
    for point in _points(PRESETS).values():
        merged.update(point.load())
    return merged
