"""JSON documents, to a file or to stdout."""

from __future__ import annotations

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
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the JSON: {error.strerror}", where=place) from None
