"""From pattern functions to expressions: one call with variables for the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from graphopt.errors import RuleError, nearest
from graphopt.rules.expr import ANY, Alt, AttrVar, Literal, NodeVar, OpExpr, Out, Tensor, Var

Variable = Var | AttrVar | NodeVar


def variables(function: Callable[..., Any]) -> list[Variable]:
    """One variable per parameter, of the kind that its annotation asks for; without one, a tensor."""
    made: list[Variable] = []
    for parameter in inspect.signature(function).parameters.values():
        note = parameter.annotation
        text = "" if note is inspect.Parameter.empty else note if isinstance(note, str) else str(note)
        kind = text.rsplit(".", 1)[-1] if "[" not in text and "|" not in text else text
        if "Attr[" in text or "graphopt.attr" in text:
            made.append(AttrVar(parameter.name))
        elif kind == "Node" or kind.startswith("Node'"):
            made.append(NodeVar(parameter.name))
        else:
            made.append(Var(parameter.name, const="Const" in text, optional="None" in text))
    return made


def trace(function: Callable[..., Any]) -> tuple[Out | Alt, ...]:
    """The outputs of a pattern. Raises RuleError for what can be seen to be wrong without a model."""
    found = variables(function)
    result = function(*found)
    outputs = result if isinstance(result, tuple) else (result,)
    for output in outputs:
        if not isinstance(output, Out | Alt) or any(not isinstance(o, Out) for o in _flat(output)):
            raise RuleError("a pattern must be made of operators, not of a bare variable or number",
                            where=where(function))
    _check_used(function, found, outputs)
    for node in nodes(outputs):
        check_operator(node, where(function))
    return outputs


def _flat(output: Tensor) -> Iterator[Tensor]:
    if isinstance(output, Alt):
        for option in output.options:
            yield from _flat(option)
    else:
        yield output


def nodes(outputs: tuple[Tensor, ...]) -> list[OpExpr]:
    """All operator expressions of a pattern, each once."""
    found: dict[OpExpr, None] = {}
    pending: list[Any] = list(outputs)
    while pending:
        x = pending.pop()
        if isinstance(x, Alt):
            pending.extend(x.options)
        elif isinstance(x, Out) and x.node not in found:
            found[x.node] = None
            pending.extend(i for i in x.node.inputs if i is not None)
    return list(found)


def _check_used(function: Callable[..., Any], found: list[Variable], outputs: tuple[Tensor, ...]) -> None:
    seen: set[str] = set()
    pending: list[Any] = list(outputs)
    visited: set[int] = set()
    while pending:
        x = pending.pop()
        if id(x) in visited:
            continue
        visited.add(id(x))
        if isinstance(x, Alt):
            pending.extend(x.options)
        elif isinstance(x, Var):
            seen.add(x.label)
        elif isinstance(x, Out):
            pending.extend(i for i in x.node.inputs if i is not None)
            seen.update(a.label for a in x.node.attrs.values() if isinstance(a, AttrVar))
            if x.node.capture:
                seen.add(x.node.capture)
    for variable in found:
        if variable.label not in seen:
            raise RuleError(f"the pattern never uses its parameter {variable.label!r}", where=where(function),
                            hint="remove it from both signatures, or match something with it")


def check_operator(node: OpExpr, place: str) -> None:
    """Raises RuleError for an operator or attribute that no version of the ONNX schema knows."""
    if node.domain not in ("", "ai.onnx.ml"):
        return
    from onnx import defs

    for name in node.ops:
        if not defs.has(name, node.domain):
            known = {s.name for s in defs.get_all_schemas() if s.domain == node.domain}
            hint = nearest(name, known).split("? ")[0] + "?"
            raise RuleError(f"there is no operator {name!r}", where=place, hint=hint)
        attributes = _attributes(name, node.domain)
        for attribute in node.attrs:
            if attribute not in attributes:
                hint = nearest(attribute, attributes)
                raise RuleError(f"{name} has no attribute {attribute!r}", where=place, hint=hint)


def _attributes(name: str, domain: str) -> set[str]:
    """Names of an operator's attributes, over all versions."""
    from onnx import defs

    found: set[str] = set()
    version = defs.get_schema(name, domain).since_version
    while True:
        schema = defs.get_schema(name, version, domain)
        found.update(schema.attributes)
        if schema.since_version <= 1 or not defs.has(name, schema.since_version - 1, domain):
            return found
        version = schema.since_version - 1


def where(function: Callable[..., Any]) -> str:
    """`name (file.py:12)` of a pattern or replacement."""
    import os

    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", "pattern")
    if code is None:
        return name
    return f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"  # noqa: PTH119 - a plain string


__all__ = ["ANY", "Literal", "Variable", "nodes", "trace", "variables", "where"]
