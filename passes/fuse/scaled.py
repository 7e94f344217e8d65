"""A number times a product of two tensors, as the scores of attention are scaled, in the weights of one of them.

(x W) k · c is (x (c W)) k. Between the two products there may be operators that only move elements. Only numbers up
to 1 are moved, so that nothing overflows that did not; and none in half precision, where small weights that become
smaller are no longer normal numbers.
"""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.scores import factor_of
from graphopt_passes.fuse.through import moves_of, require_weights

from graphopt import Accuracy, Context, Decline, DType, Node, Rewrite, Value, require

REWRITES = {
    "scaled_scores": "A number times the product of two tensors goes into the weights that one of them is made with.",
}
_LEAST = 2.0**-10  # of the numbers: scores are scaled by the root of a head's size, or by the size
_DTYPES = {DType.FLOAT: np.float32, DType.DOUBLE: np.float64}


def fuse_scaled(ctx: Context) -> None:
    """Move numbers by which products of two tensors are scaled to where they can become part of weights."""
    if ctx.accuracy < Accuracy.CLOSE:
        return
    for graph in list(ctx.model.graphs()):
        for node in graph.find("Mul", "Div"):
            if node.is_standard and node.alive and (product := _product(node)) is not None:
                with ctx.rewrite("fuse.scaled_scores", at=node) as rewrite:
                    _advance(rewrite, node, product)


def _product(node: Node) -> Node | None:
    """The product of two tensors that are no constants, if nothing but `node` reads it."""
    for value in node.inputs:
        made = None if value is None else value.producer
        if made is not None and made.op == "MatMul" and made.is_standard and value is not None:
            computed = not any(v is None or v.is_const for v in made.inputs)
            return made if computed and value.use_count == 1 and made.graph == node.graph else None
    return None


def _advance(rewrite: Rewrite, node: Node, product: Node) -> None:
    found = factor_of(node)
    require(found is not None, "the scores are not scaled by one number")
    require(node.version >= 7, "before opset 7 operands broadcast otherwise")
    assert found is not None
    require(_LEAST <= abs(found[1]) <= 1, "the number is not between a thousandth and 1")
    for operand in product.inputs:
        chain = None if operand is None else _chain(operand, product)
        if operand is not None and chain is not None:
            (scaled,) = rewrite.copy(product, {operand: _scaled(rewrite, operand, chain, found[1])})
            rewrite.replace(node.outputs[0], scaled)
            return
    raise Decline("no operand is made with weights")


def _chain(operand: Value, product: Node) -> list[Node] | None:
    """What moves an operand behind the product with weights that makes it; None if it is not made so."""
    moves = moves_of(operand)
    source = moves[-1].inputs[0] if moves else operand
    if operand.use_count != 1:
        return None
    if source is None or source.rank is None or source.producer is None:
        return None
    if any(n.graph != product.graph for n in (*moves, source.producer)):
        return None
    try:
        require_weights(source, np.ones((1,) * source.rank))
    except Decline:
        return None
    return moves


def _scaled(rewrite: Rewrite, operand: Value, moves: list[Node], number: float) -> Value:
    """The operand again, with what it is made from multiplied by a number."""
    source = moves[-1].inputs[0] if moves else operand
    assert source is not None and source.dtype is not None
    require(source.dtype in _DTYPES, "small weights may be no longer normal numbers")
    factor = rewrite.constant(np.array(number, _DTYPES[source.dtype]), "scale")
    current = rewrite.node("Mul", [source, factor])[0]
    for move in reversed(moves):
        before = move.inputs[0]
        assert before is not None
        current = rewrite.copy(move, {before: current})[0]
    return current
