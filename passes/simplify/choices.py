"""Where between constants or truth values, and comparisons that are negated."""

from __future__ import annotations

from graphopt import DType, Node, Tensor, op, require, rule

_OPPOSITE = {
    "Less": "GreaterOrEqual", "LessOrEqual": "Greater", "Greater": "LessOrEqual", "GreaterOrEqual": "Less",
}  # fmt: skip


def _same_if_equal(x: Tensor, y: Tensor) -> Tensor:
    return op.Where(op.Equal(x, y), y, x)


def _one_or_zero(c: Tensor, n: Node) -> Tensor:
    return n.bind(op.Where(c, 1, 0))


def _negated(x: Tensor, y: Tensor, n: Node) -> Tensor:
    return op.Not(n.bind(op.any(*_OPPOSITE)(x, y)))


@rule(_same_if_equal, accuracy="close", single_use=False)
def where_equal(x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """Taking y where x equals it, and else x, is taking x, up to the sign of a zero."""
    return x


@rule(lambda c: op.Where(c, True, False), accuracy="exact", single_use=False)
def where_true_false(c: Tensor) -> Tensor:
    """True where a condition holds, and else false, is the condition."""
    return c


@rule(lambda c: op.Where(c, False, True), accuracy="exact", single_use=False, bounded=True)
def where_false_true(c: Tensor) -> Tensor:
    """False where a condition holds, and else true, is the opposite of the condition."""
    return op.Not(c)


@rule(lambda c, x: op.Where(c, x, False), accuracy="exact", single_use=False, bounded=True)
def where_and(c: Tensor, x: Tensor) -> Tensor:
    """A truth value where a condition holds, and else false, is both of them."""
    require(x.dtype == DType.BOOL, "x is no truth value")
    return op.And(c, x)


@rule(lambda c, x: op.Where(c, True, x), accuracy="exact", single_use=False, bounded=True)
def where_or(c: Tensor, x: Tensor) -> Tensor:
    """True where a condition holds, and else a truth value, is either of them."""
    require(x.dtype == DType.BOOL, "x is no truth value")
    return op.Or(c, x)


@rule(_one_or_zero, accuracy="exact", single_use=False, bounded=True)
def where_one_zero(c: Tensor, n: Node) -> Tensor:
    """1 where a condition holds, and else 0, is the condition as a number."""
    require(not c.is_const, "everything is constant")
    kind = n.outputs[0].dtype
    require(kind is not None and (kind.is_floating_point() or kind.is_integer()), "it is no number")
    return op.Cast(c, to=kind)


@rule(_negated, accuracy="exact", shapes={"x": "i32: ...", "y": "i32: ..."})
def not_comparison(x: Tensor, y: Tensor, n: Node) -> Tensor:
    """Of integers, what is not less is greater or equal, and the other way round."""
    require(x.dtype.is_integer(), "with NaN neither of both holds")
    result: Tensor = op.any(_OPPOSITE[n.op])(x, y)
    return result


@rule(_negated, accuracy="fast")
def not_comparison_finite(x: Tensor, y: Tensor, n: Node) -> Tensor:
    """Of numbers, what is not less is greater or equal, and the other way round."""
    result: Tensor = op.any(_OPPOSITE[n.op])(x, y)
    return result
