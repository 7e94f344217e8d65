"""Targets: what a runtime takes and rewards, as data. One TOML file each, beside this module or the user's
own.

A file is read strictly: an unknown key is an error that names the nearest one. With `extends = "NAME"` it says only in
what it differs from a built-in target; so do its sections `[quant]` and `[kinds]`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError, UsageError, nearest
from graphopt.targets.cpu import multiplies_bytes_exactly
from graphopt.targets.kinds import KindTable, read_kind_table
from graphopt.targets.measured import Measured, read_measured, slowest
from graphopt.targets.table import QuantTable, check_keys, merged, read_quant_table

__all__ = ["Target", "list_targets", "load_target"]

_FOLDER = Path(__file__).parent
_KEYS = frozenset(
    {"name", "title", "domains", "emit", "channel_block", "fast_domains", "notes", "quant", "compiled_by",
     "avoid", "apart", "measured", "idioms", "kinds"}
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One place where a model can run.

    `domains`: operator domains that it takes, each with the newest opset it knows (0: no limit known).
    `fast_domains`: those of them whose operators only `-O3` may introduce.
    `emit`: suffixes of the files that it loads. `channel_block`: the multiple of channels its kernels are
    built for. `quant`: its Q/DQ placement, None while there is none. `notes`: what a user should know.
    `compiled_by`: the runtime whose compiled graph shows which kernels run (`onnxruntime`, `openvino`), None for none.
    `avoid`: rewrites that do harm there, by their full names, which may be patterns, each with the reason.
    `apart`: operators that are not merged with equal ones, nor are the constants that they read.
    `idioms`: names of sequences of operators of which its runtime makes one when it loads a model; they are kept whole.
    `measured`: what rewrites gain or cost there, by their full names; those that are slower are not made.
    `kinds`: what it can do with integers besides `quant`.
    """

    name: str
    title: str
    domains: Mapping[str, int] = field(default_factory=lambda: {"": 0})
    emit: tuple[str, ...] = (".onnx",)
    channel_block: int = 1
    fast_domains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quant: QuantTable | None = None
    compiled_by: str | None = None
    avoid: Mapping[str, str] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    idioms: frozenset[str] = frozenset()
    measured: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)
    kinds: KindTable = field(default_factory=KindTable)

    def takes(self, domain: str, opset: int) -> bool:
        """Whether operators of `domain` may be used in a model that imports version `opset` of it."""
        newest = self.domains.get(domain)
        return newest is not None and (newest == 0 or opset <= newest)

    def objection(self, rewrite: str) -> str | None:
        """Why rewrites of this full name are not made here: they do harm, or were measured slower; else None."""
        for pattern, reason in self.avoid.items():
            if rewrite == pattern or fnmatchcase(rewrite, pattern):
                return reason
        worst = slowest(self.measured.get(rewrite, ()))
        return None if worst is None else f"measured slower on {self.name}: {worst.ratio:.2f}x for {worst.case}"

    def require_quant(self) -> QuantTable:
        """The placement table; raises `TargetError` if the target has none yet."""
        if self.quant is None:
            known = ", ".join(n for n in list_targets() if load_target(n).quant is not None)
            raise TargetError(
                "int8 placement is not described for this target",
                where=f"target {self.name!r}",
                hint=f"quantize for one of: {known}",
            )
        return self.quant


@cache
def list_targets() -> tuple[str, ...]:
    """The names of the built-in targets, in alphabetical order."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.toml")))


def load_target(name: str | os.PathLike[str]) -> Target:
    """The built-in target of that name, the one in a TOML file, or for `auto` the CPU of this machine.

    Raises `UsageError` for a name that is neither, and for a file that does not describe a target.
    """
    text = os.fspath(name)
    if text == "auto":
        return _this_machine()
    if text in list_targets():
        return _builtin(text)
    if text.endswith(".toml") and Path(text).is_file():
        return _read(Path(text))
    raise UsageError(
        f"no target is called {text!r}",
        hint=nearest(text, (*list_targets(), "auto")) + "; or give a .toml file",
    )


@cache
def _builtin(name: str) -> Target:
    return _read(_FOLDER / f"{name}.toml")


def _this_machine() -> Target:
    target = load_target("ort-cpu")
    assert target.quant is not None, "ort-cpu.toml describes its quantization"
    exact = multiplies_bytes_exactly()
    return replace(target, quant=replace(target.quant, reduce_range=not exact))


def _read(path: Path) -> Target:
    where = os.fspath(path)
    data = _loaded(path)
    try:
        return _target(data, path)
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"a value has the wrong type: {error}", where=where) from None


def _loaded(path: Path) -> dict[str, Any]:
    """What stands in the file, on top of what stands in the target that it `extends`."""
    where = os.fspath(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=where) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=where, hint="see graphopt/targets/onnx.toml") from None
    for key in ("quant", "kinds"):
        section = data.get(key)
        if isinstance(section, dict) and "extends" in section:
            under = _base(section.pop("extends"), path, f"{where}, [{key}]")
            data[key] = merged(under.get(key, {}), section)
    base = data.pop("extends", None)
    return data if base is None else merged(_base(base, path, where), data)


def _base(name: object, path: Path, where: str) -> dict[str, Any]:
    """What stands in the file of the built-in target that the one at `path` extends."""
    known = [built_in for built_in in list_targets() if built_in != path.stem]
    if name not in known:
        raise UsageError(f"extends cannot be {name!r}", where=where, hint=nearest(str(name), known))
    under = _loaded(_FOLDER / f"{name}.toml")
    for table in (under, under.get("kinds", {})):  # files that lie beside the target that names them
        if "measured" in table:
            table["measured"] = os.fspath(_FOLDER / table["measured"])
    return under


def _target(data: Mapping[str, Any], path: Path) -> Target:
    where = os.fspath(path)
    check_keys(data, _KEYS, where)
    for key in ("name", "title"):
        if not isinstance(data.get(key), str):
            raise UsageError(f"the key {key!r} is missing or is no text", where=where)
    return Target(
        name=data["name"],
        title=data["title"],
        domains={str(k): int(v) for k, v in data.get("domains", {"": 0}).items()},
        emit=tuple(data.get("emit", (".onnx",))),
        channel_block=int(data.get("channel_block", 1)),
        fast_domains=tuple(data.get("fast_domains", ())),
        notes=tuple(data.get("notes", ())),
        compiled_by=data.get("compiled_by"),
        avoid={str(name): str(reason) for name, reason in data.get("avoid", {}).items()},
        apart=frozenset(map(str, data.get("apart", ()))),
        idioms=frozenset(map(str, data.get("idioms", ()))),
        measured=read_measured(path.parent / data["measured"]) if "measured" in data else {},
        quant=read_quant_table(data["quant"], f"{where}, [quant]") if "quant" in data else None,
        kinds=read_kind_table(data.get("kinds", {}), f"{where}, [kinds]", path.parent),
    )
