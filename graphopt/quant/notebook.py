"""What a search has measured so far, in a file: a search that was interrupted goes on where it ended.

The file is JSON. It belongs to one model, target, set of options, budget, data and metric, whose fingerprint it
carries; with another one it starts anew. A metric goes by its name: that its code has changed is not noticed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.runtime.package import Package

__all__ = ["Notebook", "fingerprint", "name_of"]

SCHEMA = "graphopt.search/1"


class Notebook:
    """Numbers by section and key. Without a path, they are kept in memory only.

    Raises `UsageError` for a file that is no notebook, and for a path that cannot be written.
    """

    def __init__(self, path: Path | None, mark: str) -> None:
        self.path = path
        self.sections: dict[str, dict[str, float]] = {}
        self.mark = mark
        if path is not None and path.exists():
            found = _read(path)
            if found.get("fingerprint") == mark:
                self.sections = {k: dict(v) for k, v in found["sections"].items()}
        if path is not None:
            self.save()

    def section(self, name: str) -> dict[str, float]:
        """The numbers of a section; call `save` after adding some."""
        return self.sections.setdefault(name, {})

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        document = {"schema": SCHEMA, "fingerprint": self.mark, "sections": self.sections}
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path.parent, prefix=".graphopt-", suffix=".json", delete=False, encoding="utf-8"
            ) as file:
                json.dump(document, file)
            Path(file.name).replace(self.path)
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=str(self.path)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError("is no record of a search", where=str(path), hint="name a new file, or one that --resume made")
    return found


def fingerprint(packed: Package, *rest: object) -> str:
    """What tells two searches apart: the model to the last bit, and the texts of everything else."""
    made = hashlib.blake2b(packed.proto, digest_size=16)
    for weight in packed.weights:
        made.update(repr((weight.name, weight.dtype, weight.shape, weight.key)).encode())
        if weight.data is not None:
            made.update(weight.data.tobytes())
    made.update(repr(rest).encode())
    return made.hexdigest()


def name_of(metric: object) -> str:
    """By which a metric is told from others: its file and its name; nothing for none."""
    if metric is None:
        return ""
    code = getattr(metric, "__code__", None)
    name = getattr(metric, "__qualname__", type(metric).__qualname__)
    return f"{getattr(code, 'co_filename', '')}:{getattr(metric, '__module__', '')}:{name}"
