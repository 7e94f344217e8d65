"""The settings of `graphopt run`: flags, then the file given with --config, then [tool.graphopt] in ./pyproject.toml.

A setting has one name and one reading, wherever it comes from. Paths in a file are relative to that file.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphopt.errors import UsageError, nearest


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do. `max_drop`: percent of the original's metric; None: no such gate.
    `force`, `min_speedup`, `sensitivity`, `resume`: as `optimize` takes them.

    `passes` is empty, `output` None where nothing was said: the preset and the input decide.
    """

    passes: str = ""
    rules: tuple[Path, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    keep_going: bool = False
    shape: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    freeze: bool = False
    before: Path | None = None
    after: Path | None = None
    connect: tuple[str, ...] = ()
    opset: int | None = None
    strip: bool = False
    level: int | None = None
    target: str = "onnx"
    output: Path | None = None
    data: Path | None = None
    preprocess: str | None = None
    calibration: Path | None = None
    calib_mem: str | None = None
    eval: str | None = None
    max_drop: float | None = None
    force: bool = False
    min_speedup: float | None = None
    sensitivity: bool = False
    resume: Path | None = None
    verify: bool | Literal["end", "pass", "local"] = True
    bench: bool = False
    stop_after: int | None = None
    seed: int = 0
    external_data: bool | None = None
    sm: tuple[int, ...] = ()
    profile: tuple[str, ...] = ()
    allow_links: bool = False
    json: str | None = None
    stats: bool = False

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that were asked for, as `graphopt.optimize` takes them."""
        from graphopt.ir.request import parse_dims, parse_shapes

        return {"shapes": parse_shapes(self.shape), "dims": parse_dims(self.dim)}

    @property
    def interface(self) -> dict[str, Any]:
        """The inputs, outputs and names that were asked for, as `graphopt.optimize` takes them."""
        from graphopt.ir.interface import parse_names, parse_pairs

        return {
            "inputs": parse_names(self.inputs), "outputs": parse_names(self.outputs),
            "rename": parse_pairs("--rename", self.rename),
            "freeze": self.freeze,
            "before": self.before, "after": self.after, "connect": parse_pairs("--connect", self.connect),
        }  # fmt: skip

    def check_spelling(self) -> None:
        """Raises `UsageError` for sizes, names and pairs that cannot be read."""
        _ = self.sizes, self.interface

    @property
    def choice(self) -> dict[str, Any]:
        """Which rewrites are made, as `graphopt.optimize` takes it."""
        names = ("rules", "select", "ignore", "protect", "keep_going")
        return {name: getattr(self, name) for name in names}

    @property
    def goals(self) -> dict[str, Any]:
        """What the result has to reach, as `graphopt.optimize` takes it."""
        return {name: getattr(self, name) for name in ("max_drop", "force", "min_speedup", "sensitivity", "resume")}


class _BadValueError(ValueError):
    """A value that a setting cannot have; the text says what it takes."""


def resolve(flags: Mapping[str, Any], config: Path | None = None, folder: Path | None = None) -> Settings:
    """The settings of a run. `flags`: those that were given, by key; `folder`: where pyproject.toml may be.

    Raises `UsageError` for a file that cannot be read, an unknown key and a value of the wrong kind.
    """
    project = (folder or Path()) / "pyproject.toml"
    values: dict[str, Any] = {}
    for path in (project if project.is_file() else None, config):
        if path is not None:
            values |= _read_file(path)
    for key, value in flags.items():
        if value is not None:
            values[_field(key)] = _read(key, value, f"--{key}")
    return Settings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file: all of it, or of a pyproject.toml the table that is ours."""
    table, where = _load(path), str(path)
    if path.name == "pyproject.toml":
        table, where = table.get("tool", {}).get("graphopt", {}), f"{path} [tool.graphopt]"
    return _read_values(table, where, path)


def _load(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError("is not a regular file", where=str(path))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from None


def _read_values(table: Mapping[str, Any], where: str, path: Path) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise UsageError("this is no table of settings", where=where)
    values = {}
    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"there is no setting {key!r}", where=where, hint=_nearest_key(key))
        values[_field(key)] = _relative(key, _read(key, value, f"{where}: {key}"), path.parent)
    return values


def _nearest_key(key: str) -> str:
    if key.replace("_", "-") in KEYS:
        return f"did you mean {key.replace('_', '-')!r}?"
    if not difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5):
        return f"known: {', '.join(KEYS)}"
    return nearest(key, KEYS)


