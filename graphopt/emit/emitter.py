"""The seam of the emitters: what writes a model in the form that a runtime loads.

An emitter is a small class, found through the entry-point group `graphopt.emitters` and chosen by the
suffix of the output file. Ours stand in the same table as anybody else's.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from graphopt.errors import GraphoptError, UsageError, nearest

if TYPE_CHECKING:
    from graphopt.emit.profile import Range
    from graphopt.ir.model import Model

GROUP = "graphopt.emitters"


@dataclass(frozen=True)
class EmitOptions:
    """What an emitter may be told; each reads the fields that concern it.

    `external`: weights in a file of their own; None keeps what the input had. `strip`: write no descriptions and no
    metadata, graphopt's own among them.
    `sm`: compute capabilities to build for, 86 for 8.6.
    `profile`: by input name, the shapes that an engine must take.
    `timeout`: seconds that a builder may run.
    """

    external: bool | None = None
    strip: bool = False
    sm: tuple[int, ...] = (80, 86, 89, 120)
    profile: Mapping[str, Range] = field(default_factory=dict)
    timeout: float = 3600.0


@dataclass(frozen=True)
class Emitted:
    """What was written: all files, their bytes together, and what the user should know about them."""

    files: tuple[Path, ...]
    bytes: int
    notes: tuple[str, ...] = ()


class Emitter(ABC):
    """Writes a model to a file. Subclasses are created without arguments and hold no state.

    `suffixes` choose the emitter, `targets` are those it can build for; none means any.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def emit(self, model: Model, path: Path, options: EmitOptions) -> Emitted:
        """Write `model` to `path`: all of it, or nothing and an error that leaves an old file as it was."""

    def takes(self, target: str | None) -> bool:
        return target is None or not self.targets or target in self.targets


@cache
def emitters() -> dict[str, Emitter]:
    """All emitters that are installed and can be imported, by name."""
    return {point.name: _load(point) for point in entry_points(group=GROUP) if _failure(point) is None}


def emitter_for(path: str | os.PathLike[str], target: str | None = None) -> Emitter:
    """The emitter for an output file, by the longest suffix that fits its name and by the target.

    Raises `UsageError` for a suffix that nobody writes, and for a target that its emitter cannot build for.
    """
    name = Path(path).name.lower()
    known = {suffix: emitter for emitter in emitters().values() for suffix in emitter.suffixes}
    suffix = max((s for s in known if name.endswith(s)), key=len, default=None)
    if suffix is None:
        raise UsageError(
            f"no emitter writes {Path(name).suffix or 'files without a suffix'!r}",
            where=os.fspath(path),
            hint=_suffix_hint(Path(name).suffix, known),
        )
    fitting = [e for e in emitters().values() if suffix in e.suffixes]
    for emitter in fitting:
        if emitter.takes(target):
            return emitter
    targets = sorted({t for e in fitting for t in e.targets})
    raise UsageError(
        f"a {suffix} file cannot be built for the target {target!r}",
        where=os.fspath(path),
        hint=f"choose the target {' or '.join(targets)}, or another suffix: {', '.join(sorted(known))}",
    )


def _suffix_hint(suffix: str, known: Mapping[str, Emitter]) -> str:
    hint = nearest(suffix, known)
    broken = [f"{p.name} ({reason})" for p in entry_points(group=GROUP) if (reason := _failure(p))]
    return f"{hint}; could not be imported: {', '.join(broken)}" if broken else hint


@cache
def _failure(point: EntryPoint) -> str | None:
    """Why an emitter cannot be used; somebody's broken package must not stop everybody else's output."""
    try:
        _load(point)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@cache
def _load(point: EntryPoint) -> Emitter:
    emitter = point.load()()
    if not isinstance(emitter, Emitter):
        raise GraphoptError(f"{point.value} is not an Emitter", where=f"entry point {GROUP}/{point.name}")
    return emitter
