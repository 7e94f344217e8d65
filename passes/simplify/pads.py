"""Padding in front of a pool, or of a convolution of integers, becomes the padding of that operator."""

from __future__ import annotations

import numpy as np

from graphopt import Attr, Const, Node, Tensor, op, require, rule

_POOLED = {"x": "N C 6 6", "v": "", "axes": "2"}
_POOL = {"pads_attr": [0, 0, 1, 1, 0, 0, 1, 1], "value_attr": 0.0}


def _padded(x: Tensor, pads: Const, v: Const | None, axes: Const | None, pads_attr: Attr[list[int]],
            value_attr: Attr[float]) -> Tensor:  # fmt: skip
    return op.Pad(x, pads, v, axes) | op.Pad(x, pads=pads_attr, value=value_attr)


def _max_pool(
    x: Tensor, pads: Const, v: Const | None, axes: Const | None, pads_attr: Attr[list[int]], value_attr: Attr[float],
    pool: Node,
) -> Tensor:  # fmt: skip
    return pool.bind(op.MaxPool(_padded(x, pads, v, axes, pads_attr, value_attr), ...))


def _average_pool(
    x: Tensor, pads: Const, v: Const | None, axes: Const | None, pads_attr: Attr[list[int]], value_attr: Attr[float],
    pool: Node,
) -> Tensor:  # fmt: skip
    return pool.bind(op.AveragePool(_padded(x, pads, v, axes, pads_attr, value_attr), ...))


def _conv_integer(
    x: Tensor, pads: Const, v: Const | None, axes: Const | None, w: Tensor, zero: Const | None, other: Tensor | None,
    conv: Node,
) -> Tensor:  # fmt: skip
    return conv.bind(op.ConvInteger(op.Pad(x, pads, v, axes), w, zero, other, ...))


@rule(_max_pool, accuracy="fast", shapes=_POOLED, attrs=_POOL)
def pad_max_pool(
    x: Tensor, pads: Tensor | None, v: Tensor | None, axes: Tensor | None, pads_attr: list[int] | None,
    value_attr: float | None, pool: Node,
) -> Tensor:  # fmt: skip
    """Padding that no finite element is smaller than is padding of MaxPool, which ignores it."""
    # Whether ONNX Runtime finds a NaN in a window depends on where in the window it stands.
    fill = v.scalar if v is not None else 0.0 if value_attr is None else value_attr
    require(x.dtype.is_floating_point(), "the padding of integers is the least of them")
    require(fill == -np.inf or x.range[0] >= fill, "an element may be smaller than the padding")
    require(not any(o.use_count for o in pool.outputs[1:]), "its indices are used")
    return op.MaxPool(x, **{**pool.attrs, "pads": _total(x, pads, axes, pads_attr, pool), "auto_pad": None})


@rule(_average_pool, accuracy="close", shapes=_POOLED, attrs=_POOL)
def pad_average_pool(
    x: Tensor, pads: Tensor | None, v: Tensor | None, axes: Tensor | None, pads_attr: list[int] | None,
    value_attr: float | None, pool: Node,
) -> Tensor:  # fmt: skip
    """Zeros padded before AveragePool are padding that it counts."""
    fill = v.scalar if v is not None else 0.0 if value_attr is None else value_attr
    require(fill == 0, "it does not pad with zeros")
    own = pool.attr("pads")
    require(pool.attr("count_include_pad", 0) or not any(own or ()), "the pool does not count its own padding")
    total = _total(x, pads, axes, pads_attr, pool)
    return op.AveragePool(x, **{**pool.attrs, "pads": total, "auto_pad": None, "count_include_pad": 1})


@rule(_conv_integer, accuracy="exact", shapes={"x": "N C 6 6", "w": "K C 3 3", "zero": "", "v": "", "axes": "2"})
def pad_conv_integer(
    x: Tensor, pads: Tensor, v: Tensor | None, axes: Tensor | None, w: Tensor, zero: Tensor | None,
    other: Tensor | None, conv: Node,
) -> Tensor:  # fmt: skip
    """The zero point padded before a ConvInteger is its padding."""
    fill = 0 if v is None else v.scalar
    require(fill == (0 if zero is None else zero.scalar), "it does not pad with the zero point")
    first, last = _widths(x.rank, pads, axes, None)
    auto, own = conv.attr("auto_pad", "NOTSET"), conv.attr("pads")
    require(auto == "VALID" or auto == "NOTSET", "the padding depends on the size")
    before = own if own and auto == "NOTSET" else [0] * (2 * (x.rank - 2))
    total = [p + q for p, q in zip(before, [*first, *last], strict=True)]
    return op.ConvInteger(x, w, zero, other, **{**conv.attrs, "pads": total, "auto_pad": None})


def _total(
    x: Tensor, pads: Tensor | None, axes: Tensor | None, pads_attr: list[int] | None, pool: Node
) -> list[int]:  # fmt: skip
    """The pads of the pool with those in front of it. Declines where a window may hold nothing but padding."""
    first, last = _widths(x.rank, pads, axes, pads_attr)
    auto, own = pool.attr("auto_pad", "NOTSET"), pool.attr("pads")
    require(auto in ("VALID", "NOTSET"), "the padding depends on the size")
    require(not pool.attr("ceil_mode", 0), "the last windows may begin in the padding")
    require(set(pool.attr("dilations") or (1,)) <= {1}, "the windows are dilated")
    require(all(isinstance(s, int) and s > 0 for s in x.shape[2:]), "the size may be 0")
    kernel = pool.attr("kernel_shape")
    before = own if own and auto == "NOTSET" else [0] * (2 * (x.rank - 2))
    total = [int(p + q) for p, q in zip(before, [*first, *last], strict=True)]
    require(all(p < k for p, k in zip(total, [*kernel, *kernel], strict=True)), "the padding is as wide as a window")
    return total


def _widths(
    rank: int, pads: Tensor | None, axes: Tensor | None, pads_attr: list[int] | None
) -> tuple[list[int], list[int]]:
    """The widths before and behind each spatial axis. Declines padding of others, and crops."""
    amounts = list(pads.ints if pads is not None else pads_attr or ())
    named = list(range(rank)) if axes is None else [a % rank for a in axes.ints]
    require(rank > 2 and len(amounts) == 2 * len(named) == 2 * len(set(named)), "the padding is not well formed")
    require(min(amounts, default=0) >= 0, "the padding crops")
    first = dict(zip(named, amounts[: len(named)], strict=True))
    last = dict(zip(named, amounts[len(named) :], strict=True))
    require(not any(side.get(a, 0) for side in (first, last) for a in (0, 1)), "it pads batch or channels")
    return [first.get(a, 0) for a in range(2, rank)], [last.get(a, 0) for a in range(2, rank)]
