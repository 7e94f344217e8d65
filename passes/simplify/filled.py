"""ConstantOfShape: a tensor that consists of one number can be made with another number, or type, at once."""

from __future__ import annotations

import numpy as np
from graphopt_passes.simplify.reading import operand

from graphopt import Context, DType, Node, Rewrite, require

_INTEGERS = (
    DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64,
)  # fmt: skip
_DTYPES = (*_INTEGERS, DType.BOOL, DType.FLOAT16, DType.FLOAT, DType.DOUBLE)


def cast_filled(ctx: Context) -> None:
    """A ConstantOfShape that is cast is one of the other type."""
    for graph in list(ctx.model.graphs()):
        for node in list(graph.find("Cast")):
            value = operand(node, 0) if node.alive and node.is_standard else None
            producer = None if value is None else value.producer
            if producer is not None and producer.op == "ConstantOfShape" and producer.is_standard:
                with ctx.rewrite("simplify.cast_filled", at=node, sources=[producer, node]) as rewrite:
                    _cast(rewrite, producer, node)


def _cast(rewrite: Rewrite, filled: Node, cast: Node) -> None:
    readers = [reader for reader, _ in filled.outputs[0].uses()]
    require(not filled.outputs[0].is_output and all(r.op == "Cast" for r in readers), "it is read as it is, too")
    given, to = filled.attr("value"), DType(cast.attr("to"))
    fill = np.zeros(1, np.float32) if given is None else given.numpy()
    known = given is None or given.dtype in _DTYPES
    require(known and to in _DTYPES, f"a cast to {to.name.lower()} is left alone")
    if to in _INTEGERS and fill.dtype.kind == "f":
        number = float(fill.reshape(-1)[0])
        limits = np.iinfo(to.numpy())
        fits = np.isfinite(number) and limits.min <= int(number) <= limits.max
        require(fits, "a number beyond the range of an integer has no defined result")
    with np.errstate(all="ignore"):
        tensor = rewrite.constant(fill.reshape(1).astype(to.numpy())).tensor
    made = rewrite.node("ConstantOfShape", [filled.inputs[0]], {"value": tensor})
    rewrite.replace(cast.outputs[0], made[0])
