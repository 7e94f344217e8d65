"""What is printed where: results to stdout, everything else to stderr.

A pipe gets plain text of a width that does not depend on the terminal; a reader that closes the pipe early
has seen enough, which is no error.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPED = 100
_WIDEST = 120


def show(content: RenderableType, *, to_stderr: bool = False) -> None:
    """Print a text or a rich table as a result (or, with `to_stderr`, beside one)."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    width = min(shutil.get_terminal_size((_PIPED, 24)).columns, _WIDEST) if stream.isatty() else _piped_width()
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(content)
    text = captured.get()
    if not console.is_terminal:
        text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    write(text, stream)


def write(text: str, stream: TextIO | None = None) -> None:
    """Print `text` as it is, and see it off, so that nothing is left to fail at exit."""
    stream = sys.stdout if stream is None else stream
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Python flushes once more at exit: into nothing, then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def log(text: str) -> None:
    """A line to stderr."""
    write(f"graphopt: {text}\n", sys.stderr)


def _piped_width() -> int:
    """COLUMNS if somebody set it on purpose, else the same for everybody."""
    columns = os.environ.get("COLUMNS", "")
    return min(int(columns), _WIDEST) if columns.isdigit() and int(columns) >= 40 else _PIPED
