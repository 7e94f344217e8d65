"""Pipelines as text: `cleanup,fuse,quant{method=percentile,per-channel=true}` to passes and back."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from graphopt.engine.passes import Pass, option_name
from graphopt.engine.registry import pass_class, presets
from graphopt.errors import UsageError, nearest

_ITEM = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?:\{([^{}]*)\})?\s*")
_NONE: Mapping[str, type[Pass]] = types.MappingProxyType({})
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse(text: str, more: Mapping[str, type[Pass]] = _NONE) -> list[Pass]:
    """The passes that `text` names, in order; prerequisites are not added yet.

    Items are separated by commas or spaces. `more`: passes that are known besides those that are installed. Raises
    UsageError for what cannot be read, an unknown pass, option or value.
    """
    found: list[Pass] = []
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None or not match.group(0):
            raise UsageError(f"cannot read the passes {text!r} at {text[position:]!r}",
                             hint="write names separated by commas, options in braces: fuse,quant{method=minmax}")
        name, options = match.group(1), match.group(2)
        preset = presets().get(name)
        if preset is not None and options is None:
            found += parse(preset.passes, more)
        else:
            found.append(_make(name, options or "", more))
        position = match.end()
        if position < len(text) and text[position] == ",":
            position += 1
    return found


def with_prerequisites(passes: list[Pass], more: Mapping[str, type[Pass]] = _NONE) -> tuple[list[Pass], list[str]]:
    """The pipeline with missing prerequisites put before the passes that need them, and the names added."""
    result: list[Pass] = []
    added: list[str] = []
    have: set[str] = set()

    def require(item: Pass, asked: bool) -> None:
        for name in item.requires:
            if name not in have:
                require(pass_class(name, more)(), asked=False)
        if not asked:
            added.append(item.name)
        have.add(item.name)
        result.append(item)

    for item in passes:
        require(item, asked=True)
    return result, added


def _make(name: str, options: str, more: Mapping[str, type[Pass]]) -> Pass:
    kind = pass_class(name, more)
    known = {option_name(f.name): f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in filter(None, (o.strip() for o in options.split(","))):
        key, _, text = item.partition("=")
        key = key.strip().replace("_", "-")
        if key not in known:
            hint = nearest(key, known) if known else f"the pass {name!r} has no options"
            raise UsageError(f"the pass {name!r} has no option {key!r}", hint=hint)
        field = known[key].name
        values[field] = _value(f"{name}.{key}", text.strip() or "true", hints[field])
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"the pass {name!r} does not take these options: {error}") from None


def _value(where: str, text: str, kind: Any) -> Any:
    """`text` as the type of an option: bool, int, float, str, a Literal, or one of those or None."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if text.lower() == "none" else _value(where, text, options[0])
    if origin is typing.Literal:
        choices = [str(c) for c in typing.get_args(kind)]
        if text not in choices:
            raise UsageError(f"{where} cannot be {text!r}", hint=nearest(text, choices))
        return next(c for c in typing.get_args(kind) if str(c) == text)
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise UsageError(f"{where} cannot be {text!r}", hint="write true or false")
        return text.lower() in _TRUE
    if origin is tuple:
        return tuple(filter(None, text.split("|")))
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{where} cannot be {text!r}", hint=f"it takes a value of type {kind.__name__}") from None
