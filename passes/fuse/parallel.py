"""Several products or convolutions of one tensor as one.

Measured on ONNX Runtime's CPU kernels (medians of runs in turns, one thread, a busy machine): where a Concat joins the
results of convolutions again, one convolution takes 0.68 to 0.94 of the time, and there is no Concat any more. Where
results are used apart, a Split has to copy them: three products of at most 16 rows then take 0.87 to 1.01, of more
rows 0.89 to 1.58, and convolutions 0.84 to 1.34 of the time. So only few rows are split again, and convolutions never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt import Accuracy, Context, Node, Rewrite, Value, require

REWRITES = {
    "joined_products": "Products or convolutions of one tensor whose results are joined are one, with joined weights.",
    "parallel_matmul": "Products of the same few rows with several matrices are one, whose columns are taken apart.",
}
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_POINTWISE = frozenset(
    ["Abs", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu", "Selu",
     "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh"]
)  # fmt: skip
_FEW_ROWS = 16


def fuse_parallel(ctx: Context) -> None:
    """Merge products and convolutions of one tensor where that was measured not to be slower."""
    if ctx.accuracy < Accuracy.CLOSE:
        return
    for graph in list(ctx.model.graphs()):
        for node in graph.find("Concat"):
            if node.is_standard and node.alive and _longest(node) > 1:
                with ctx.rewrite("fuse.joined_products", at=node) as rewrite:
                    _join(rewrite, node)
        for node in graph.find("MatMul"):
            if node.is_standard and node.alive and len(others := _siblings(node)) > 1:
                with ctx.rewrite("fuse.parallel_matmul", at=node, sources=others) as rewrite:
                    _merge(rewrite, others)


# -- results that are joined again ----------------------------------------------------------------


def _join(rewrite: Rewrite, concat: Node) -> None:
    axis, rank = concat.attr("axis"), concat.outputs[0].rank
    require(isinstance(axis, int) and rank is not None, "the axis or the rank is not known")
    parts: list[Value] = []
    for run in _runs(concat):
        chains = [_chain(v) for v in run]
        if len(run) == 1:
            parts += run
            continue
        first = chains[0][-1]
        require(all(n.graph == concat.graph for chain in chains for n in chain), "a part stands outside of the body")
        require(axis % rank == (1 if first.op == "Conv" else rank - 1), "they are not joined along their channels")
        value = _product(rewrite, [chain[-1] for chain in chains])[0]
        for node in reversed(chains[0][:-1]):
            value = rewrite.node(node.op, [value, *node.inputs[1:]], node.attrs)[0]
        parts.append(value)
    joined = parts[0] if len(parts) == 1 else rewrite.node("Concat", parts, concat.attrs)[0]
    rewrite.replace(concat.outputs[0], joined)


def _longest(concat: Node) -> int:
    return max(len(run) for run in _runs(concat))


def _runs(concat: Node) -> list[list[Value]]:
    """The operands of a Concat, those next to each other that can be one put together."""
    runs: list[list[Value]] = []
    for value in concat.inputs:
        if value is None:
            continue
        if runs and _alike(runs[-1][-1], value):
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _chain(value: Value) -> list[Node]:
    """The product or convolution that makes a value, behind operators on each element; the last comes first."""
    found: list[Node] = []
    while value.use_count == 1 and (node := value.producer) is not None and node.is_standard:
        found.append(node)
        if node.op in _PRODUCTS:
            return found
        source = node.inputs[0]
        if node.op not in _POINTWISE or source is None:
            break
        value = source
    return []


def _alike(a: Value, b: Value) -> bool:
    """Whether the same is done with two values, but for the weights."""
    left, right = _chain(a), _chain(b)
    if not left or a == b or len(left) != len(right):
        return False
    return all(x.op == y.op for x, y in zip(left, right, strict=True)) and _fit(left[-1], right[-1]) and all(
        x.effective_attrs == y.effective_attrs and x.inputs[1:] == y.inputs[1:]
        for x, y in zip(left[:-1], right[:-1], strict=True)
    )


# -- results that are used apart ------------------------------------------------------------------


def _siblings(node: Node) -> list[Node]:
    """All products of the same left operand that can be one, if `node` is the first of them."""
    source = node.inputs[0]
    if source is None or node.inputs[1] is None or not node.inputs[1].is_const:
        return []
    readers = [r for r, index in source.uses() if index == 0 and r.op == "MatMul" and r.graph == node.graph]
    found: list[Node] = []
    for reader in dict.fromkeys(readers) if len(readers) > 1 else ():
        if reader.is_standard and _fit(node, reader):
            found.append(reader)
            if found[0] != node:
                return []
    return found


def _merge(rewrite: Rewrite, nodes: Sequence[Node]) -> None:
    source = nodes[0].inputs[0]
    shape = None if source is None else source.shape
    rows = None if shape is None or not shape else [n for n in shape[:-1] if isinstance(n, int)]
    require(shape is not None and rows is not None and len(rows) == len(shape) - 1, "the number of rows is not known")
    assert rows is not None
    require(0 < math.prod(rows) <= _FEW_ROWS, "to copy the columns of many rows costs more than it saves")
    require(not any(n.outputs[0].is_output for n in nodes), "the result is an output, to which it would be copied")
    whole, sizes = _product(rewrite, nodes)
    if nodes[0].version >= 13:
        split = [whole, rewrite.constant(np.array(sizes, np.int64), "split")]
        parts = rewrite.node("Split", split, {"axis": -1}, outputs=len(nodes))
    else:
        parts = rewrite.node("Split", [whole], {"axis": len(rows), "split": sizes}, outputs=len(nodes))
    for node, part in zip(nodes, parts, strict=True):
        rewrite.replace(node.outputs[0], part)


# -- weights --------------------------------------------------------------------------------------


def _fit(a: Node, b: Node) -> bool:
    """Whether two products or convolutions of one tensor differ in nothing but their weights, their own constants."""
    if a.op != b.op or a.inputs[0] != b.inputs[0] or a.inputs[0] is None:
        return False
    if a.effective_attrs != b.effective_attrs or a.attr("group", 1) != 1:
        return False
    pairs = [[v for v in node.inputs[1:] if v is not None] for node in (a, b)]
    if not all(v.is_const and v.use_count == 1 for v in (*pairs[0], *pairs[1])):
        return False
    x, y = (v[0].shape for v in pairs)
    if x is None or y is None or len(x) != len(y) or pairs[0][0].dtype != pairs[1][0].dtype:
        return False
    if a.op == "Conv":
        return x[1:] == y[1:]
    inner = 1 if a.attr("transB", 0) else 0
    vectors = a.op == "MatMul" or all(len(v) == 1 or _is_row(v[1], v[0].shape, inner) for v in pairs)
    return len(x) == 2 and x[inner] == y[inner] and vectors


def _is_row(bias: Value, weights: Any, inner: int) -> bool:
    return bias.shape == (weights[1 - inner],)


def _product(rewrite: Rewrite, nodes: Sequence[Node]) -> tuple[Value, list[int]]:
    """One product or convolution with the weights of all, and how many channels each of them has."""
    first = nodes[0]
    axis = 0 if first.op == "Conv" or first.attr("transB", 0) else 1
    weights = [np.asarray(n.inputs[1].array()) for n in nodes if n.inputs[1] is not None]
    sizes = [w.shape[axis] for w in weights]
    inputs = [first.inputs[0], rewrite.constant(np.concatenate(weights, axis), _name(first, 1))]
    biases = [n.inputs[2].array() if len(n.inputs) > 2 and n.inputs[2] is not None else None for n in nodes]
    if any(b is not None for b in biases):
        rows = [np.zeros(size, weights[0].dtype) if b is None else b for b, size in zip(biases, sizes, strict=True)]
        inputs.append(rewrite.constant(np.concatenate(rows), "bias"))
    return rewrite.node(first.op, inputs, first.attrs)[0], sizes


def _name(node: Node, index: int) -> str:
    value = node.inputs[index]
    return "weights" if value is None else value.name
