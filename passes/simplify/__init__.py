"""The pass `simplify`: the same values with fewer and plainer operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.simplify import algebra, casts, clamp, layout, reduce, shapes, slicing, windows
from graphopt_passes.simplify.control import inline_branches
from graphopt_passes.simplify.joins import JOINS, simplify_joins
from graphopt_passes.simplify.recurrent import drop_zero_states
from graphopt_passes.simplify.sizes import fix_sizes, share_sizes

from graphopt import Context, Rule, RulePass, rules_in

_REWRITES = {
    "if_constant": "An If whose condition is known is the branch that it takes.",
    "zero_state": "Recurrent operators start from zeros anyway, so zeros need not be made for them.",
    "fixed_size": "Integers that shapes determine are constants.",
    "same_size": "Small integer tensors with equal elements are computed once.",
    **{function.__name__: (function.__doc__ or "") for functions in JOINS.values() for function in functions},
}
_PACKS = (algebra, casts, clamp, layout, reduce, shapes, slicing, windows)


@dataclass(frozen=True)
class Simplify(RulePass):
    """Remove operators that do nothing, merge chains of the same, compute what shapes determine."""

    name: ClassVar[str] = "simplify"
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold")
    rewrites: ClassVar[Mapping[str, str]] = {f"simplify.{name}": text for name, text in _REWRITES.items()}
    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(r for module in _PACKS for r in rules_in(module))

    def run(self, ctx: Context) -> None:
        inline_branches(ctx)
        drop_zero_states(ctx)
        fix_sizes(ctx)
        share_sizes(ctx)
        ctx.apply(self.pack, self.name)
        simplify_joins(ctx)
