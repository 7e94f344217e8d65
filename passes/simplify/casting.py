"""Casts among operators that only move elements: fewer of them, and none that are undone."""

from __future__ import annotations

from graphopt_passes.simplify.casts import holds
from graphopt_passes.simplify.joined import operands
from graphopt_passes.simplify.reading import operand

from graphopt import Attr, DType, Node, Rewrite, Tensor, op, require, rule

_MOVING = (
    "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
)  # fmt: skip
_MOVED = frozenset([DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.INT8, DType.INT32, DType.INT64, DType.UINT8,
                    DType.BOOL])  # fmt: skip
_EXACT = {DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8,
          DType.UINT16, DType.UINT32, DType.UINT64, DType.BOOL}  # fmt: skip


def _moved(
    x: Tensor, a: Tensor | None, b: Tensor | None, c: Tensor | None, d: Tensor | None,
    there: Attr[int], back: Attr[int], n: Node,
) -> Tensor:  # fmt: skip
    return op.Cast(n.bind(op.any(*_MOVING)(op.Cast(x, to=there), a, b, c, d, ...)), to=back)


@rule(_moved, accuracy="exact", attrs={"there": DType.FLOAT.value, "back": DType.FLOAT16.value},
      shapes={"x": "f16: ..."})
def cast_around_move(
    x: Tensor, a: Tensor | None, b: Tensor | None, c: Tensor | None, d: Tensor | None, there: int, back: int, n: Node
) -> Tensor:
    """Elements that are cast to a wider type, moved and cast back are moved as they are."""
    require(x.dtype == back, "they are cast to another dtype than they had")
    require(holds(DType(there), x.dtype), "the dtype in between does not hold every element")
    require(x.dtype in _MOVED, "not every runtime moves elements of the dtype")
    given = [a, b, c, d]
    while given and given[-1] is None:
        given.pop()
    result: Tensor = op.any(n.op)(x, *given, **n.attrs)
    return result


def _like(x: Tensor, t: Tensor) -> Tensor:
    return op.CastLike(x, t)


@rule(_like, accuracy="exact", single_use=False, bounded=True)
def cast_like(x: Tensor, t: Tensor) -> Tensor:
    """A cast to the dtype of another tensor is one to a known dtype."""
    require(x.dtype != t.dtype, "the dtype stays")
    require(x.dtype in _EXACT and t.dtype in _EXACT, "a cast of or to this dtype is left alone")
    return op.Cast(x, to=t.dtype)


def casts_before_concat(rewrite: Rewrite, node: Node) -> None:
    """Casts of all that is joined are one cast of what they join."""
    casts = [v.producer for v in operands(node)]
    require(len(casts) > 1 and all(c is not None and c.op == "Cast" and c.is_standard for c in casts),
            "not everything that is joined is cast")
    makers = [c for c in casts if c is not None]
    require(all(v.use_count == 1 for v in operands(node)), "an interior value has other readers")
    require(len({(c.attr("to"), c.attr("saturate", 1)) for c in makers}) == 1, "they are cast to different dtypes")
    sources = [operand(c, 0) for c in makers]
    kinds = {v.dtype for v in sources if v is not None}
    require(len(kinds) == 1 and kinds <= _MOVED, "they are of different dtypes")
    joined = rewrite.node("Concat", sources, node.attrs)
    rewrite.replace(node.outputs[0], rewrite.node("Cast", joined, makers[0].attrs)[0])
