"""The pass `half`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt import Accuracy, Context, HalfOptions, Pass, convert_half

_SHOWN = 5


@dataclass(frozen=True)
class Half(Pass):
    """Half precision where it is enough: weights and activations in `dtype`, and float32 where it is not.

    Inputs and outputs keep their types. Nodes whose numbers do not fit stay float32, and so do the noisiest ones
    until every output has a signal-to-noise ratio of `snr` dB; 0 for the default, 50 with float16 and 30 with bfloat16.
    `skip`: nodes that stay float32 in any case (`/head/*|*norm*`).
    """

    name: ClassVar[str] = "half"
    requires: ClassVar[tuple[str, ...]] = ("fuse", "layout")
    settles: ClassVar[bool] = False
    accuracy: ClassVar[Accuracy] = Accuracy.APPROX
    rewrites: ClassVar[Mapping[str, str]] = {"half": "Compute in half precision."}

    dtype: Literal["float16", "bfloat16"] = "float16"
    snr: float = 0.0
    skip: tuple[str, ...] = ()

    def run(self, ctx: Context) -> None:
        done = convert_half(ctx, HalfOptions(self.dtype, self.snr or None, self.skip))
        ctx.note(f"{done.converted} nodes in {self.dtype}, {done.snr:.0f} dB, {done.probes} variants tried")
        for reason, count in Counter(done.kept.values()).most_common(_SHOWN):
            ctx.note(f"{count} × float32: {reason}")
        if done.synthetic and done.probes:
            ctx.note("ranges and errors are those of made-up inputs; give samples with --data")
