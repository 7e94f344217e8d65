"""The exceptions of graphopt, and the exit code that each becomes on the command line.

    GraphoptError                 1   something is wrong inside graphopt, or in a rule
    ├── RuleError                 1   a rule raised, looped or returned something that is no expression
    ├── UsageError                2   the call itself is off: an unknown pass, option, file or key
    ├── ModelError                3   the input is not a valid model
    ├── DataError                 2   calibration or evaluation data does not fit the model
    ├── VerificationError         4   the result does not compute what the input computes
    ├── GateError                 5   the result is right, but misses a goal that was asked for
    └── TargetError               6   the target cannot be built for here, or refuses the model

Each carries three parts: what happened, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

__all__ = [
    "DataError",
    "GateError",
    "GraphoptError",
    "ModelError",
    "RuleError",
    "TargetError",
    "UsageError",
    "VerificationError",
    "nearest",
    "nearest_file",
]


class GraphoptError(Exception):
    """Base of all errors that graphopt raises on purpose.

    `what` happened, in one sentence; `where`: a file, node, value or rule; `hint`: what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


class RuleError(GraphoptError):
    """A rule raised, looped, or returned something that is no expression."""


class UsageError(GraphoptError):
    """The call itself is off: an unknown pass, option, file or key."""

    exit_code = 2


class DataError(GraphoptError):
    """Calibration or evaluation data does not fit the model."""

    exit_code = 2


class ModelError(GraphoptError):
    """The input is not a valid model."""

    exit_code = 3


class VerificationError(GraphoptError):
    """The result does not compute what the input computes."""

    exit_code = 4


class GateError(GraphoptError):
    """The result is right, but misses a goal that was asked for.

    `report`: what `optimize` would have returned with the result, None if it was raised elsewhere.
    """

    exit_code = 5
    report: Any = None


class TargetError(GraphoptError):
    """The target cannot be built for here, or refuses the model."""

    exit_code = 6


_LISTED = 20  # names that a hint lists


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known name nearest to `name`, and lists them, or the first ones of many."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    more = len(names) - _LISTED
    listed = ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"did you mean {close[0]!r}? Known: {listed}" if close else f"known: {listed}"


def nearest_file(path: Path) -> str | None:
    """A hint that names the file of the same folder whose name is nearest to that of `path`, if one is near."""
    folder = path.parent
    names = [p.name for p in folder.iterdir() if p.name != path.name] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {str(folder / close[0])!r}?" if close else None


def _rebuild(kind: type[GraphoptError], what: str, where: str | None, hint: str | None) -> GraphoptError:
    return kind(what, where=where, hint=hint)
