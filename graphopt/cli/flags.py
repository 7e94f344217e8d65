"""Flags that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

AllowLinks = Annotated[
    bool, typer.Option("--allow-links", help="Follow links to external data that lead out of the model's folder.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write it as JSON instead; - is stdout.")]
# `main` looks for it itself, because errors end up there; here it is for the help.
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")]

# Which rewrites are made: what `run` takes, and whoever repeats what it did.
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rules",
        metavar="FILE.py",
        help="A file of rules, which is executed; -p takes its name. If it does not, they run behind the passes, "
        "but before quant. Repeatable.",
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="PATTERN", help="Apply these rules only, such as 'fuse.gelu_*'. Repeatable."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="PATTERN",
        help="Make no rewrites with such a name, be they of rules or of passes. Repeatable. See: graphopt rules list",
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        "--protect",
        metavar="PATTERN",
        help="Leave alone the nodes and values with such a name, or such operators: '/head/*', op:Softmax, "
        "'op:com.microsoft.*'. Repeatable.",
    ),
]
KeepGoing = Annotated[
    bool | None, typer.Option("--keep-going", help="Switch off a rule that raises, and go on without it.")
]
