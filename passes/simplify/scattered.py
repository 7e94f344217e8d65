"""Gather, GatherND and ScatterND with fixed places that plainer operators take, or that are all places there are."""

from __future__ import annotations

import math

import numpy as np
from graphopt_passes.simplify.joined import rank_of, size_along
from graphopt_passes.simplify.reading import fixed, operand, same_sizes

from graphopt import Const, Node, Rewrite, Tensor, Value, op, require, rule


def _gather_nd(x: Tensor, i: Const, n: Node) -> Tensor:
    return n.bind(op.GatherND(x, i, ...))


@rule(_gather_nd, accuracy="exact", single_use=False, bounded=True, shapes={"x": "N C D", "i": "M 1"})
def gather_nd_rows(x: Tensor, i: Const, n: Node) -> Tensor:
    """A GatherND of whole rows is a Gather."""
    require(n.attr("batch_dims", 0) == 0, "it gathers from each of a batch")
    array = i.array
    require(array.ndim > 0 and array.shape[-1] == 1, "the places have several axes")
    return op.Gather(x, np.ascontiguousarray(array[..., 0]), axis=0)


def gather_range(rewrite: Rewrite, node: Node) -> None:
    """A Gather of elements at equal distances is a Slice, or all there is."""
    x, indices = operand(node, 0), operand(node, 1)
    assert x is not None and indices is not None
    require(indices.is_const and indices.rank == 1, "there is one index, or they are not fixed")
    require(x.symbolic is None, "it takes sizes out of a shape")
    axis, rank = node.attr("axis", 0), rank_of(node)
    require(isinstance(axis, int), "the axis is not fixed")
    axis %= max(rank, 1)
    size, wanted = size_along(x, axis), fixed(indices)
    require(isinstance(size, int) and wanted, "the size of the axis is not fixed")
    assert isinstance(size, int) and wanted
    require(all(-size <= i < size for i in wanted), "an index is out of range")
    places = [i % size for i in wanted]
    step = places[1] - places[0] if len(places) > 1 else 1
    require(step > 0 and places == list(range(places[0], places[-1] + 1, step)), "the distances are not equal")
    if places == list(range(size)):
        rewrite.replace(node.outputs[0], x)
        return
    end = places[-1] + 1
    if node.version < 10:
        require(step == 1, "Slice takes no steps at this opset")
        made = rewrite.node("Slice", [x], {"starts": [places[0]], "ends": [end], "axes": [axis]})
    else:
        numbers = [places[0], end, axis] + ([step] if step > 1 else [])
        made = rewrite.node("Slice", [x, *(rewrite.constant(np.array([i], np.int64), "slice_range") for i in numbers)])
    rewrite.replace(node.outputs[0], made[0])


def scatter_everything(rewrite: Rewrite, node: Node) -> None:
    """A ScatterND that writes every element is what it writes, in the order of the places."""
    x, indices, updates = (operand(node, i) for i in range(3))
    assert x is not None and indices is not None and updates is not None
    require(node.attr("reduction", "none") == "none", "it adds up")
    require(same_sizes(x.shape, updates.shape), "it does not write as much as there is")
    assert x.shape is not None
    if _all_rows(indices, x.shape[0] if x.shape else None):
        rewrite.replace(node.outputs[0], updates)
        return
    array = indices.array()
    require(array is not None and array.ndim > 1, "the places are not fixed")
    assert array is not None
    sizes = x.shape[: array.shape[-1]]
    require(all(isinstance(s, int) for s in sizes), "the shape is not fixed")
    known = [s for s in sizes if isinstance(s, int)]
    require(list(array.shape[:-1]) == known, "the places are in another shape")
    places = array.reshape(-1, array.shape[-1])
    require(bool(np.all((places >= -np.array(known)) & (places < np.array(known)))), "a place is out of range")
    order = np.ravel_multi_index(tuple((places % np.array(known)).T), known) if known else np.zeros(1, np.int64)
    require(len(np.unique(order)) == math.prod(known), "a place is written twice, and another one not at all")
    if np.array_equal(order, np.arange(len(order))):
        rewrite.replace(node.outputs[0], updates)
        return
    require(len(known) == 1, "the places have several axes, in another order")
    inverse = rewrite.constant(np.argsort(order).astype(np.int64), "rows")
    rewrite.replace(node.outputs[0], rewrite.node("Gather", [updates, inverse], {"axis": 0})[0])


def _all_rows(indices: Value, size: object) -> bool:
    """Whether the places are 0, 1, 2, …, one in a row, up to the size: a Range with an axis put behind."""
    producer = indices.producer
    while producer is not None and producer.is_standard and producer.op in ("Unsqueeze", "Reshape", "Cast"):
        source = operand(producer, 0)
        producer = None if source is None else source.producer
    if producer is None or producer.op != "Range" or not producer.is_standard or size is None:
        return False
    shape = indices.shape
    if shape is None or len(shape) != 2 or shape[1] != 1 or shape[0] != size:
        return False
    bounds = [v.symbolic if v is not None else None for v in producer.inputs]
    return [b[0] if b is not None and len(b) == 1 else None for b in bounds] == [0, size, 1]
