"""The state of an attempt to match, and the closures of what has no operators: parameters and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as oir

from graphopt.ir.facts import Facts
from graphopt.rules.expr import Literal, OpExpr, Var

Next = Callable[[], bool]
Matcher = Callable[[Any, "State", Next], bool]
Note = Callable[["State", Any, str, Any], None]
"""Told what did not fit: the state, the value that was looked at, the kind of mismatch, and what was expected."""


class Listed(tuple[Any, ...]):
    """What a parameter of `many` bound: one item for each operand."""

    __slots__ = ()


class State:
    """Bindings of one attempt. `place`, kept up to date for notes only: the node and the operand that are looked at,
    and how many operands of the node have fitted before.
    """

    __slots__ = ("complete", "env", "extra", "facts", "fitting", "graph", "known", "nodes", "outputs", "place", "steps")

    def __init__(self, facts: Facts, graph: Any) -> None:
        self.facts = facts
        self.graph = graph
        self.env: dict[str, Any] = {}
        self.nodes: dict[OpExpr, oir.Node] = {}
        self.extra: list[oir.Node] = []
        self.outputs: list[oir.Value] = []
        self.fitting: dict[tuple[int, int, Any], bool] = {}
        self.place: tuple[oir.Node, int, int] | None = None
        self.known: dict[tuple[int, Any], list[tuple[int, ...]]] = {}
        self.steps = 0
        self.complete = 0  # matches that were found, and not accepted


class Compiled(NamedTuple):
    """An expression as closures. `fits`: whether it may match, whatever is bound. `leaf`: it has no operators."""

    match: Matcher
    fits: Callable[[Any, State], bool]
    leaf: bool


def variable(x: Var, note: Note | None) -> Compiled:
    """The closures of a parameter: any tensor, or a constant, or nothing; the same one wherever it stands."""
    label, const, optional = x.label, x.const, x.optional

    def fits(v: Any, state: State) -> bool:
        if v is None:
            return optional
        return not const or state.facts.const(v) is not None

    def match(v: Any, state: State, then: Next) -> bool:
        if v is None:
            if not optional:
                if note is not None:
                    note(state, v, "absent", x)
                return False
        elif const and state.facts.const(v) is None:
            if note is not None:
                note(state, v, "computed", x)
            return False
        env = state.env
        if label in env:
            if env[label] is v:
                return then()
            if note is not None:
                note(state, v, "rebound", (label, env[label]))
            return False
        env[label] = v
        if then():
            return True
        del env[label]
        return False

    return Compiled(match, fits, leaf=True)


def literal(x: Literal, note: Note | None) -> Compiled:
    """The closures of a number: a constant all of whose elements equal it after rounding to its dtype, or nearly so.

    Of a list or an array: a constant of that shape with these elements.
    """
    content, rtol = x.content, x.rtol
    wanted = np.asarray(content)
    rounded: dict[np.dtype[Any], bytes | None] = {}

    def equals(splat: Any) -> bool:
        if rtol is not None and abs(float(splat) - content) <= rtol * abs(content):
            return True
        dtype = splat.dtype
        if dtype not in rounded:
            rounded[dtype] = _as_bytes(content, dtype)
        return bool(rounded[dtype] == splat.tobytes())

    def number(v: Any, state: State) -> bool:
        splat = None if v is None else state.facts.splat(v)
        return splat is not None and equals(splat)

    def several(v: Any, state: State) -> bool:
        if v is None or state.facts.const(v) is None or state.facts.shape(v) != wanted.shape:
            return False
        array = state.facts.array(v)
        if array is None or (array.dtype.kind == "b") != (wanted.dtype.kind == "b"):
            return False
        with np.errstate(all="ignore"):
            same = wanted.astype(array.dtype)
        exact = array.dtype.kind not in "iu" or bool(np.all(same == wanted))
        return exact and same.tobytes() == np.ascontiguousarray(array).tobytes()

    fits = several if wanted.ndim else number

    def match(v: Any, state: State, then: Next) -> bool:
        if fits(v, state):
            return then()
        if note is not None:
            note(state, v, "literal", x)
        return False

    return Compiled(match, fits, leaf=True)


def _as_bytes(content: Any, dtype: np.dtype[Any]) -> bytes | None:
    """The number rounded to `dtype`, as bytes; None if an integer type cannot hold it."""
    if dtype.kind == "b" and not isinstance(content, bool):
        return None
    try:
        if dtype.kind in "iu":
            return np.array(int(content), dtype=dtype).tobytes() if content == int(content) else None
        with np.errstate(all="ignore"):
            return np.asarray(content).astype(dtype).tobytes()
    except (OverflowError, ValueError, TypeError):
        return None
