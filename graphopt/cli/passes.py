"""`graphopt passes`: what -p takes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any


def passes() -> None:
    """List the passes, their options, and the presets."""
    from rich.console import Group
    from rich.text import Text

    from graphopt.cli.terminal import show
    from graphopt.engine.registry import pass_class, pass_names, presets
    from graphopt.report.table import table

    made = table("pass", "what it does", fold="what it does")
    for name in pass_names():
        kind = pass_class(name)
        text = Text(kind.summary())
        if kind.requires:
            text.append(f"\nneeds {', '.join(kind.requires)}", style="dim")
        for option in _options(kind):
            text.append(f"\n{option}", style="dim")
        made.add_row(Text(name, style="bold"), text)
    levels = table("preset", "passes", "accuracy", "what it allows", fold="what it allows")
    for name, preset in sorted(presets().items()):
        levels.add_row(Text(name, style="bold"), preset.passes, preset.accuracy, preset.title)
    show(Group(made, Text(), levels))


def _options(kind: Any) -> list[str]:
    """`method=minmax (minmax or percentile)`, as they stand in braces behind the pass's name."""
    hints = typing.get_type_hints(kind)
    return [
        f"{{{f.name.replace('_', '-')}={_default(f.default)}}}{_choices(hints[f.name])}"
        for f in dataclasses.fields(kind)
    ]


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _choices(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return f"  {' or '.join(map(str, typing.get_args(hint)))}"
    return ""
