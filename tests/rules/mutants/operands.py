"""Operands that change places, comparisons and bounds, types."""

from __future__ import annotations

from graphopt import Attr, Const, DType, Tensor, many, op, require, rule

_MATRIX = {"x": "N N", "y": "N N"}


# -- operands that change places ------------------------------------------------------------------


@rule(lambda x, y: -(x - y), accuracy="exact")
def negated_difference(x: Tensor, y: Tensor) -> Tensor:
    """It is y − x."""
    return x - y


@rule(lambda x, y: op.Reciprocal(x / y), accuracy="close")
def inverted_quotient(x: Tensor, y: Tensor) -> Tensor:
    """It is y / x."""
    return x / y


@rule(lambda x, y: op.Transpose(op.Transpose(x) @ op.Transpose(y)), shapes=_MATRIX)
def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """(XᵀYᵀ)ᵀ is YX."""
    return x @ y


@rule(lambda c, x, y: op.Where(op.Not(c), x, y), accuracy="exact")
def where_not_kept(c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """On the negated condition the operands change places."""
    return op.Where(c, x, y)


@rule(lambda x, y: op.Where(True, x, y), accuracy="exact", single_use=False)
def where_true_takes_the_other(x: Tensor, y: Tensor) -> Tensor:
    """A true condition takes the first."""
    return y


def _joined(xs: list[Tensor], axis: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, each=op.Relu), axis=axis)


@rule(_joined, accuracy="exact", bounded=True)
def concat_backwards(xs: list[Tensor], axis: int) -> Tensor:
    """The order of the operands is lost."""
    return op.Relu(op.Concat(*reversed(xs), axis=axis))


def _apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = op.Split(op.Concat(x, y, axis=-1), axis=-1, num_outputs=2, nout=2)
    return first, second


@rule(_apart, accuracy="exact", shapes={"x": "N C", "y": "N C"})
def split_the_other_way(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs change places."""
    return y, x


def _two_products(x: Tensor, v: Const, w: Const) -> tuple[Tensor, Tensor]:
    return x @ v, x @ w


@rule(_two_products, bounded=True, single_use=False, shapes={"x": "N K", "v": "K M", "w": "K M"})
def products_with_one_output(x: Tensor, v: Const, w: Const) -> tuple[Tensor, Tensor]:
    """The second output is the first half once more."""
    require(v.value is not w.value, "the weights are the same")
    joined = x @ op.Concat(v, w, axis=1)
    first, _ = op.Split(joined, [v.shape[1], w.shape[1]], axis=1, nout=2)
    return first, first


# -- comparisons, bounds --------------------------------------------------------------------------


@rule(lambda x, y: op.Not(op.Less(x, y)), accuracy="exact")
def not_less(x: Tensor, y: Tensor) -> Tensor:
    """What is not less may be equal."""
    return op.Greater(x, y)


@rule(lambda x, y: op.Not(op.Less(x, y)), accuracy="exact")
def not_less_nor_nan(x: Tensor, y: Tensor) -> Tensor:
    """NaN is neither less, nor greater or equal."""
    return op.GreaterOrEqual(x, y)


@rule(lambda a, b: op.Not(op.And(op.Not(a), op.Not(b))), accuracy="exact")
def half_of_de_morgan(a: Tensor, b: Tensor) -> Tensor:
    """Neither becomes either, not both."""
    return op.And(a, b)


@rule(lambda x: op.Equal(x, x), accuracy="exact", bounded=True)
def equal_to_itself(x: Tensor) -> Tensor:
    """NaN is not."""
    return op.Cast(op.ConstantOfShape(op.Shape(x)) + 1, to=DType.BOOL.value)


@rule(lambda x, y: -op.Max(-x, -y), accuracy="exact")
def largest_for_smallest(x: Tensor, y: Tensor) -> Tensor:
    """The negative of the largest negative is the smallest."""
    return op.Max(x, y)


_BOUNDS = {"x": "N C", "low": "", "high": ""}


def _bounded(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Min(op.Max(x, low), high)


@rule(_bounded, accuracy="exact", shapes=_BOUNDS)
def clip_upside_down(x: Tensor, low: Const, high: Const) -> Tensor:
    """The bounds change places."""
    return op.Clip(x, high, low)


@rule(_bounded, accuracy="exact", shapes=_BOUNDS)
def clip_without_ceiling(x: Tensor, low: Const, high: Const) -> Tensor:
    """The upper bound is lost."""
    return op.Clip(x, low)


def _clip_of_crossed_bounds(x: Tensor, low: Const, high: Const) -> Tensor:
    return op.Max(op.Min(x, high), low)


@rule(_clip_of_crossed_bounds, accuracy="exact", shapes=_BOUNDS)
def clip_of_crossed_bounds(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where the lower bound is above the upper one, Clip gives the upper one, and this the lower."""
    return op.Clip(x, low, high)


def _clipped_twice(x: Tensor, low: Const, high: Const, low2: Const, high2: Const) -> Tensor:
    return op.Clip(op.Clip(x, low, high), low2, high2)


@rule(_clipped_twice, accuracy="exact", shapes={**_BOUNDS, "low2": "", "high2": ""})
def clip_by_the_outer_bounds(x: Tensor, low: Const, high: Const, low2: Const, high2: Const) -> Tensor:
    """The inner bounds are lost."""
    return op.Clip(x, low2, high2)


# -- types ----------------------------------------------------------------------------------------


def _to_and_back(x: Tensor, to: Attr[int], back: Attr[int]) -> Tensor:
    return op.Cast(op.Cast(x, to=to), to=back)


@rule(_to_and_back, accuracy="exact", shapes={"x": "f32:N C"}, attrs={"to": [DType.INT8.value, DType.INT32.value]})
def cast_through_integers(x: Tensor, to: int, back: int) -> Tensor:
    """The fraction is lost between the two."""
    require(back == x.dtype.value, "another dtype")
    return x


@rule(lambda x: op.Cast(op.Cast(x, to=DType.FLOAT16.value), to=DType.FLOAT.value), shapes={"x": "f32:N C"})
def cast_through_half(x: Tensor) -> Tensor:
    """Thirteen bits are lost between the two."""
    return x
