"""`@rule`: a pattern becomes an expression."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, ParamSpec

from graphopt.errors import RuleError, nearest
from graphopt.rules import again, outline
from graphopt.rules.expr import Out, Tensor
from graphopt.rules.match import Pattern
from graphopt.rules.operators import check_attributes, check_operator, check_operator_names
from graphopt.rules.outline import subexpressions
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
    to make examples. `sources` are the functions that the patterns come from, `scope` is the module's
    code that defined the rule.
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
    sources: tuple[Callable[..., Any], ...] = ()
    scope: types.CodeType | None = field(default=None, repr=False)

    @property
    def doc(self) -> str:
        """What the rule states, in a sentence."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def constants(self) -> frozenset[str]:
        """The parameters that some left side asks to be constants."""
        return frozenset[str]().union(*(p.constants for p in self.patterns))

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

    options = _Options(accuracy, single_use, bounded, once, dict(shapes or {}), dict(attrs or {}))
    return _Decorator(patterns, options)


@dataclass(frozen=True)
class _Options:
    accuracy: str
    single_use: bool
    bounded: bool
    once: bool
    shapes: Mapping[str, str]
    attrs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Decorator(Generic[P]):
    """What `rule(…)` returns: it makes a rule of a replacement."""

    patterns: tuple[Callable[P, Outputs], ...]
    options: _Options

    def __call__(self, function: Callable[P, Outputs]) -> Rule[P]:
        if not self.patterns:
            raise RuleError("@rule needs a pattern", where=where(function))
        for pattern in self.patterns:
            _check_signatures(pattern, function)
        options = self.options
        made = Rule(
            name=function.__name__,
            function=function,
            patterns=tuple(Pattern(trace(p), where(p)) for p in self.patterns),
            parameters=tuple(inspect.signature(function).parameters),
            accuracy=_accuracy(options.accuracy, function),
            single_use=options.single_use,
            bounded=options.bounded,
            once=options.once,
            shapes=options.shapes,
            attrs=options.attrs,
            sources=self.patterns,
            scope=_defining_code(function),
        )
        _check_used(made)
        _check_hints(made)
        _check_replacement(made)
        _check_redefinition(made)
        return made


def undecorated(made: object) -> types.FunctionType | None:
    """The only pattern of what `rule` returned and nobody has decorated anything with, such as by `@rule` alone."""
    if not isinstance(made, _Decorator) or len(made.patterns) != 1:
        return None
    given = made.patterns[0]
    return given if isinstance(given, types.FunctionType) else None


def _accuracy(name: str, function: Callable[..., Any]) -> Accuracy:
    if name.upper() not in Accuracy.__members__:
        raise RuleError(f"there is no accuracy class {name!r}", where=where(function),
                        hint=nearest(name, [a.label for a in Accuracy]))
    return Accuracy[name.upper()]


def _check_signatures(pattern: Callable[..., Any], function: Callable[..., Any]) -> None:
    if not isinstance(function, types.FunctionType):
        raise RuleError(f"@rule decorates a function, which {function!r} is not",
                        hint="several patterns of one rule are given as @rule(form_a, form_b)")
    try:
        theirs, ours = (tuple(inspect.signature(f).parameters) for f in (pattern, function))
    except (TypeError, ValueError):
        raise RuleError(f"a pattern is a function whose parameters can be seen, not {pattern!r}",
                        where=where(function)) from None
    if theirs != ours:
        raise RuleError(
            f"pattern and replacement have different parameters: {where(pattern)} has ({', '.join(theirs)}), "
            f"{where(function)} has ({', '.join(ours)})",
            hint="both take the same names in the same order",
        )


def _check_used(made: Rule[Any]) -> None:
    used = set().union(*(outline.labels(*p.outputs) for p in made.patterns))
    for name in made.parameters:
        if name not in used:
            raise RuleError(f"the pattern never uses its parameter {name!r}", where=made.patterns[-1].place,
                            hint="remove it from both signatures, or match something with it")


def _check_hints(made: Rule[Any]) -> None:
    for what, hints in (("shapes", made.shapes), ("attrs", made.attrs)):
        for name in hints:
            if name not in made.parameters:
                raise RuleError(f"{what}= speaks of {name!r}, which is no parameter", where=made.where,
                                hint=nearest(name, made.parameters))


def _check_replacement(made: Rule[Any]) -> None:
    """What can be seen of a replacement without a match: its operators, and what it is if it asks for no facts."""
    check_operator_names(made.function)
    found = [x for p in made.sources if (x := again.expression(made.function, p)) is not None]
    counts = {len(p.outputs) for p in made.patterns}
    if len(counts) > 1:
        raise RuleError(f"its patterns have {' and '.join(map(str, sorted(counts)))} outputs", where=made.where)
    for outputs in found:
        wrong = next((x for x in outputs if not isinstance(x, Tensor)), None)
        if wrong is not None:
            raise RuleError(f"the replacement returned {wrong!r}, which is no tensor expression", where=made.where)
        for part in subexpressions(*outputs):
            if isinstance(part, Out):
                check_operator(part.node, made.where)
                check_attributes(part.node, made.where)
        if counts != {len(outputs)}:
            expected = made.patterns[0].outputs
            raise RuleError(f"it returned {len(outputs)} values for a pattern with {len(expected)} outputs",
                            where=made.where)
    patterns = [p.outputs for p in made.patterns]
    if not (made.bounded or made.once) and any(again.matches_again(patterns, x) for x in found):
        raise RuleError(
            "the pattern matches its own replacement again, so rewriting would not end", where=made.where,
            hint="say once=True if it must not be applied to its own result, bounded=True if you know that it ends",
        )
    largest = max(outline.operators(*p) for p in patterns)
    if not (made.bounded or made.once) and any(again.operators(x) >= largest for x in found):
        raise RuleError(
            "the replacement has as many operators as the pattern, so rewriting might not end", where=made.where,
            hint="say bounded=True if you know that it ends, once=True if it must not be applied to its own result",
        )


def _defining_code(function: Callable[..., Any]) -> types.CodeType | None:
    """The code of the module that is being executed, if that defines the function."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals is not function.__globals__:
        frame = frame.f_back
    return frame.f_code if frame is not None and frame.f_locals is frame.f_globals else None


def _check_redefinition(made: Rule[Any]) -> None:
    """Raises RuleError where a module defines a rule of a name a second time, which would hide the first one."""
    other = made.function.__globals__.get(made.name) if made.scope is not None else None
    if isinstance(other, Rule) and other.scope is made.scope and other.where != made.where:
        raise RuleError(f"two rules are called {made.name!r}: {other.where} and {made.where}",
                        hint="the second would hide the first: give it another name")


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
