"""Constants that act on each channel of a product or convolution, but after its axes were moved or split.

They are moved in front of the Transposes and Reshapes, where other rules make them weights and bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from graphopt_passes.fuse.carried import Array, carried_back

from graphopt import Accuracy, Context, Node, Rewrite, Value, require

REWRITES = {"before_moves": "A constant per channel acts before axes are moved, where it can become part of weights."}
_AFFINE = ("Add", "BatchNormalization", "Div", "Mul", "Sub")
_MOVES = frozenset(["Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
_CONVOLUTIONS = frozenset(["Conv", "ConvTranspose"])


def fuse_through(ctx: Context) -> None:
    """Move constants that act on channels next to the operators whose weights they can become part of."""
    if ctx.accuracy < Accuracy.CLOSE or ctx.ignores("fuse.before_moves"):
        return
    for graph in list(ctx.model.graphs()):
        for node in graph.find(*_AFFINE):
            if node.is_standard and node.alive and (moved := _moved(node)) is not None and moves_of(moved):
                with ctx.rewrite("fuse.before_moves", at=node) as rewrite:
                    _advance(rewrite, node, moved)


def _advance(rewrite: Rewrite, node: Node, moved: Value) -> None:
    moves = moves_of(moved)
    source = moves[-1].inputs[0]
    assert source is not None
    require(moved.dtype is not None and moved.dtype.is_floating_point(), "integers wrap around")
    require(node.version >= 7, "before opset 7 operands broadcast otherwise")
    require(all(move.graph == node.graph for move in moves), "the axes are moved outside of the body")
    current = source
    steps = _steps(node, moved)
    for op, first, constant in steps:
        array = carried_back(constant, moves)
        require_weights(source, array, adds=op in ("Add", "Sub") and len(steps) == 1)
        made = rewrite.constant(array, "channel")
        current = rewrite.node(op, [current, made] if first else [made, current])[0]
    for move in reversed(moves):
        before = move.inputs[0]
        assert before is not None
        current = rewrite.copy(move, {before: current})[0]
    rewrite.replace(node.outputs[0], current)


def _moved(node: Node) -> Value | None:
    """The operand that is no constant, if the others are."""
    given = [v for v in node.inputs if v is not None]
    if node.op == "BatchNormalization":
        return given[0] if all(v.is_const for v in given[1:]) else None
    constant = [v.is_const for v in given]
    if len(given) != 2 or constant not in ([False, True], [True, False]) or (node.op == "Div" and constant[0]):
        return None
    return given[constant.index(False)]


def moves_of(value: Value) -> list[Node]:
    """The operators that only move elements, from the last to the first, with nobody else reading in between."""
    found: list[Node] = []
    while value.use_count == 1 and (node := value.producer) is not None and node.op in _MOVES and node.is_standard:
        source = node.inputs[0]
        if source is None:
            break
        found.append(node)
        value = source
    return found if found and value.use_count == 1 else []


def _steps(node: Node, moved: Value) -> list[tuple[str, bool, Array]]:
    """What the node does: operators, whether the tensor is their first operand, and constants of the tensor's rank."""
    rank = moved.rank
    require(rank is not None, "the rank is not known")
    assert rank is not None
    if node.op == "BatchNormalization":
        return _normalization(node, rank)
    index = 0 if node.inputs[0] == moved else 1
    other = node.inputs[1 - index]
    array = None if other is None else other.array()
    require(array is not None and array.ndim <= rank, "the constant raises the rank")
    assert array is not None
    return [(node.op, index == 0, array.reshape((1,) * (rank - array.ndim) + array.shape))]


def _normalization(node: Node, rank: int) -> list[tuple[str, bool, Array]]:
    require(not node.attr("training_mode", 0), "BatchNormalization is in training")
    require(sum(bool(o.name) for o in node.outputs) == 1, "BatchNormalization also gives its statistics")
    require(rank >= 2, "the input has no channels")
    arrays = [v.array() for v in node.inputs[1:] if v is not None]
    require(len(arrays) == 4 and len({a.dtype for a in arrays if a is not None}) == 1, "the parameters differ in type")
    gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + float(node.attr("epsilon", 1e-5)))
        shift = beta - mean * scale
    dtype = arrays[0].dtype  # type: ignore[union-attr]
    shape = (1, -1) + (1,) * (rank - 2)
    return [(op, True, a.astype(dtype).reshape(shape)) for op, a in (("Mul", scale), ("Add", shift))]


def require_weights(source: Value, array: Array, adds: bool = False) -> None:
    """Decline where a constant cannot become part of the weights or the bias of what makes `source`.

    `adds`: whether it is only added, so that nothing is gained unless there is a bias.
    """
    require(bool(np.isfinite(np.asarray(array, np.float64)).all()), "a constant is not finite")
    node = source.producer
    require(node is not None and node.is_standard, "it is no product or convolution that is moved")
    assert node is not None
    if node.op == "Add":
        node = _product(node)
    elif node.op == "MatMul":
        left = node.inputs[0]
        require(not adds or (left is not None and left.rank == 2), "a product of batches has no bias")
    require(node.op in ("Gemm", "MatMul", *_CONVOLUTIONS), "it is no product or convolution that is moved")
    operands: list[Any] = [v for v in node.inputs[1:] if v is not None]
    require(all(v.is_const for v in operands), "the weights are not constant")
    require(node.op in _CONVOLUTIONS or operands[0].use_count == 1, "the weights have other readers")
    require(node.op in _CONVOLUTIONS or operands[0].rank == 2, "the weights are several matrices")
    axis = 1 if node.op in _CONVOLUTIONS else array.ndim - 1
    varies = [i for i, n in enumerate(array.shape) if n != 1]
    require(varies in ([], [axis]), "the constant varies along other axes than the channels")


def _product(add: Node) -> Node:
    """The product that a constant is added to."""
    given = [v for v in add.inputs if v is not None]
    products = [v.producer for v in given if v.producer is not None and v.producer.op == "MatMul" and v.use_count == 1]
    fits = len(products) == 1 and sum(v.is_const for v in given) == 1
    require(fits and products[0].is_standard, "it is no product with a constant bias that is moved")
    return products[0]
