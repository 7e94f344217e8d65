"""What the ONNX schemas say of the operators and attributes that a rule names."""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from graphopt.errors import RuleError, nearest
from graphopt.rules.expr import ANY, AttrVar, OpExpr
from graphopt.rules.language import Domain

if TYPE_CHECKING:
    from onnx.defs import OpSchema

_STANDARD = ("", "ai.onnx.ml")
# What may stand for an attribute of each type, as a value and as the annotation of what captures it.
_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "FLOAT": ("a float", ("float", "int")),
    "INT": ("an int", ("int", "bool", "DType", "IntEnum")),
    "STRING": ("a str", ("str", "bytes")),
    "FLOATS": ("a list of floats", ("list[float]", "list[int]")),
    "INTS": ("a list of ints", ("list[int]",)),
    "STRINGS": ("a list of strs", ("list[str]",)),
}


def check_operator(node: OpExpr, place: str) -> None:
    """Raises RuleError for an operator or attribute that no version of the ONNX schema knows."""
    if node.domain not in _STANDARD:
        return
    for name in node.ops:
        _check_name(name, node.domain, place)
        attributes = attribute_types(name, node.domain)
        for attribute in node.attrs:
            if attribute not in attributes:
                hint = nearest(attribute, attributes) if attributes else "it has none"
                raise RuleError(f"{name} has no attribute {attribute!r}", where=place, hint=hint)


def check_attributes(node: OpExpr, place: str) -> None:
    """Raises RuleError for an attribute's value, or what captures it, that is of no type that the schema has."""
    if node.domain not in _STANDARD:
        return
    for name in node.ops:
        known = attribute_types(name, node.domain)
        for attribute, value in node.attrs.items():
            types = known.get(attribute, frozenset())
            if value is None or value is ANY or not types <= _TYPES.keys():
                continue
            given = value.kind if isinstance(value, AttrVar) else _kind(value)
            if given is not None and not any(given in _TYPES[t][1] for t in types):
                wanted = " or ".join(_TYPES[t][0] for t in sorted(types))
                what = f"the parameter {value.label!r} captures {given}" if isinstance(value, AttrVar) else repr(value)
                raise RuleError(f"the attribute {attribute!r} of {name} is {wanted}, not {what}", where=place)


def _kind(value: Any) -> str | None:
    """How an annotation would spell the type of an attribute's value; None for what cannot be told."""
    if isinstance(value, list | tuple):
        kinds = {_kind(v) for v in value}
        kinds = kinds if kinds != {"int", "float"} else {"float"}
        return f"list[{kinds.pop()}]" if len(kinds) == 1 else None
    for kind in (bool, int, float, str, bytes):
        if isinstance(value, kind):
            return "int" if kind is bool else kind.__name__
    return type(value).__name__


def check_operator_names(function: Callable[..., Any]) -> None:
    """Raises RuleError if a replacement names an operator that ONNX does not have; nothing is called for it."""
    from graphopt.rules.trace import where

    for domain, name in _named(function):
        if domain in _STANDARD and name != "any":
            _check_name(name, domain, where(function))


def _named(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """(domain, operator) for every `op.Name` in a function's code, where `op` is a domain at module level."""
    code = getattr(function, "__code__", None)
    scope = getattr(function, "__globals__", {})
    before: Any = None
    for step in dis.get_instructions(code) if code is not None else ():
        if step.opname == "LOAD_GLOBAL":
            before = scope.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(before, Domain):
            yield before.domain, step.argval
            before = None
        elif step.opname not in ("CACHE", "PUSH_NULL", "EXTENDED_ARG"):
            before = None


def _check_name(name: str, domain: str, place: str) -> None:
    if not _exists(name, domain):
        hint = nearest(name, _known(domain)).split("? ")[0] + "?"
        raise RuleError(f"there is no operator {name!r}", where=place, hint=hint)


@functools.cache
def _exists(name: str, domain: str) -> bool:
    from onnx import defs

    return bool(defs.has(name, domain))


@functools.cache
def _known(domain: str) -> frozenset[str]:
    from onnx import defs

    return frozenset(s.name for s in defs.get_all_schemas() if s.domain == domain)


@functools.cache
def attribute_types(name: str, domain: str) -> dict[str, frozenset[str]]:
    """The types that each attribute of an operator has had, over all versions, as `AttrType` spells them."""
    found: dict[str, frozenset[str]] = {}
    for schema in _versions(name, domain):
        for attribute, formal in schema.attributes.items():
            found[attribute] = found.get(attribute, frozenset()) | {str(formal.type).rpartition(".")[2]}
    return found


def _versions(name: str, domain: str) -> Iterator[OpSchema]:
    """The schemas of an operator, the newest first."""
    from onnx import defs

    schema = defs.get_schema(name, domain)
    while True:
        yield schema
        if schema.since_version <= 1 or not defs.has(name, schema.since_version - 1, domain):
            return
        schema = defs.get_schema(name, schema.since_version - 1, domain)
