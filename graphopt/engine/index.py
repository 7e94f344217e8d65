"""Which rules may match at a node: by root operator, then by the operators that feed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.ir.value import nodes_of
from graphopt.rules.closures import operators_of
from graphopt.rules.match import Pattern
from graphopt.rules.rule import Rule

_KEPT = 8  # the longest key that is kept: nodes with many inputs are seldom alike


@dataclass(frozen=True, slots=True)
class Entry:
    """One left side of one rule, under the name that the journal gives it; `number` counts all left sides."""

    name: str
    rule: Rule[Any]
    pattern: Pattern
    number: int


class RuleIndex:
    """The left sides of rules by (domain, root operator): larger patterns first, then by name, then as they are given.

    Left sides that need an operator that the model does not have wait until a rewrite makes one: see `admit`.
    `depth` and `operands` are those of the deepest and the widest pattern in use.
    """

    def __init__(self, rules: Sequence[tuple[str, Rule[Any]]], model: Model) -> None:
        self._by_root: dict[tuple[str, str], list[Entry]] = {}
        self._likely: dict[tuple[str | None, ...], list[Entry]] = {}
        self._numbers: set[tuple[str, str]] = set()  # roots with operands of which some left side wants one number
        self._facts = model.facts
        sides = [(name, rule, pattern) for name, rule in rules for pattern in rule.patterns]
        self._waiting = [Entry(*side, number) for number, side in enumerate(sides)]
        self._known: set[str] = set()
        self.depth = self.operands = 1
        self.several_outputs = False
        self.admit(node for graph in model.raw_graphs() for node in nodes_of(graph))

    def admit(self, nodes: Iterable[oir.Node]) -> None:
        """Take in the left sides that these nodes, which are or have come into the model, make possible.

        A match of one of them has such a node in it, so what a rewrite touched is all that has to be looked at.
        """
        new = {node.op_type for node in nodes} - self._known
        if not new:
            return
        self._known |= new
        waiting, self._waiting = self._waiting, []
        self._likely.clear()
        for entry in waiting:
            pattern = entry.pattern
            if not pattern.possible(self._known):
                self._waiting.append(entry)
                continue
            self.depth = max(self.depth, pattern.depth)
            self.operands = max(self.operands, pattern.operands)
            self.several_outputs |= len(pattern.outputs) > 1
            for root in pattern.roots:
                entries = self._by_root.setdefault(root, [])
                entries.append(entry)
                entries.sort(key=lambda e: (-e.pattern.size, e.name, e.number))
                if pattern.tells_numbers(root[1]):
                    self._numbers.add(root)

    def __contains__(self, root: tuple[str, str]) -> bool:
        return root in self._by_root

    def __len__(self) -> int:
        return len(self._by_root)

    def likely(self, node: oir.Node) -> list[Entry]:
        """The left sides that may match at a node, as far as the operators tell that make its inputs."""
        root = node.domain, node.op_type
        makers = operators_of(node.inputs, self._facts if root in self._numbers else None)
        key = (*root, *makers)
        found = self._likely.get(key)
        if found is None:
            entries = self._by_root.get(root, [])
            found = [entry for entry in entries if entry.pattern.may_match(node.op_type, makers)]
            if len(key) <= _KEPT:
                self._likely[key] = found
        return found

    def get(self, root: tuple[str, str]) -> list[Entry]:
        return self._by_root.get(root, [])
