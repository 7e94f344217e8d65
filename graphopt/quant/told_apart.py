"""How far a range has to reach: what every reader of a value takes for the same need not be told apart by integers.

HardSwish is 0 for all that is below -3, a Sigmoid hardly moves beyond 8. A convolution in front of one may well give
-57, and with that in its range, half of the integers would stand for numbers that make no difference.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from graphopt.quant.ranges import Range

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value
    from graphopt.quant.place import Pair, Plan

__all__ = ["told_apart"]

_EVERYTHING = (-math.inf, math.inf)
_SAME = {
    "HardSwish": (-3.0, math.inf),
    "Relu": (0.0, math.inf),
    "Sigmoid": (-8.0, 8.0),
    "Tanh": (-4.5, 4.5),
    "Gelu": (-4.0, math.inf),
    "Swish": (-10.0, math.inf),
    "Softplus": (-8.0, math.inf),
}
"""Beyond these, an operator's output changes by less than 5e-4, a tenth of a step of what reaches 1 in 8 bits."""
_NEVER_FLAT = ("Sigmoid", "Softplus", "Tanh")
"""What they give for large numbers still differs, by ever less, which a logarithm or a quotient makes much of."""
_FORGIVING = ("Add", "Conv", "ConvTranspose", "Gemm", "MatMul", "Mul")
_GATES = {"Sigmoid": -10.0}  # of a product with itself: x * Sigmoid(x)


def told_apart(placement: Plan) -> dict[Value, Range]:
    """The ranges that the readers of values need at most, for those that need less than everything.

    Only for values with a scale of their own: one that moves on is needed by others, too.
    """
    likes = Counter(value for pair in placement.pairs for value in (pair.like, *pair.also))
    found = {}
    for pair in placement.pairs:
        if pair.fixed is None and pair.like == pair.value and not pair.also and likes[pair.like] == 1:
            low, high = _needed(pair)
            if low > -math.inf or high < math.inf:
                found[pair.value] = Range(low, high)
    return found


def _needed(pair: Pair) -> tuple[float, float]:
    if pair.readers is None and pair.value.is_output:
        return _EVERYTHING
    readers = pair.value.uses() if pair.readers is None else pair.readers
    needs = [_needs(node, index) for node, index in readers]
    return (min(n[0] for n in needs), max(n[1] for n in needs)) if needs else _EVERYTHING


def _needs(node: Node, index: int) -> tuple[float, float]:
    """What a reader tells apart of its input `index`."""
    if not node.is_standard:
        return _EVERYTHING
    if node.op == "HardSigmoid":
        return _hard(node)
    if node.op == "Swish" and node.attr("alpha", 1.0) != 1.0:
        return _EVERYTHING
    if node.op == "Mul":
        return _gated(node, index)
    if node.op in _NEVER_FLAT and not _is_forgiven(node.outputs[0]):
        return _EVERYTHING
    return _SAME.get(node.op, _EVERYTHING)


def _is_forgiven(value: Value) -> bool:
    """Whether small differences of a value stay small for all who read it."""
    return not value.is_output and all(node.is_standard and node.op in _FORGIVING for node, _ in value.uses())


def _hard(node: Node) -> tuple[float, float]:
    slope, offset = float(node.attr("alpha", 0.2)), float(node.attr("beta", 0.5))
    return (-offset / slope, (1.0 - offset) / slope) if slope > 0.0 else _EVERYTHING


def _gated(node: Node, index: int) -> tuple[float, float]:
    """Of x * Sigmoid(x) and x * HardSigmoid(x), written out; nothing is known of other products."""
    value, other = node.inputs[index], node.inputs[1 - index]
    gate = None if other is None or other == value else other.producer
    if gate is None or not gate.is_standard or gate.inputs[0] != value:
        return _EVERYTHING
    if gate.op == "HardSigmoid":
        return _hard(gate)[0], math.inf
    return _GATES.get(gate.op, -math.inf), math.inf
