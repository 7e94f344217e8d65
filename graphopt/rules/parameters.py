"""What the parameters of a pattern stand for, as their annotations say."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from graphopt.errors import RuleError
from graphopt.rules.expr import AttrVar, NodeVar, Var

Variable = Var | AttrVar | NodeVar

_ATTRIBUTE = re.compile(r"\bAttr\[((?:[^\[\]]|\[[^\]]*\])*)\]")
_LISTS = re.compile(r"(?:list|List|Sequence|tuple|Tuple)\[([a-z]+)(?:, *\.\.\.)?\]")


def variables(function: Callable[..., Any]) -> list[Variable]:
    """One variable per parameter, of the kind that its annotation asks for; without one, a tensor.

    A list of something (`xs: list[Tensor]`, which `many` binds) gives a variable for one of its items.
    """
    made: list[Variable] = []
    for parameter in _signature(function).parameters.values():
        text = "" if parameter.annotation is parameter.empty else _spelled(parameter.annotation)
        attribute = _ATTRIBUTE.search(text)
        if attribute is not None:
            made.append(AttrVar(parameter.name, *_attribute(attribute.group(1))))
        elif re.search(r"\bNode\b", text):
            made.append(NodeVar(parameter.name))
        else:
            const, optional = re.search(r"\bConst\b", text), re.search(r"\bNone\b|\bOptional\b", text)
            made.append(Var(parameter.name, const=const is not None, optional=optional is not None))
    return made


def check_parameters(function: Callable[..., Any], place: str) -> None:
    """Raises RuleError for parameters that a match cannot be handed to: it binds each one, by its position."""
    for parameter in inspect.signature(function).parameters.values():
        kind = parameter.kind
        if kind is not parameter.POSITIONAL_OR_KEYWORD and kind is not parameter.POSITIONAL_ONLY:
            raise RuleError(f"the parameter {str(parameter)!r} is not a plain one", where=place,
                            hint="a parameter of a rule stands for one thing that is matched; many(…) binds a list")
        if parameter.default is not parameter.empty:
            raise RuleError(f"the parameter {parameter.name!r} has a default, which would never be used", where=place,
                            hint="a pattern binds all of its parameters; take other values from around the function")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """With annotations evaluated, so that it does not matter what their names are imported as, if that can be done."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that is there for type checkers only, or no expression at all
        return inspect.signature(function)


def _spelled(note: Any) -> str:
    """An annotation as one would write it."""
    if isinstance(note, str):
        return note
    if note is None or note is types.NoneType:
        return "None"
    if isinstance(note, typing.ForwardRef):
        return note.__forward_arg__
    if "graphopt.attr" in getattr(note, "__metadata__", ()):
        return f"Attr[{_spelled(note.__origin__)}]"
    origin, inner = typing.get_origin(note), typing.get_args(note)
    if origin is typing.Annotated:
        return _spelled(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_spelled, inner))
    if origin is not None and origin is not typing.Literal:
        items = ", ".join("..." if item is ... else _spelled(item) for item in inner)
        return f"{getattr(origin, '__name__', origin)}[{items}]"
    return getattr(note, "__name__", None) or str(note)


def _attribute(text: str) -> tuple[str | None, bool]:
    """The one type that an attribute is said to have, None if several or any; and whether a list is asked for."""
    options = [re.sub(r"\b(?:typing|collections\.abc)\.", "", option).strip() for option in text.split("|")]
    options = [option for option in options if option != "None"]
    listed = any(option.startswith(("list[", "List[")) for option in options)
    kinds = {_LISTS.sub(r"list[\1]", option).replace(" ", "") for option in options}
    kind = kinds.pop() if len(kinds) == 1 else None
    return (None if kind is None or kind == "Any" or "Optional[" in kind or "Literal[" in kind else kind), listed
