"""`graphopt rules list`: the rewrites of the installed passes and of rules files, under the names that flags take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli.flags import Rules

if TYPE_CHECKING:
    from graphopt.engine.passes import Pass


def list_rules(
    pass_: Annotated[str | None, typer.Option("--pass", metavar="NAME", help="Only the rules of this pass.")] = None,
    rules: Rules = None,
) -> None:
    """List the rules, and what else passes do to a graph: name, accuracy class, and what they state."""
    from graphopt.cli.terminal import log, show
    from graphopt.engine.registry import broken, pass_class, usable_passes
    from graphopt.engine.rules_file import load_rules_file
    from graphopt.report.table import table

    kinds = {kind.name: kind for file in rules or () for kind in load_rules_file(file).passes}
    if pass_ is not None:
        kinds = {pass_: pass_class(pass_, kinds)}
    else:
        kinds = {kind.name: kind for kind in usable_passes()} | kinds
    made = table("rule", "accuracy", "what it states", fold="what it states")
    for row in _rows(kinds.values()):
        made.add_row(*row)
    if made.row_count:
        show(made)
    else:
        show(f"the pass {pass_} applies no rules: it works on the whole graph")
    for error in broken():
        log(str(error))


def _rows(kinds: Iterable[type[Pass]]) -> Iterable[tuple[str, str, str]]:
    """Of each pass the rules, then what it does besides: that has no accuracy class of its own."""
    for kind in kinds:
        for rule in kind.rules():
            yield f"{kind.name}.{rule.name}", rule.accuracy.label, _sentence(rule.doc)
        for name, text in kind.rewrites.items():
            yield name, "", _sentence(text)


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())

