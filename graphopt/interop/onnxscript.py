"""onnxscript's rewrite rules as a pass: where the rules come from, and what they are called.

onnxscript itself is imported when the pass runs.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from graphopt.engine.assemble import Asked
from graphopt.engine.passes import Context, Pass
from graphopt.engine.tools import require_package
from graphopt.errors import UsageError, nearest
from graphopt.interop.sweep import Sweeper

__all__ = ["OnnxscriptRules", "adapted"]

_DEFAULT = "onnxscript.rewriter:_DEFAULT_REWRITE_RULES"
_NAMES = "onnxscript.rewriter.rules.common"  # where the default rules have names


@dataclass(frozen=True)
class OnnxscriptRules(Pass):
    """Rewrite rules of onnxscript, each application a rewrite of its own; needs `pip install 'graphopt[onnxscript]'`.

    `rules`: `module:NAME` or `file.py:NAME`, a `RewriteRuleSet`, a `RewriteRule` or a list of rules; none: the
    rules that onnxscript itself applies by default. From Python, the object itself.
    """

    name: ClassVar[str] = "onnxscript"
    settles: ClassVar[bool] = False

    rules_: str | Any = ""

    def __post_init__(self) -> None:
        require_package(self.name, "onnxscript", "graphopt[onnxscript]")
        if isinstance(self.rules_, list):
            object.__setattr__(self, "rules_", tuple(self.rules_))

    def run(self, ctx: Context) -> None:
        Sweeper(ctx, load_rules(self.rules_)).run()

    def spelling(self) -> str:
        if isinstance(self.rules_, str):
            return super().spelling()
        return f"{self.name}{{rules=<{len(load_rules(self.rules_))} from Python>}}"


def adapted(passes: str | Sequence[Asked]) -> str | Sequence[Asked]:
    """What a user asks for, with a pass for each set of onnxscript's rules, and for each row of such rules."""
    if isinstance(passes, str):
        return passes
    if _is_rules(passes):
        return [OnnxscriptRules(passes)]
    found: list[Asked] = []
    for foreign, items in itertools.groupby(passes, _is_rules):
        group = tuple(items)
        found += [OnnxscriptRules(group)] if foreign else group
    return found


def _is_rules(item: object) -> bool:
    """Whether this is a rule or a set of rules of onnxscript, which need not have been imported for the answer."""
    names = {"RewriteRule", "RewriteRuleSet"}
    return any(c.__name__ in names and c.__module__.startswith("onnxscript.") for c in type(item).__mro__)


def load_rules(given: Any) -> list[tuple[str, Any]]:
    """The rules with the names that the journal shows. Raises `UsageError` where there are none."""
    module: ModuleType | None = None
    if isinstance(given, str):
        text = given or _DEFAULT
        module, name = _module(text)
        if not hasattr(module, name):
            raise UsageError(f"there is no {name!r} in {text.rpartition(':')[0]}",
                             where="onnxscript.rules", hint=nearest(name, [n for n in vars(module) if n[:1] != "_"]))
        given = getattr(module, name)
        module = module if text != _DEFAULT else importlib.import_module(_NAMES)
    rules = list(_flat(given))
    if not rules:
        raise UsageError("there is no rule in it", where="onnxscript.rules")
    known = {_identity(v): n for n, v in vars(module).items()} if module is not None else {}
    named = [(r.name or known.get(_identity(r)) or f"rule_{i}", r) for i, r in enumerate(rules, 1)]
    return [(f"onnxscript.{name.replace(' ', '_')}", rule) for name, rule in named]


def _identity(rule: Any) -> int:
    """The same for a rule and its copies with operands in another order, which onnxscript makes for `commute`."""
    return id(getattr(rule, "_replacement_pattern", rule))


def _flat(given: Any) -> Iterator[Any]:
    """The rules of a rule, a set, a class that describes a rule, or a list of those."""
    from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

    if isinstance(given, RewriteRule):
        yield given
    elif isinstance(given, RewriteRuleSet | list | tuple):
        for item in given:
            yield from _flat(item)
    elif isinstance(given, type) and issubclass(given, RewriteRuleClassBase):
        described: Any = given
        yield described.rule()
    else:
        what = f"a {type(given).__module__}.{type(given).__qualname__} is no rule of onnxscript"
        raise UsageError(what, where="onnxscript.rules", hint="give a RewriteRuleSet, a RewriteRule or a list of rules")


def _module(text: str) -> tuple[ModuleType, str]:
    """The module or file that holds the rules, and their name in it."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(f"cannot read {text!r}", where="onnxscript.rules", hint="write module:NAME or file.py:NAME")
    if place.endswith(".py"):
        from graphopt.engine.rules_file import load_module

        return load_module(place), name
    try:
        return importlib.import_module(place), name
    except ModuleNotFoundError as error:
        beside = Path(*place.split(".")).with_suffix(".py")
        hint = f"write {beside}:{name}" if beside.is_file() else None
        raise UsageError(f"cannot import {place!r}: {error}", where="onnxscript.rules", hint=hint) from error
    except Exception as error:
        what = f"importing {place!r} raised {type(error).__name__}: {error}"
        raise UsageError(what, where="onnxscript.rules", hint="run again with -v for the traceback") from error
