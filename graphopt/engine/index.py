"""Which rules may match at a node: by root operator, then by the operators that feed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.model import Model
from graphopt.rules.match import Pattern
from graphopt.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Entry:
    """One left side of one rule, under the name that the journal gives it."""

    name: str
    rule: Rule[Any]
    pattern: Pattern


class RuleIndex:
    """The left sides of rules by (domain, root operator): larger patterns first, then by name.

    Left sides that need an operator that the model has nowhere are left out.
    `depth` and `operands` are those of the deepest and the widest pattern kept.
    """

    def __init__(self, rules: Sequence[tuple[str, Rule[Any]]], model: Model) -> None:
        present = {node.op_type for graph in model.raw_graphs() for node in graph}
        made = _operators_made_by_rules(rules)
        self._by_root: dict[tuple[str, str], list[Entry]] = {}
        self.depth = self.operands = 1
        self.several_outputs = False
        for name, rule in rules:
            for pattern in rule.patterns:
                if not all(names & present or names & made for names in pattern.operators):
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


def _operators_made_by_rules(rules: Sequence[tuple[str, Rule[Any]]]) -> set[str]:
    """Operators that a replacement names in its code, which may so appear while rules run."""
    made: set[str] = set()
    for _, rule in rules:
        code = getattr(rule.function, "__code__", None)
        if code is not None:
            made.update(code.co_names)
            made.update(c for c in code.co_consts if isinstance(c, str))
    return made | {"Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Neg", "Identity"}
