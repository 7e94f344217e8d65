"""Matrix products with the transposes and the factors around them, in one operator.

A factor moves from an operand to the product, which overflows elsewhere: those rules are for finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from graphopt_passes.contrib.operators import ms

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_SHAPES = {"a": "f32: B H M K", "b": "B H K N"}
_SCALED = {**_SHAPES, **dict.fromkeys(("a_mul", "a_div", "b_mul", "b_div", "mul", "div"), "+")}
_SCALED = {name: "" if name not in _SHAPES else hint for name, hint in _SCALED.items()}


def _product(a: Tensor, b: Tensor, node: Node) -> Tensor:
    return node.bind(op.MatMul(a, b)) | node.bind(ms.FusedMatMul(a, b, ...))


def _transposed(
    a: Tensor, b: Tensor, a_perm: Attr[list[int]], b_perm: Attr[list[int]], a_turn: Node, b_turn: Node, node: Node
) -> Tensor:
    left, right = a_turn.bind(op.Transpose(a, perm=a_perm)), b_turn.bind(op.Transpose(b, perm=b_perm))
    return _product(left, right, node) | _product(left, b, node) | _product(a, right, node)


@rule(
    _transposed, accuracy="close", single_use=False, bounded=True,
    shapes={"a": "f32: B H K M", "b": "B H N K"}, attrs={"a_perm": [0, 1, 3, 2], "b_perm": [0, 1, 3, 2]},
)  # fmt: skip
def matmul_transposed(
    a: Tensor, b: Tensor, a_perm: list[int] | None, b_perm: list[int] | None, a_turn: Node | None,
    b_turn: Node | None, node: Node,
) -> Tensor:  # fmt: skip
    """A product of transposed matrices is FusedMatMul, which reads them as they are."""
    _require_kernel(a, b)
    attrs = dict(node.attrs)
    for side, x, perm, turn in (("A", a, a_perm, a_turn), ("B", b, b_perm, b_turn)):
        if turn is not None:
            attrs.update(_flags(side, perm, x.rank, node))
    batched = attrs.get("transBatchA") or attrs.get("transBatchB")
    require(not batched or a.rank == b.rank, "operands with transposed batches have different ranks")
    return ms.FusedMatMul(a, b, **attrs)


def _flags(side: str, perm: Sequence[int] | None, rank: int, node: Node) -> dict[str, int | None]:
    """The flags with which the product reads an operand as it does now, but for its Transpose in front."""
    order = list(range(rank))
    forms = {
        tuple(_permuted(order, rows=rows, batches=batches)): (rows, batches)
        for rows in (False, True) for batches in ((False, True) if rank > 2 else (False,))
    }  # fmt: skip
    now = order[::-1] if perm is None else list(perm)
    attrs = node.attrs
    read = _permuted(now, rows=bool(attrs.get(f"trans{side}")), batches=bool(attrs.get(f"transBatch{side}")))
    require(tuple(read) in forms, "the product cannot transpose like this")
    rows, batches = forms[tuple(read)]
    return {f"trans{side}": 1 if rows else None, f"transBatch{side}": 1 if batches else None}


def _permuted(axes: list[int], *, rows: bool, batches: bool) -> list[int]:
    """The axes of an operand as FusedMatMul reads them: the first goes behind the batches, then the last two swap."""
    moved = [*axes[1:-1], axes[0], axes[-1]] if batches else axes
    return [*moved[:-2], moved[-1], moved[-2]] if rows else moved


def _with_scaled_operands(
    a: Tensor, b: Tensor, a_mul: Const, a_div: Const, b_mul: Const, b_div: Const, node: Node
) -> Tensor:
    left, right = a * a_mul | a / a_div, b * b_mul | b / b_div
    return _product(left, right, node) | _product(left, b, node) | _product(a, right, node)


@rule(_with_scaled_operands, accuracy="fast", single_use=False, bounded=True,
      shapes={k: v for k, v in _SCALED.items() if k not in ("mul", "div")})  # fmt: skip
def matmul_scaled_operands(
    a: Tensor, b: Tensor, a_mul: Tensor | None, a_div: Tensor | None, b_mul: Tensor | None, b_div: Tensor | None,
    node: Node,
) -> Tensor:  # fmt: skip
    """A product of a matrix times a number is FusedMatMul with that number as its alpha."""
    pairs = ((a_mul, a), (a_div, a), (b_mul, b), (b_div, b))
    require(all(c is None or c.broadcasts_into(x) for c, x in pairs), "the number makes the matrix larger")
    return _scaled(a, b, (a_mul, b_mul), (a_div, b_div), node)


def _scaled_product(a: Tensor, b: Tensor, mul: Const, div: Const, node: Node) -> Tensor:
    y = _product(a, b, node)
    return y * mul | y / div


@rule(_scaled_product, accuracy="fast", shapes={**_SHAPES, "mul": "", "div": ""})
def matmul_scaled(a: Tensor, b: Tensor, mul: Tensor | None, div: Tensor | None, node: Node) -> Tensor:
    """A matrix product times a number is FusedMatMul with that number as its alpha."""
    return _scaled(a, b, (mul,), (div,), node)


def _scaled(
    a: Tensor, b: Tensor, factors: Sequence[Tensor | None], divisors: Sequence[Tensor | None], node: Node
) -> Tensor:
    _require_kernel(a, b)
    numbers = [c.scalar for c in factors if c is not None]
    under = [c.scalar for c in divisors if c is not None]
    require(all(math.isfinite(c) and c != 0 for c in (*numbers, *under)), "a factor is zero or not finite")
    alpha = node.attr("alpha", 1.0) * math.prod(numbers) / math.prod(under)
    require(_is_normal(alpha), "the product of the factors is no normal float32")
    require(a.dtype == DType.FLOAT or np.float32(alpha) == alpha, "an attribute does not hold the factor")
    return ms.FusedMatMul(a, b, **{**node.attrs, "alpha": alpha})


def _is_normal(number: float) -> bool:
    limits = np.finfo(np.float32)
    return float(limits.tiny) <= abs(number) <= float(limits.max)


def _require_kernel(a: Tensor, b: Tensor) -> None:
    require(a.dtype in (DType.FLOAT, DType.DOUBLE), "the kernel is for float32 and double")
    require(a.rank >= 2 and b.rank >= 2, "an operand is a vector")
    require(not any(size == 0 for size in (*a.shape, *b.shape)), "an operand is empty")
