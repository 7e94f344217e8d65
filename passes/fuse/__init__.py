"""Rules that make one operator of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.fuse import activation, attention, conv, gemm, norm, preconv

from graphopt import Rule, RulePass, rules_in

_PACKS = (conv, preconv, gemm, norm, activation, attention)


@dataclass(frozen=True)
class Fuse(RulePass):
    """Make one operator of several."""

    name: ClassVar[str] = "fuse"
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold", "simplify")
    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(r for module in _PACKS for r in rules_in(module))