def _read(key: str, value: Any, where: str) -> Any:
    try:
        return KEYS[key](value)
    except _BadValueError as error:
        raise UsageError(f"cannot be {_spelled(value)}", where=where, hint=str(error)) from None


def _relative(key: str, value: Any, folder: Path) -> Any:
    """Paths in a file start at the file's folder."""
    if key in ("output", "data", "calibration", "resume"):
        return folder / value
    if key == "rules":
        return tuple(folder / path for path in value)
    if key == "eval" or (key == "json" and value != "-"):
        return str(folder / value)
    return value


def _field(key: str) -> str:
    return key.replace("-", "_")


def _spelled(value: Any) -> str:
    return repr(value) if not isinstance(value, bool) else str(value).lower()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _BadValueError("it takes a text")
    return value


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


def _list(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise _BadValueError("it takes a text or a list of texts")
    return list(value)


def _passes(value: Any) -> str:
    found = ",".join(filter(None, (item.strip(", ") for item in _list(value))))
    if not found:
        raise _BadValueError("it takes passes or presets; O0 is the preset without any")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _paths(value: Any) -> tuple[Path, ...]:
    return tuple(map(_path, _list(value)))


def _profiles(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{name}={_text(shapes)}" for name, shapes in value.items())
    return tuple(_list(value))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _BadValueError("it takes true or false")
    return value


def _mode(value: Any) -> Any:
    """How closely a run is verified."""
    if not isinstance(value, bool) and value not in ("end", "pass", "local"):
        raise _BadValueError("it takes true, false, 'end', 'pass' or 'local'")
    return value


def _whole(least: int, most: float = math.inf) -> Callable[[Any], int]:
    wanted = f"a whole number from {least}" + (f" to {most:g}" if most < math.inf else " on")

    def read(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise _BadValueError(f"it takes {wanted}")
        return number

    return read


def _percent(value: Any) -> float:
    """`1`, `0.5` or `0.5%`."""
    try:
        number = float(value.strip().removesuffix("%")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise _BadValueError("it takes a percentage, such as 1 or 0.5%")
    return number


def _factor(value: Any) -> float:
    """`1.5` or `1.5x`."""
    try:
        number = float(value.strip().removesuffix("x")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise _BadValueError("it takes a factor, such as 1.5")
    return number


def _capabilities(value: Any) -> tuple[int, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    if isinstance(items, int) and not isinstance(items, bool):
        items = [items]
    if not isinstance(items, (list, tuple)) or not items:
        raise _BadValueError("it takes compute capabilities, such as 80,86")
    try:
        return tuple(_whole(1)(item) for item in items)
    except _BadValueError:
        raise _BadValueError("it takes compute capabilities, such as 80,86") from None


KEYS: dict[str, Callable[[Any], Any]] = {
    "passes": _passes,
    "rules": _paths,
    "select": _texts,
    "ignore": _texts,
    "protect": _texts,
    "keep-going": _flag,
    "shape": _texts,
    "dim": _texts,
    "inputs": _texts,
    "outputs": _texts,
    "rename": _texts,
    "freeze": _flag,
    "before": _path,
    "after": _path,
    "connect": _texts,
    "opset": _whole(7, 1000),
    "strip": _flag,
    "level": _whole(0, 3),
    "target": _text,
    "output": _path,
    "data": _path,
    "preprocess": _text,
    "calibration": _path,
    "calib-mem": _text,
    "eval": _text,
    "max-drop": _percent,
    "force": _flag,
    "min-speedup": _factor,
    "sensitivity": _flag,
    "resume": _path,
    "verify": _mode,
    "bench": _flag,
    "stop-after": _whole(0),
    "seed": _whole(0),
    "external-data": _flag,
    "sm": _capabilities,
    "profile": _profiles,
    "allow-links": _flag,
    "json": _text,
    "stats": _flag,
}
