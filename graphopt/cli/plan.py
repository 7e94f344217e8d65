"""`graphopt run --dry-run`: the pipeline as it would run."""

from __future__ import annotations

from pathlib import Path

from graphopt.cli.config import Settings
from graphopt.cli.run import output_path, pipeline_of
from graphopt.cli.terminal import show


def show_plan(path: Path, settings: Settings) -> None:
    """Print the passes in order, with those that are added because another needs them."""
    from rich.console import Group
    from rich.text import Text

    from graphopt.engine.assemble import assemble
    from graphopt.engine.names import check_names
    from graphopt.engine.registry import presets
    from graphopt.engine.selection import Selection
    from graphopt.report.table import table

    text, accuracy = pipeline_of(settings)
    plan = assemble(text, settings.rules)
    passes = plan.passes
    check_names(Selection(select=settings.select, ignore=settings.ignore), passes)
    made = table("", "pass", "why", "what it does", right=("",), fold="what it does")
    for number, item in enumerate(passes, 1):
        needs = [p.name for p in passes if item.name in p.requires]
        why = f"needed by {', '.join(needs)}" if item.name in plan.added else "asked for"
        made.add_row(str(number), item.spelling(), why, item.summary())
    preset = presets().get(text)
    accuracy = accuracy or (preset.accuracy if preset is not None else None)
    title = f"{path} → {output_path(path, settings)}   for {settings.target}"
    parts = [Text(title), Text(f"accuracy: {accuracy}")] if accuracy else [Text(title)]
    show(Group(*parts, Text(), made if passes else Text("no passes: the model is written as it is")))
