"""Functions in the user's own Python files: `FILE.py:FUNCTION`, for a metric or for samples."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from graphopt.errors import DataError, GraphoptError, UsageError, nearest

__all__ = ["blame", "is_function", "load_function", "samples_of"]


def is_function(spec: str) -> bool:
    """Whether a text has the form `FILE.py:FUNCTION`."""
    file, colon, name = spec.rpartition(":")
    return bool(colon) and file.endswith(".py") and bool(name)


def load_function(spec: str, setting: str) -> tuple[Path, str, Callable[..., Any]]:
    """The file, the name and the function of `FILE.py:FUNCTION`; the file is imported as a script would be.

    Raises `UsageError` for a file or function that is not there, and for what fails in it. `setting`: where the text
    is from.
    """
    if not is_function(spec):
        raise UsageError(f"cannot read {spec!r}", where=setting, hint="write FILE.py:FUNCTION")
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError("there is no such file", where=file, hint=f"write {setting} FILE.py:FUNCTION")
    module = _import(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"there is no function {name!r}", where=file, hint=nearest(name, known) if known else None)
    return path, name, function


def samples_of(spec: str) -> Callable[[], Iterator[Any]]:
    """What the function that `FILE.py:FUNCTION` names yields, anew at each call.

    Whatever it raises becomes a `DataError` that says where in the file.
    """
    path, name, function = load_function(spec, "--data")

    def samples() -> Iterator[Any]:
        try:
            found = iter(function())
        except GraphoptError:
            raise
        except (Exception, SystemExit) as error:
            raise blame(path, f"{name}()", error, DataError) from error
        while True:
            try:
                item = next(found)
            except StopIteration:
                return
            except (Exception, SystemExit) as error:
                raise blame(path, f"{name}()", error, DataError) from error
            yield item

    return samples


def blame(path: Path, what: str, error: BaseException, kind: type[GraphoptError] = UsageError) -> GraphoptError:
    """Where in the user's file something was raised, and what."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    return kind(
        f"{what} raised {type(error).__name__}: {error}",
        where=f"{path}:{line}" if line else str(path),
        hint="run again with -v for the traceback",
    )


def _import(path: Path) -> ModuleType:
    """Run the file with its folder on the path, so that it can import what lies beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "the suffix is .py"
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        raise blame(path, "the file", error) from error
    return module
