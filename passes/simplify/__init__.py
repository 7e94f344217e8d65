"""The pass `simplify`: the same values with fewer and plainer operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.control import CONTROL, simplify_control
from graphopt_passes.simplify import (
    algebra,
    blocks,
    bounds,
    casting,
    casts,
    choices,
    clamp,
    einsum,
    factors,
    layout,
    oversize,
    pads,
    powers,
    reduce,
    reductions,
    requantize,
    scattered,
    shapes,
    signs,
    slicing,
    terms,
    windows,
)
from graphopt_passes.simplify.broadcast import leave_to_broadcasting
from graphopt_passes.simplify.contents import flush_subnormals, narrow_constants
from graphopt_passes.simplify.filled import cast_filled
from graphopt_passes.simplify.flat import drop_reshapes_around
from graphopt_passes.simplify.idioms import keep_idioms
from graphopt_passes.simplify.joins import JOINS, simplify_joins
from graphopt_passes.simplify.recurrent import drop_zero_states
from graphopt_passes.simplify.sequences import open_sequences
from graphopt_passes.simplify.sizes import fix_sizes, share_sizes
from graphopt_passes.simplify.targets import spell_sizes
from graphopt_passes.simplify.unused import drop_outputs

from graphopt import Accuracy, Context, Rule, RulePass, rules_in

_REWRITES = {
    "subnormal": "Subnormal weights, which are slow, are zeros where they count for nothing beside the others.",
    "narrow_constant": "A constant that repeats itself along an axis is left to broadcasting.",
    "zero_state": "Recurrent operators start from zeros anyway, so zeros need not be made for them.",
    "unread_output": "Optional outputs that nobody reads are not asked for.",
    "sequence_known": "What is read from a sequence whose elements are known is read where it comes from.",
    "optional_known": "What an optional holds is read where it comes from.",
    "fixed_size": "Integers that shapes determine are constants.",
    "same_size": "Small integer tensors with equal elements are computed once.",
    "earlier_shape": "A shape is taken from the first tensor that has it.",
    "spelled_size": "What is not fixed of a size is computed by the fewest nodes, if it has to be computed at all.",
    "implicit_broadcast": "What repeats a tensor is left out where all who read it broadcast by themselves.",
    "cast_filled": "A ConstantOfShape that is cast is one of the other type.",
    "reshape_around": "Reshapes around operators that work on each row, or each element, are left out.",
    **{function.__name__: (function.__doc__ or "") for functions in CONTROL.values() for function in functions},
    **{function.__name__: (function.__doc__ or "") for functions in JOINS.values() for function in functions},
}
_PACKS = (
    algebra, terms, factors, signs, powers, choices, casts, casting, clamp, bounds, layout, reduce, reductions, shapes,
    slicing, scattered, blocks, windows, oversize, pads, einsum, requantize,
)  # fmt: skip


@dataclass(frozen=True)
class Simplify(RulePass):
    """Remove operators that do nothing, merge chains of the same, compute what shapes determine."""

    name: ClassVar[str] = "simplify"
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold")
    rewrites: ClassVar[Mapping[str, str]] = {f"simplify.{name}": text for name, text in _REWRITES.items()}
    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(r for module in _PACKS for r in rules_in(module))

    def run(self, ctx: Context) -> None:
        keep_idioms(ctx)
        simplify_control(ctx)
        drop_zero_states(ctx)
        open_sequences(ctx)
        drop_outputs(ctx)
        if ctx.accuracy >= Accuracy.CLOSE:
            flush_subnormals(ctx)
        narrow_constants(ctx)
        fix_sizes(ctx)
        share_sizes(ctx)
        ctx.apply(self.pack, self.name)
        cast_filled(ctx)
        spell_sizes(ctx)
        leave_to_broadcasting(ctx)
        drop_reshapes_around(ctx)
        simplify_joins(ctx)
