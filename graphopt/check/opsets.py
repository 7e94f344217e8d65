"""Operators over the opsets: in which form a pattern can be written at which opset, and at which one a sample is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import onnx.defs

from graphopt.rules.expr import Alt, Many, OpExpr, Out, Var

if TYPE_CHECKING:
    from graphopt.rules.match import Pattern

_OLDEST = 7  # of which both executors know the meaning
_NEWEST = 24  # that all supported executors know; a later one is used only where a pattern needs it
_USUAL = 0.65  # share of samples at one of the last opsets that a pattern has, where most replacements exist
_LAST = 2

Schema = onnx.defs.OpSchema


@functools.cache
def _history() -> dict[tuple[str, str], list[Schema]]:
    found: dict[tuple[str, str], list[Schema]] = {}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


@functools.cache
def schema_at(domain: str, op: str, version: int) -> Schema | None:
    """The schema in force; None if there is none at this version."""
    known = [s for s in _history().get((domain, op), ()) if s.since_version <= version]
    return known[-1] if known and not known[-1].deprecated else None


@functools.cache
def arity(domain: str, op: str, version: int) -> tuple[int, int]:
    """The least and the largest number of inputs; any number for an operator that ONNX does not define."""
    schema = schema_at(domain, op, version)
    return (0, 1 << 31) if schema is None else (schema.min_input, schema.max_input)


def version_of(domain: str, opset: int) -> int:
    """The version of a domain that a sample at `opset` imports: the newest, or 1 if ONNX does not define the domain."""
    return opset if domain == "" else _newest(domain)


@functools.cache
def _newest(domain: str) -> int:
    found = [s.since_version for (d, _), schemas in _history().items() if d == domain for s in schemas]
    return max(found, default=1)


class Forms:
    """What can be written of a pattern at which opset; `opsets` are those at which all of it can."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        self._known: dict[tuple[int, int], bool] = {}
        self._bound: dict[int, frozenset[str]] = {}
        every = range(_OLDEST, onnx.defs.onnx_opset_version() + 1)
        found = [v for v in every if all(self.possible(o, v) for o in outputs)]
        self.opsets = frozenset(found)
        self._usual = [v for v in found if v <= _NEWEST] or found

    def pick(self, rng: Random) -> int | None:
        """An opset, more often a late one; None if there is none."""
        if not self._usual:
            return None
        return rng.choice(self._usual[-_LAST:]) if rng.random() < _USUAL else rng.choice(self._usual)

    def possible(self, x: Any, opset: int) -> bool:
        """Whether an expression can be written at an opset."""
        key = id(x.node if isinstance(x, Out) else x), opset
        if key not in self._known:
            self._known[key] = True  # a variable, number, or what is being looked at
            if isinstance(x, Many):
                self._known[key] = self.possible(x.element, opset)
            elif isinstance(x, Alt):
                self._known[key] = any(self.possible(o, opset) for o in x.options)
            elif isinstance(x, Out):
                operands = all(self.possible(i, opset) for i in x.node.inputs if i is not None)
                self._known[key] = operands and bool(self.operators(x.node, opset))
        return self._known[key]

    def weights(self, x: Alt) -> list[int]:
        """How often to take each alternative: more often those that bind what others do not."""
        found = [self._labels(o) for o in x.options]
        common = frozenset.intersection(*found)
        return [1 + 2 * len(labels - common) for labels in found]

    def _labels(self, x: Any) -> frozenset[str]:
        """The variables that an expression may bind."""
        if isinstance(x, Var):
            return frozenset({x.label})
        key = id(x.node if isinstance(x, Out) else x)
        if key not in self._bound:
            parts = x.options if isinstance(x, Alt) else x.node.inputs if isinstance(x, Out) else ()
            parts = (x.element,) if isinstance(x, Many) else parts
            self._bound[key] = frozenset().union(*map(self._labels, parts))
        return self._bound[key]

    def operators(self, expr: OpExpr, opset: int) -> tuple[str, ...]:
        """Those of the expression's operators that exist with such operands, outputs and attributes."""
        if expr.domain not in ("", "ai.onnx.ml"):
            return expr.ops
        return tuple(op for op in expr.ops if self._fits(expr, op, version_of(expr.domain, opset)))

    def _fits(self, expr: OpExpr, op: str, version: int) -> bool:
        schema = schema_at(expr.domain, op, version)
        if schema is None or not schema.attributes.keys() >= expr.attrs.keys() or expr.outputs > schema.max_output:
            return False
        needed = len(expr.inputs)
        while needed and _may_be_left_out(expr.inputs[needed - 1]):
            needed -= 1
        most = len(expr.inputs) if not any(isinstance(i, Many) for i in expr.inputs) else schema.max_input
        return needed <= schema.max_input and most >= schema.min_input and self._given_fit(expr, schema)

    def _given_fit(self, expr: OpExpr, schema: Schema) -> bool:
        """Whether operands that the pattern leaves out, or that the schema has no place for, may be left out."""
        for index, formal in enumerate(schema.inputs[: len(expr.inputs)]):
            if expr.inputs[index] is None and formal.option == Schema.FormalParameterOption.Single:
                return False
        return True


def _may_be_left_out(x: Any) -> bool:
    return x is None or (isinstance(x, Var) and x.optional)


@functools.lru_cache(maxsize=512)
def forms(pattern: Pattern) -> Forms:
    """The forms of a left side, computed once."""
    return Forms(pattern.outputs)
