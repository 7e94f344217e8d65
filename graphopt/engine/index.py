"""Which rules may match at a node: by root operator, then by the operators that feed it."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.model import Model
from graphopt.rules.match import Pattern
from graphopt.rules.rule import Rule

_ARITHMETIC = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "**": "Pow", "@": "MatMul"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One left side of one rule, under the name that the journal gives it."""

    name: str
    rule: Rule[Any]
    pattern: Pattern


class RuleIndex:
    """The left sides of rules by (domain, root operator): larger patterns first, then by name.

    Left sides that need an operator that the model neither has nor can get from these rules are left out.
    `depth` and `operands` are those of the deepest and the widest pattern kept.
    """

    def __init__(self, rules: Sequence[tuple[str, Rule[Any]]], model: Model) -> None:
        known = _reachable({node.op_type for graph in model.raw_graphs() for node in graph}, rules)
        self._by_root: dict[tuple[str, str], list[Entry]] = {}
        self.depth = self.operands = 1
        self.several_outputs = False
        for name, rule in rules:
            for pattern in rule.patterns:
                if not pattern.possible(known):
                    continue
                self.depth = max(self.depth, pattern.depth)
                self.operands = max(self.operands, pattern.operands)
                self.several_outputs |= len(pattern.outputs) > 1
                for root in pattern.roots:
                    self._by_root.setdefault(root, []).append(Entry(name, rule, pattern))
        for entries in self._by_root.values():
            entries.sort(key=lambda e: (-e.pattern.size, e.name))

    def __contains__(self, root: tuple[str, str]) -> bool:
        return root in self._by_root

    def __len__(self) -> int:
        return len(self._by_root)

    def get(self, root: tuple[str, str]) -> list[Entry]:
        return self._by_root.get(root, [])


def _reachable(present: set[str], rules: Sequence[tuple[str, Rule[Any]]]) -> set[str]:
    """The operators that a graph with these may have after any of the rules."""
    known, waiting = {*present, "Identity"}, list(dict.fromkeys(rule for _, rule in rules))
    while True:
        ready = [r for r in waiting if any(p.possible(known) for p in r.patterns)]
        if not ready:
            return known
        waiting = [r for r in waiting if r not in ready]
        for rule in ready:
            known |= _named(rule.function)


@functools.cache
def _named(function: Callable[..., Any]) -> frozenset[str]:
    """All that may be the name of an operator in a function and in the functions that it calls."""
    found: set[str] = set()
    pending: list[Any] = [function]
    seen: set[Any] = set()
    while pending:
        item = pending.pop()
        code = getattr(item, "__code__", item)
        if not isinstance(code, types.CodeType) or code in seen:
            continue
        seen.add(code)
        found.update(code.co_names)
        found.update(c for c in code.co_consts if isinstance(c, str))
        instructions = list(dis.get_instructions(code))
        found.update(_ARITHMETIC[i.argrepr] for i in instructions if i.argrepr in _ARITHMETIC)
        if any(i.opname == "UNARY_NEGATIVE" for i in instructions):
            found.add("Neg")
        pending.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
        scope = getattr(item, "__globals__", {})
        pending.extend(scope[name] for name in code.co_names if isinstance(scope.get(name), types.FunctionType))
    return frozenset(found)
