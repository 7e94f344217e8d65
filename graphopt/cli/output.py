"""JSON documents, to a file or to stdout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.cli.terminal import write
from graphopt.errors import UsageError


def write_json(document: Mapping[str, Any], place: str) -> None:
    """Write a document to the file `place`, or to stdout for `-`. Raises `UsageError` if that is not possible."""
    from graphopt.report.json import dumps

    text = dumps(document)
    if place == "-":
        write(text)
        return
    path = Path(place)
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stderr, ...
            path.write_text(text, encoding="utf-8")
        else:
            _replace(path, text)
    except OSError as error:
        raise UsageError(f"cannot write the JSON: {error.strerror}", where=place) from None


def check_place(place: str, *models: Path) -> None:
    """Raise `UsageError` if a document cannot be written to `place`, or would be written over one of the models."""
    if place == "-":
        return
    path = Path(place)
    try:
        if path.is_dir():
            raise UsageError("cannot write the JSON: Is a directory", where=place, hint="name a file in it")
        if not path.parent.is_dir():
            raise UsageError("cannot write the JSON: No such file or directory", where=place)
        if any(os.path.realpath(path) == os.path.realpath(model) for model in models):
            raise UsageError("the JSON would be written over the model", where=place, hint="name another file")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the JSON: {error}", where=place) from None


def _replace(path: Path, text: str) -> None:
    """All of the text, or the file that was there before."""
    from graphopt.ir.files import Replacement

    try:
        with Replacement(Path(os.path.realpath(path))) as out:
            out.write(text.encode())
            out.finish()
            out.commit()
    except UsageError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
