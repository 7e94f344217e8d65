"""`--eval FILE.py:FUNCTION`: the user's own metric."""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from graphopt.errors import UsageError, nearest

Metric = Callable[[Any], float]


def load_metric(spec: str) -> Metric:
    """The function that `FILE.py:FUNCTION` names; the file is imported as a script would be.

    Raises `UsageError` for a file or function that is not there, and for what fails in it; so does the metric
    when it raises, or returns something that is no finite number.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise UsageError(f"cannot read {spec!r}", where="--eval", hint="write FILE.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise UsageError("there is no such file", where=file, hint="write --eval FILE.py:FUNCTION")
    module = _import(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"there is no function {name!r}", where=file, hint=nearest(name, known) if known else None)

    def metric(run: Any) -> float:
        try:
            value = float(function(run))
        except (Exception, SystemExit) as error:
            raise _failure(path, f"{name}()", error) from error
        if not math.isfinite(value):
            raise UsageError(f"{name}() returned {value}, which is no metric", where=file)
        return value

    return metric


def _import(path: Path) -> ModuleType:
    """Run the file with its folder on the path, so that it can import what lies beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "the suffix is .py"
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        raise _failure(path, "the file", error) from error
    return module


def _failure(path: Path, what: str, error: BaseException) -> UsageError:
    """Where in the user's file something was raised, and what."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    return UsageError(
        f"{what} raised {type(error).__name__}: {error}",
        where=f"{path}:{line}" if line else str(path),
        hint="run again with -v for the traceback",
    )
