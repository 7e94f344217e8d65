"""Rules from a Python file that the user names, and from modules: a pack called after the file or the module.

The file is executed, which is what the user asks for by naming it; nothing that a model says ever leads here.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.engine.passes import Pass, RulePass
from graphopt.errors import GraphoptError, RuleError, UsageError, nearest_file
from graphopt.rules.rule import Rule, check_names, undecorated

_PRIVATE = "graphopt_rules_file_"
_MODULES: dict[tuple[Path, int, int], types.ModuleType] = {}  # by path, time of the last change, and size
_LOADED: dict[types.ModuleType, RulesFile] = {}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class RulesFile:
    """What a rules file offers: the pack of the rules at its top level, and the passes that it defines itself.

    `name` is that of the pack: the file's without its suffix, with `_` for what no pass name may have.
    """

    name: str
    path: Path
    pack: tuple[Rule[Any], ...]
    passes: tuple[type[Pass], ...]

    def rules(self) -> tuple[Rule[Any], ...]:
        """The rules at the top level of the file, in the order of their definition."""
        return self.pack


def load_rules_file(path: str | Path) -> RulesFile:
    """Execute a rules file, and collect its rules and passes. A file that has not changed is executed once.

    `passes`: first, if there are rules at the top level that none of the file's own passes applies, a `RulePass`
    of those, called after the file; then the `Pass` subclasses that the file defines.

    Raises `UsageError` for a path that is no Python file, `RuleError` for a file that does not parse, raises,
    or defines neither a rule nor a pass.
    """
    path = Path(path)
    module = load_module(path)
    if module not in _LOADED:
        _LOADED[module] = _collect(module, path.resolve(), str(path))
    return _LOADED[module]


def load_module(path: str | Path) -> types.ModuleType:
    """Execute a Python file that the user names, unless that has been done and the file has not changed since.

    The module gets a name of its own, so that `onnx.py` is not taken for onnx. Modules beside the file can be
    imported while it runs. Raises `UsageError` for a path that is no Python file, `RuleError` for a file that does
    not parse or raises.
    """
    path = Path(path)
    stat = _stat(path)
    key = path.resolve(), stat.st_mtime_ns, stat.st_size
    if key not in _MODULES:
        _MODULES[key] = _execute(_parse(key[0], str(path)), key[0], str(path))
    return _MODULES[key]


def rule_pack(name: str, rules: Sequence[Rule[Any]], summary: str) -> type[RulePass]:
    """A pass class that applies these rules. Raises `RuleError` if two of them share a name."""
    check_names(rules, name)
    body = {"name": name, "pack": tuple(rules), "__doc__": summary, "__module__": __name__}
    return dataclass(frozen=True)(type(name, (RulePass,), body))


def module_rules(module: types.ModuleType) -> tuple[Rule[Any], ...]:
    """All rules at the top level of a module, imported ones too, in order and each once."""
    found = dict.fromkeys(r for r in vars(module).values() if isinstance(r, Rule))
    check_names(list(found), module.__name__)
    return tuple(found)


def summary_of(module: types.ModuleType, otherwise: str) -> str:
    """The first line of a module's docstring."""
    lines = (module.__doc__ or "").strip().splitlines()
    return lines[0] if lines else otherwise


def _stat(path: Path) -> os.stat_result:
    """What is known of the file. Raises `UsageError` if there is none, or none that could hold rules."""
    if "\0" in str(path):
        raise UsageError("is no path: it has a zero byte", where=repr(str(path)))
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("there is no such file of rules", where=str(path), hint=nearest_file(path)) from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if path.is_dir():
        files = sorted(p.name for p in path.glob("*.py"))
        hint = f"name a file in it, such as {path / files[0]}" if files else "there is no Python file in it"
        raise UsageError("is a folder, not a file of rules", where=str(path), hint=hint)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError("is no Python file", where=str(path), hint="rules are written in a file that ends in .py")
    return stat


def _collect(module: types.ModuleType, path: Path, shown: str) -> RulesFile:
    """The rules and passes of a module that was made from a file."""
    for name, made in vars(module).items():
        if (bare := undecorated(made)) is not None and bare.__name__ == name:
            raise RuleError(f"{name!r} is no rule: @rule needs a pattern, such as @rule(lambda x: x * 1)",
                            where=f"{shown}:{bare.__code__.co_firstlineno}")
    try:
        pack = module_rules(module)
    except RuleError as error:
        raise RuleError(error.what, where=shown, hint=error.hint) from None
    own = tuple(_own_passes(module))
    for kind in own:
        if not isinstance(getattr(kind, "name", None), str):
            hint = f'write name: ClassVar[str] = "{kind.__name__.lower()}" in it'
            raise RuleError(f"the pass {kind.__name__} has no name", where=shown, hint=hint)
    if not pack and not own:
        raise RuleError("defines no rule", where=shown, hint="write one with @rule at the top level of the file")
    name = _NOT_IN_NAMES.sub("_", path.stem)
    claimed = {r for kind in own for r in kind.rules()}
    rest = [r for r in pack if r not in claimed]
    summary = summary_of(module, f"The rules of {path.name}.")
    return RulesFile(name, path, pack, (*([rule_pack(name, rest, summary)] if rest else []), *own))


def _own_passes(module: types.ModuleType) -> dict[type[Pass], None]:
    """The passes that a module defines; what it imports is known elsewhere."""
    kinds = [k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Pass)]
    return dict.fromkeys(k for k in kinds if k.__module__ == module.__name__)


def _parse(path: Path, shown: str) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=shown) from None
    except SyntaxError as error:
        raise _syntax_error(error, shown) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RuleError(f"does not parse: {error or type(error).__name__}", where=shown) from None


def _syntax_error(error: SyntaxError, shown: str) -> RuleError:
    place = "" if error.lineno is None else f":{error.lineno}" + (f":{error.offset}" if error.offset else "")
    return RuleError(f"does not parse: {error.msg}", where=f"{shown}{place}", hint=(error.text or "").strip() or None)


def _execute(tree: ast.Module, path: Path, shown: str) -> types.ModuleType:
    """The module of a file."""
    name = f"{_PRIVATE}{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}_{path.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    previous = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _importable(path.parent), redirect_stdout(sys.stderr):  # standard output may be JSON
            exec(compile(tree, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if previous is not None:
            sys.modules[name] = previous
        if isinstance(error, KeyboardInterrupt | GraphoptError):
            raise
        raise _import_error(error, path, shown) from error
    return module


def _import_error(error: BaseException, path: Path, shown: str) -> RuleError:
    """What an exception at import becomes: named, with the last line of the file or its neighbours that led to it."""
    if isinstance(error, SyntaxError) and error.filename is not None:  # of a module that the file imports
        return _syntax_error(error, error.filename)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    where = shown
    if frames:
        file = shown if frames[-1].filename == str(path) else frames[-1].filename
        where = f"{file}:{frames[-1].lineno}"
    text = " ".join(str(error).split())
    return RuleError(f"raised {type(error).__name__} when it was loaded{': ' if text else ''}{text}", where=where,
                     hint="a file of rules is run like any Python file; -v shows the traceback")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within, modules beside the file can be imported. They are forgotten afterwards: another folder's `helpers.py`
    is another module, and nobody else is to find a `json.py` there."""
    entry, known = str(folder), set(sys.modules)
    if entry in sys.path:
        yield
        return
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and not name.startswith(_PRIVATE) and Path(file).is_relative_to(folder):
                del sys.modules[name]
