"""`graphopt rules new`: a file of rules to begin with, and its golden tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_rules(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name such as my_rules.", show_default=False)],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write the files.")] = Path(),
) -> None:
    """Begin a file of rules, NAME.py, with a rule that works, and its tests, NAME.onnxtxt."""
    from graphopt.check.scaffold import scaffold
    from graphopt.cli.terminal import write
    from graphopt.engine.registry import pass_names
    from graphopt.errors import UsageError

    if name in pass_names():
        raise UsageError(f"there is a pass called {name!r} already", hint=f"choose another name: my_{name}")
    rules, golden = scaffold(name, folder)
    write(
        f"wrote {rules} and {golden}\n\n"
        "next:\n"
        f"  graphopt rules check {rules}\n"
        f"  graphopt rules test {rules}\n"
        f"  graphopt run model.onnx --rules {rules} -p {name}\n"
    )
