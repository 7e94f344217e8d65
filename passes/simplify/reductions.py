"""Reductions in a row, of axes of size 1, and of none."""

from __future__ import annotations

import numpy as np
from graphopt_passes.simplify.reading import from_front, ints

from graphopt import Attr, Const, DType, Node, Tensor, op, require, rule

_AS_INPUT = {"ReduceSum": 13}  # from which opset axes are an input
_AS_INPUT_OTHERS = 18
_CHAINED = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceMean")
_KEPT = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean")  # of one element these are that element
_NUMBERS = (DType.FLOAT, DType.DOUBLE, DType.FLOAT16)
_ONE = (*_KEPT, "ReduceL1", "ReduceLogSum")


def _two(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    return outer.bind(op.any(*_CHAINED)(inner.bind(op.any(*_CHAINED)(x, a, ...)), b, ...))


def _one(x: Tensor, a: Const | None, n: Node) -> Tensor:
    return n.bind(op.any(*_ONE)(x, a, ...))


def _index(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.any("ArgMax", "ArgMin")(x, ...))


def _index_neg(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.any("ArgMax", "ArgMin")(-x, ...))


def _index_cast(x: Tensor, to: Attr[int], n: Node) -> Tensor:
    return n.bind(op.any("ArgMax", "ArgMin")(op.Cast(x, to=to), ...))


@rule(_two, accuracy="close")
def reduce_reduce(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    """Two sums, means, maxima or minima in a row are one over the axes of both."""
    del a, b
    alike = inner.op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceL1")
    require(alike, "a part of the product may overflow")
    return _both(x, inner, outer)


@rule(_two, accuracy="fast")
def reduce_reduce_finite(x: Tensor, a: Const | None, b: Const | None, inner: Node, outer: Node) -> Tensor:
    """Two products in a row are one over the axes of both, if nothing overflows."""
    del a, b
    return _both(x, inner, outer)


@rule(_one, accuracy="close", single_use=False, bounded=True)
def reduce_of_one(x: Tensor, a: Const | None, n: Node) -> Tensor:
    """A reduction of axes of size 1 is the operand, without these axes if it does not keep them."""
    del a
    axes = _axes(n, x.rank)
    require(all(x.shape[i] == 1 for i in axes), "several elements are reduced")
    require(n.op in _KEPT or n.attr("keepdims", 1), "it takes two operators")
    if n.op in _KEPT and (n.attr("keepdims", 1) or not axes):
        return x
    if n.op not in _KEPT:
        require(x.dtype.is_floating_point(), "the operator is for floats")
        return op.Abs(x) if n.op == "ReduceL1" else op.Log(x)
    return op.Squeeze(x, sorted(axes)) if n.version >= 13 else op.Squeeze(x, axes=sorted(axes))


@rule(_index, accuracy="exact", single_use=False)
def index_of_one(x: Tensor, n: Node) -> Tensor:
    """Among one element the first is the largest."""
    axis, keep = n.attr("axis", 0), n.attr("keepdims", 1)
    require(isinstance(axis, int) and isinstance(keep, int), "the axis is an attribute of the function's caller")
    (place,) = from_front((axis,), x.rank)
    require(x.shape[place] == 1, "there are several elements")
    sizes = [s for i, s in enumerate(x.shape) if keep or i != place]
    require(all(isinstance(s, int) for s in sizes), "the shape is not fixed")
    result: Tensor = op.Identity(np.zeros([s for s in sizes if isinstance(s, int)], np.int64))
    return result


@rule(_index_neg, accuracy="exact")
def index_of_neg(x: Tensor, n: Node) -> Tensor:
    """The largest of the opposites is the smallest."""
    require(x.dtype.is_floating_point(), "the least integer has no opposite")
    result: Tensor = op.any("ArgMin" if n.op == "ArgMax" else "ArgMax")(x, **n.attrs)
    return result


@rule(_index_cast, accuracy="exact", attrs={"to": DType.INT64}, shapes={"x": "i32: ..."})
def index_of_cast(x: Tensor, to: int, n: Node) -> Tensor:
    """Integers that are cast to others which hold all of them keep their order."""
    holds = {DType.INT32: (DType.INT64, DType.DOUBLE), DType.UINT8: (DType.INT32, DType.INT64, DType.FLOAT),
             DType.INT8: (DType.INT32, DType.INT64, DType.FLOAT)}  # fmt: skip
    require(DType(to) in holds.get(x.dtype, ()), "the cast may make elements equal")
    require(x.dtype == DType.INT32 or n.version >= 13, "runtimes have no kernel for bytes at this opset")
    result: Tensor = op.any(n.op)(x, **n.attrs)
    return result


def _both(x: Tensor, inner: Node, outer: Node) -> Tensor:
    require(inner.op == outer.op, "the operators differ")
    require(not x.is_const, "everything is constant")
    exact = inner.op in ("ReduceMax", "ReduceMin")
    # ONNX Runtime adds up 32-bit integers in floats or not, depending on the axes.
    require(exact or x.dtype.is_floating_point(), "large sums of integers are rounded in different ways")
    keep = inner.attr("keepdims", 1)
    require(keep == outer.attr("keepdims", 1), "one of them keeps its dims")
    first = _axes(inner, x.rank)
    left = [i for i in range(x.rank) if keep or i not in first]
    axes = sorted({*first, *(left[i] for i in _axes(outer, len(left)))})
    if outer.version >= _AS_INPUT.get(outer.op, _AS_INPUT_OTHERS):
        return op.any(outer.op)(x, axes, keepdims=keep)
    return op.any(outer.op)(x, axes=axes, keepdims=keep)


def _axes(node: Node, rank: int) -> list[int]:
    """The axes that a reduction reduces, counted from the front."""
    axes = ints(node, 1, "axes", _AS_INPUT.get(node.op, _AS_INPUT_OTHERS))
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return from_front(axes, rank)


_HEADS = frozenset(["Conv", "Flatten", "Gemm", "MatMul", "Reshape", "Squeeze"])


def _mean(x: Tensor, a: Const, axes: Attr[list[int]], n: Node) -> Tensor:
    return n.bind(op.ReduceMean(x, a)) | n.bind(op.ReduceMean(x, axes=axes))


@rule(_mean, accuracy="close", single_use=False, bounded=True, shapes={"x": "f32: N C 4 5"}, attrs={"axes": [2, 3]})
def mean_of_image(x: Tensor, a: Const | None, axes: list[int] | None, n: Node) -> Tensor:
    """The mean over all of height and width, kept as axes of size 1, is GlobalAveragePool."""
    del a, axes
    require(x.dtype in (DType.FLOAT, DType.FLOAT16), "runtimes have no kernel of the operator for the dtype")
    require(2 < x.rank < 6, "runtimes pool one to three axes behind the channels")
    require(sorted(_axes(n, x.rank)) == list(range(2, x.rank)), "other axes are reduced")
    require(all(isinstance(s, int) and s > 0 for s in x.shape[2:]), "the size may be 0")
    # The mean of a normalization is better left as it is written: then the whole is one operator.
    readers = [reader.op for reader, _ in n.outputs[0].uses()]
    require(all(r in _HEADS for r in readers), "it is not what a head or a gate reads")
    return op.GlobalAveragePool(x)


def _softmax(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.any("Softmax", "LogSoftmax")(x, ...))


@rule(_softmax, accuracy="fast", single_use=False, shapes={"x": "2 3 1"})
def softmax_of_one(x: Tensor, n: Node) -> Tensor:
    """The share of one finite element in itself is 1, and its logarithm 0."""
    require(n.version >= 13, "before opset 13 several axes count")
    (axis,) = from_front((n.attr("axis", -1),), x.rank)
    require(x.shape[axis] == 1, "there are several elements")
    sizes = [s for s in x.shape if isinstance(s, int)]
    require(len(sizes) == x.rank and x.dtype in _NUMBERS, "the shape is not fixed")
    result: Tensor = op.Identity(np.full(sizes, n.op == "Softmax", x.dtype.numpy()))
    return result
