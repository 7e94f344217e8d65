"""From pattern functions to expressions: one call with variables for the parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from graphopt.errors import RuleError
from graphopt.rules import outline
from graphopt.rules.clash import check_clashes
from graphopt.rules.expr import Alt, Out, Tensor, outputs_of
from graphopt.rules.operators import check_attributes, check_operator
from graphopt.rules.parameters import check_parameters, variables


def trace(function: Callable[..., Any]) -> tuple[Out | Alt, ...]:
    """The outputs of a pattern. Raises RuleError for what can be seen to be wrong without a model."""
    place = where(function)
    check_parameters(function, place)
    found = variables(function)
    try:
        outputs = outputs_of(function(*found))
    except Exception as error:
        raise RuleError(f"the pattern raised {type(error).__name__}: {error}", where=place) from error
    made = tuple(o for o in outputs if isinstance(o, Out | Alt))
    if not made and not outputs:
        raise RuleError("a pattern must have an output", where=place)
    if len(made) < len(outputs) or any(not isinstance(o, Out) for output in made for o in _flat(output)):
        raise RuleError("a pattern must be made of operators, not of a bare variable or number", where=place)
    for x in outline.subexpressions(*outputs):
        if isinstance(x, Out):
            check_operator(x.node, place)
            check_attributes(x.node, place)
    check_clashes(outputs, place)
    return made


def _flat(output: Tensor) -> Iterator[Tensor]:
    if isinstance(output, Alt):
        for option in output.options:
            yield from _flat(option)
    else:
        yield output


def where(function: Callable[..., Any]) -> str:
    """`name (file.py:12)` of a pattern or replacement."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", "pattern")
    if code is None:
        return name
    return f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"  # noqa: PTH119 - a plain string
