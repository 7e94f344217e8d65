"""The pass `dequant`: a quantized model back in floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import Accuracy, Context, Pass, dequantize_graph


@dataclass(frozen=True)
class Dequant(Pass):
    """Take quantization out of a model: what was int8 is float again, as near to it as floats are.

    Weights become the numbers that their integers stand for, operators on integers become float operators, and
    activations are rounded no more. A Relu or Clip that a tool had left to the rounding comes back.
    """

    name: ClassVar[str] = "dequant"
    requires: ClassVar[tuple[str, ...]] = ("cleanup",)
    settles: ClassVar[bool] = False
    accuracy: ClassVar[Accuracy] = Accuracy.APPROX
    rewrites: ClassVar[Mapping[str, str]] = {
        "dequant.pair": "An activation is rounded to integers and back no more.",
        "dequant.weight": "A weight is stored as the floats that its integers stand for.",
        "dequant.operator": "An operator on integers is a float operator.",
    }

    def run(self, ctx: Context) -> None:
        done = dequantize_graph(ctx.model, ctx.edit, ctx.decline)
        if done.pairs or done.weights or done.operators:
            ctx.note(f"{done.pairs} Q/DQ pairs, {len(done.weights)} weights and biases and {done.operators} integer "
                     "operators are floats again")  # fmt: skip
        else:
            ctx.note("the model is not quantized, or in no way that can be undone")
