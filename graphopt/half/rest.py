"""Half precision for what quantization leaves float, for runtimes that compute in the types that stand in the file.

What must stay float32 is found on the model before it is quantized, for a half that flips an integer by one step is
not worse than the integer. Afterwards the rest is converted in one go, Q and DQ included, whose scales are halves then,
so that nothing stands between them and the operators that they belong to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.half.build import in_half
from graphopt.half.convert import HalfOptions, Halved, named, search_half
from graphopt.half.plan import HALVES, half_places

if TYPE_CHECKING:
    import onnx_ir as oir

    from graphopt.engine.passes import Context

__all__ = ["HalfRest"]


class HalfRest:
    """What can be half precision in a model that is yet to be quantized."""

    def __init__(self, ctx: Context, options: HalfOptions) -> None:
        """Look for it now. Raises what `convert_half` raises."""
        chosen, self._found = search_half(ctx, options)
        self._ctx, self._half = ctx, HALVES[options.dtype]
        converted = {place.node for place in chosen}
        # By an output's name: the nodes of a model that gets another opset are new ones.
        self._kept = {_key(p.node) for p in half_places(ctx.model, self._half, ())[0] if p.node not in converted}

    def convert(self, by: str) -> Halved:
        """Convert the quantized model, as one rewrite called `by`."""
        ctx = self._ctx
        model = ctx.model.ir
        skip = [node for node in model.graph if _key(node) in self._kept]
        places, refused = half_places(ctx.model, self._half, skip, quantizers=True)
        if places:
            ctx.replace_model(by, lambda _: in_half(model, places, self._half))
        kept = {name: self._found.kept.get(name, why) for name, why in named(refused).items()}
        return Halved(len(places), kept, self._found.snr, self._found.probes, self._found.synthetic)


def _key(node: oir.Node) -> str | None:
    return next((output.name for output in node.outputs if output.name), None)
