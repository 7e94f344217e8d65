"""The attribute contract: mentioned ones must agree; others must have their schema default, or `...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as oir

from graphopt.rules.expr import ANY, AttrVar, OpExpr

if TYPE_CHECKING:
    from graphopt.rules.state import Note, State


def attribute_contract(expr: OpExpr, note: Note | None) -> Callable[[oir.Node, State], dict[str, Any] | None]:
    """A function that gives the attributes that a node's expression captures, None if the node does not fit."""
    wanted = [(name, value) for name, value in expr.attrs.items() if value is not ANY]
    mentioned = frozenset(expr.attrs)
    more = expr.more

    def refuse(node: oir.Node, state: State, kind: str, detail: tuple[Any, ...]) -> None:
        if note is not None:
            note(state, node.outputs[0], kind, (node, *detail))

    def match(node: oir.Node, state: State) -> dict[str, Any] | None:
        captured: dict[str, Any] = {}
        facts = state.facts
        given = node.attributes.data  # a plain dict, and so much faster
        for name, value in wanted:
            attr = given.get(name)
            if attr is not None and attr.is_ref():
                refuse(node, state, "parameter", (name,))
                return None
            got = attr.value if attr is not None else facts.default_attr(node, name)
            if isinstance(value, AttrVar) and value.label not in state.env and value.label not in captured:
                captured[value.label] = list(got) if value.listed and isinstance(got, tuple) else got
                continue
            known = captured | state.env if isinstance(value, AttrVar) else {}
            expected = known[value.label] if isinstance(value, AttrVar) else value
            if not same_attribute(expected, got):
                refuse(node, state, "attribute", (name, got, expected))
                return None
        if not more:
            for name, attr in given.items():
                if name in mentioned:
                    continue
                default = None if attr.is_ref() else facts.default_attr(node, name)
                if default is None or not same_attribute(default, attr.value):
                    refuse(node, state, "unmentioned", (name, None if attr.is_ref() else attr.value, default))
                    return None
        return captured

    return match


def same_attribute(a: Any, b: Any) -> bool:
    """Whether two attribute values are the same; floats are compared as the float32 they are stored in."""
    if isinstance(a, float) and isinstance(b, int | float):
        return bool(np.float32(a) == np.float32(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_attribute(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | str) and isinstance(b, int | str):
        return a == b and isinstance(a, str) == isinstance(b, str)
    if isinstance(a, oir.TensorProtocol) or isinstance(b, oir.TensorProtocol):
        return a is b
    return bool(a == b) and isinstance(a, str) == isinstance(b, str)
