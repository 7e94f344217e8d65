"""Rules that make one operator of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.fuse import (
    activation,
    attention,
    batchnorm,
    bias,
    chains,
    composed,
    conv,
    elu,
    gemm,
    gemm_forms,
    matmul,
    norm,
    norm_affine,
    norm_half,
    norm_spatial,
    preconv,
    rectifier,
    sigmoid,
    softmax,
    turned,
)
from graphopt_passes.fuse.grouped import REWRITES as GROUPED
from graphopt_passes.fuse.grouped import fuse_groups
from graphopt_passes.fuse.means import REWRITES as MEANS
from graphopt_passes.fuse.means import share_reductions
from graphopt_passes.fuse.parallel import REWRITES as PARALLEL
from graphopt_passes.fuse.parallel import fuse_parallel
from graphopt_passes.fuse.rotary import REWRITES as ROTARY
from graphopt_passes.fuse.rotary import fuse_rotary
from graphopt_passes.fuse.scaled import REWRITES as SCALED
from graphopt_passes.fuse.scaled import fuse_scaled
from graphopt_passes.fuse.sdpa import REWRITES as ATTENTION
from graphopt_passes.fuse.sdpa import fuse_attention
from graphopt_passes.fuse.through import REWRITES as THROUGH
from graphopt_passes.fuse.through import fuse_through
from graphopt_passes.simplify.idioms import keep_idioms

from graphopt import Context, Rule, RulePass, rules_in

_PACKS = (
    conv,
    preconv,
    bias,
    batchnorm,
    matmul,
    gemm,
    gemm_forms,
    turned,
    chains,
    composed,
    norm,
    norm_affine,
    norm_half,
    norm_spatial,
    activation,
    sigmoid,
    rectifier,
    elu,
    softmax,
    attention,
)


@dataclass(frozen=True)
class Fuse(RulePass):
    """Make one operator of several."""

    name: ClassVar[str] = "fuse"
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold", "simplify")
    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(r for module in _PACKS for r in rules_in(module))
    rewrites: ClassVar[Mapping[str, str]] = {
        f"fuse.{name}": text
        for pack in (ATTENTION, ROTARY, SCALED, THROUGH, PARALLEL, GROUPED, MEANS)
        for name, text in pack.items()
    }

    def run(self, ctx: Context) -> None:
        keep_idioms(ctx)
        share_reductions(ctx)
        fuse_rotary(ctx)
        fuse_attention(ctx)
        fuse_scaled(ctx)
        fuse_through(ctx)
        ctx.apply(self.pack, self.name)
        fuse_parallel(ctx)
        fuse_groups(ctx)
