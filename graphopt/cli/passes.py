"""`graphopt passes`: what -p takes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from graphopt.cli.flags import Rules


def passes(rules: Rules = None) -> None:
    """List the passes, their options, and the presets."""
    from rich.console import Group
    from rich.text import Text

    from graphopt.cli.terminal import log, show
    from graphopt.engine.registry import broken, presets, usable_passes
    from graphopt.engine.rules_file import load_rules_file
    from graphopt.report.table import table

    made = table("pass", "what it does", fold="what it does")
    for kind in (*usable_passes(), *(kind for file in rules or () for kind in load_rules_file(file).passes)):
        lines = [kind.summary()]
        if kind.requires:
            lines.append(f"runs after {', '.join(kind.requires)}")
        made.add_row(Text(kind.name, style="bold"), "\n".join([*lines, *_options(kind)]))
    levels = table("preset", "passes", "accuracy", "what it allows", fold="what it allows")
    for name, preset in sorted(presets().items()):
        levels.add_row(Text(name, style="bold"), preset.passes or "none", preset.accuracy, preset.title)
    braces = Text("Options stand in braces: -p fuse,quant{method=percentile,per-channel=false}")
    show(Group(made, Text(), levels, Text(), braces))
    for error in broken():
        log(str(error))


def _options(kind: Any) -> list[str]:
    """`method = minmax, or percentile`: each option with its default, and what else it takes."""
    from graphopt.engine.passes import option_name

    hints = typing.get_type_hints(kind)
    return [
        f"  {option_name(f.name)} = {_default(f.default)}{_others(f, hints)}" for f in dataclasses.fields(kind)
    ]


def _default(value: Any) -> str:
    if value in (None, (), ""):
        return "none"
    if isinstance(value, tuple):
        return "|".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _others(field: dataclasses.Field[Any], hints: dict[str, Any]) -> str:
    hint = hints[field.name]
    if typing.get_origin(hint) is typing.Literal:
        return "".join(f", or {choice}" for choice in typing.get_args(hint) if choice != field.default)
    return ", or names separated by |" if typing.get_origin(hint) is tuple else ""
