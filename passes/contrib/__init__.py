"""Operators that only ONNX Runtime has, in its domain com.microsoft, made of standard ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.contrib import activation, attention, convolution, integers, norm, products, rms
from graphopt_passes.contrib.residual import REWRITES as RESIDUALS
from graphopt_passes.contrib.residual import part_residuals
from graphopt_passes.simplify.idioms import keep_idioms

from graphopt import Context, Rule, RulePass, rules_in

_FIRST = tuple(rules_in(attention))
_PACKS = (attention, activation, norm, rms, products, convolution, integers)


@dataclass(frozen=True)
class Contrib(RulePass):
    """Make operators of com.microsoft, for targets that have them."""

    name: ClassVar[str] = "contrib"
    last: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold", "simplify", "fuse", "layout")
    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(r for module in _PACKS for r in rules_in(module))
    rewrites: ClassVar[Mapping[str, str]] = {f"contrib.{name}": text for name, text in RESIDUALS.items()}

    def run(self, ctx: Context) -> None:
        if "com.microsoft" in ctx.target.domains:
            keep_idioms(ctx, "masked_attention")
            ctx.apply(_FIRST, self.name)  # before their products are fused one by one
            super().run(ctx)
            part_residuals(ctx)
