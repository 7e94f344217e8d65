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
