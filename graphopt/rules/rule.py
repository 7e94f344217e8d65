"""`@rule`: a pattern becomes an expression."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec

from graphopt.errors import RuleError
from graphopt.rules.expr import Tensor
from graphopt.rules.match import Pattern
from graphopt.rules.trace import trace, where

P = ParamSpec("P")
Outputs = Tensor | tuple[Tensor, ...]
AccuracyName = Literal["exact", "close", "fast", "approx"]


class Accuracy(enum.IntEnum):
    """How closely a rewrite keeps what is computed.

    EXACT: equal bits for all inputs, NaN payloads aside. CLOSE: the same NaN and Inf positions,
    finite values within the dtype's tolerance. FAST: as CLOSE, for finite inputs only.
    APPROX: lossy; judged by metrics.
    """

    EXACT = 0
    CLOSE = 1
    FAST = 2
    APPROX = 3

    @property
    def label(self) -> AccuracyName:
        """The name as rules, options and reports spell it."""
        labels: tuple[AccuracyName, ...] = ("exact", "close", "fast", "approx")
        return labels[self]


@dataclass(frozen=True, eq=False)
class Rule(Generic[P]):
    """A rewrite rule; made by `@rule`.

    `patterns` are its left sides, compiled. `single_use`: interior values must die with the match.
    `bounded`: it may leave as many operators as it found, for the author vouches that it ends.
    `once`: it never applies to nodes that it made itself. `shapes` and `attrs` help the rule checker
    to make examples.
    """

    name: str
    function: Callable[P, Outputs]
    patterns: tuple[Pattern, ...]
    parameters: tuple[str, ...]
    accuracy: Accuracy = Accuracy.CLOSE
    single_use: bool = True
    bounded: bool = False
    once: bool = False
    shapes: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doc(self) -> str:
        """What the rule states, in a sentence."""
        return inspect.getdoc(self.function) or ""

    @property
    def where(self) -> str:
        """Name, file and line of the definition."""
        return where(self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Outputs:
        """The replacement's expression for these operands."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Rule({self.name!r})"


def rule(
    *patterns: Callable[P, Outputs],
    accuracy: AccuracyName = "close",
    single_use: bool = True,
    bounded: bool = False,
    once: bool = False,
    shapes: Mapping[str, str] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, Outputs]], Rule[P]]:
    """Decorate a replacement: what one of the `patterns` matches becomes what it returns.

    Pattern and replacement have the same parameters. In the pattern a parameter captures a tensor;
    annotated `Const`, one with fixed content; `Attr[…]`, an attribute; `Node`, a node. In the
    replacement it is what was captured, or None where an alternative left it out.

    Raises `RuleError` for what is wrong with the pattern itself: other parameters than the
    replacement, an unused one, an unknown operator or attribute, outputs that are not connected.
    """

    def decorate(function: Callable[P, Outputs]) -> Rule[P]:
        parameters = tuple(inspect.signature(function).parameters)
        if not patterns:
            raise RuleError("@rule needs a pattern", where=where(function))
        for pattern in patterns:
            theirs = tuple(inspect.signature(pattern).parameters)
            if theirs != parameters:
                raise RuleError(
                    f"pattern and replacement have different parameters: ({', '.join(theirs)}) "
                    f"and ({', '.join(parameters)})",
                    where=where(function),
                )
        return Rule(
            name=function.__name__,
            function=function,
            patterns=tuple(Pattern(trace(p), where(p)) for p in patterns),
            parameters=parameters,
            accuracy=Accuracy[accuracy.upper()],
            single_use=single_use,
            bounded=bounded,
            once=once,
            shapes=dict(shapes or {}),
            attrs=dict(attrs or {}),
        )

    return decorate


def rules_in(module: Any) -> tuple[Rule[Any], ...]:
    """The rules that a module defines, in the order of their definition."""
    found = [r for r in vars(module).values() if isinstance(r, Rule) and r.function.__module__ == module.__name__]
    check_names(found, module.__name__)
    return tuple(found)


def check_names(rules: Sequence[Rule[Any]], place: str) -> None:
    """Raises RuleError if two different rules share a name."""
    seen: dict[str, Rule[Any]] = {}
    for r in rules:
        other = seen.setdefault(r.name, r)
        if other is not r:
            raise RuleError(f"two rules are called {r.name!r}: {other.where} and {r.where}", where=place)
