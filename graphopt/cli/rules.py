"""`graphopt rules list`: the rewrite rules of the installed passes."""

from __future__ import annotations

from typing import Annotated

import typer


def list_rules(
    pass_: Annotated[str | None, typer.Option("--pass", metavar="NAME", help="Only the rules of this pass.")] = None,
) -> None:
    """List the rules: name, accuracy class, and what they state."""
    from graphopt.cli.terminal import show
    from graphopt.engine.registry import pass_class, pass_names
    from graphopt.report.table import table

    made = table("rule", "accuracy", "what it states", fold="what it states")
    for name in [pass_] if pass_ is not None else pass_names():
        for rule in pass_class(name).rules():
            made.add_row(f"{name}.{rule.name}", rule.accuracy.name.lower(), " ".join(rule.doc.split("\n\n")[0].split()))
    if made.row_count:
        show(made)
    else:
        show(f"the pass {pass_} applies no rules: it works on the whole graph")
