"""Progress of a run: a moving line on a terminal, a line for each step with -v, else nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphopt.cli.terminal import log

Progress = Callable[[str, int, int | None], None]


@contextmanager
def progress(*, verbose: bool, quiet: bool) -> Iterator[Progress]:
    """A function to call with what is being done, how much is done, and of how much (None: not known)."""
    if quiet or (not verbose and not sys.stderr.isatty()):
        yield lambda what, done, total: None  # noqa: ARG005 - the signature of Progress
    elif verbose:
        yield _lines()
    else:
        with _live() as show:
            yield show


def _lines() -> Progress:
    last = ""

    def show(what: str, done: int, total: int | None) -> None:
        nonlocal last
        del done, total
        if what != last:
            last = what
            log(what)

    return show


@contextmanager
def _live() -> Iterator[Progress]:
    """A spinner with the time, a bar where the amount is known; it vanishes at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task("load", total=None)

        def show(what: str, done: int, total: int | None) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield show
