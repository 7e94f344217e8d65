"""The pass `onnxsim`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import ONNXSIM, Context, Pass


@dataclass(frozen=True)
class OnnxSim(Pass):
    """onnxsim, run on the whole model as one rewrite; needs `pip install 'graphopt[onnxsim]'`.

    `optimize`: with its optimizers, except those in `skip` (`fuse_bn_into_conv|eliminate_nop_pad`); `fold`: with
    constant folding, of tensors up to `largest`. `timeout` in seconds.
    """

    name: ClassVar[str] = "onnxsim"
    settles: ClassVar[bool] = False
    rewrites: ClassVar[Mapping[str, str]] = {"onnxsim": "Replace the model by what onnxsim makes of it."}

    optimize: bool = True
    fold: bool = True
    largest: str = "1.5GB"
    skip: tuple[str, ...] = ()
    timeout: float = 600.0

    def __post_init__(self) -> None:
        ONNXSIM.require()

    def run(self, ctx: Context) -> None:
        ctx.run_tool(
            ONNXSIM,
            timeout=self.timeout,
            optimize=self.optimize,
            fold=self.fold,
            largest=self.largest,
            skip=self.skip,
        )
