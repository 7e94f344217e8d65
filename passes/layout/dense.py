"""A Transpose in front of a dense layer: its weights take the order instead."""

from __future__ import annotations

import math

from graphopt_passes.simplify.reading import reshape_target, result_shape

from graphopt import Attr, Const, Node, Tensor, op, require, rule

_LARGEST = 1 << 26  # elements of weights that are put into another order


def _flattened(
    x: Tensor, w: Const, b: Tensor | None, shape: Tensor | None, perm: Attr[list[int]], flat: Node, dense: Node
) -> Tensor:
    turned = op.Transpose(x, perm=perm)
    rows = flat.bind(op.Reshape(turned, shape, ...)) | flat.bind(op.Flatten(turned, axis=1))
    return dense.bind(op.MatMul(rows, w)) | dense.bind(op.Gemm(rows, w, b, ..., transA=0))


@rule(_flattened, bounded=True, shapes={"x": "f32: N 2 3 4", "w": "24 5", "b": "5"}, attrs={"perm": [0, 2, 3, 1]})
def transpose_dense(
    x: Tensor, w: Tensor, b: Tensor | None, shape: Tensor | None, perm: list[int] | None, flat: Node, dense: Node
) -> Tensor:
    """A matrix product of what was transposed and flattened takes its rows of weights in the order before that."""
    del shape  # what the Reshape makes is known from its result
    sizes, flattened = x.shape, result_shape(flat)
    require(perm is not None and sorted(perm) == list(range(len(sizes))) and perm[0] == 0, "the first axis moves")
    assert perm is not None
    inner = [size for size in sizes[1:] if isinstance(size, int)]
    require(len(inner) == len(sizes) - 1 and 0 not in inner, "the sizes of what is flattened are not fixed")
    require(flattened == (sizes[0], math.prod(inner)), "not all axes but the first are flattened")
    require(w.rank == 2 and w.uses == 1, "the weights are no matrix of this operator's own")
    rows_and_columns = [size for size in w.shape if isinstance(size, int)]
    require(math.prod(rows_and_columns) <= _LARGEST, "the weights are too large")
    before = [inner[axis - 1] for axis in perm[1:]]
    order = [perm.index(axis) - 1 for axis in range(1, len(perm))]
    if dense.op == "Gemm" and dense.attr("transB", 0):
        blocks = op.Transpose(op.Reshape(w, [rows_and_columns[0], *before]), perm=[0, *(place + 1 for place in order)])
        weights = op.Reshape(blocks, rows_and_columns)
    else:
        blocks = op.Transpose(op.Reshape(w, [*before, rows_and_columns[1]]), perm=[*order, len(order)])
        weights = op.Reshape(blocks, rows_and_columns)
    rows = op.Reshape(x, reshape_target(sizes, flattened))
    return op.MatMul(rows, weights) if dense.op == "MatMul" else op.Gemm(rows, weights, b, **dense.attrs)
