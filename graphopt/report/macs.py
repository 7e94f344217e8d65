"""Multiply-accumulates of one node, from the shapes of what it reads and writes.

Only operators that contract something are counted: convolutions, matrix products, recurrent layers and
attention. Elementwise work, which is a rounding error beside them, is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Shapes = Sequence[tuple[int, ...] | None]
"""The shapes of a node's inputs or outputs; None for an input that is left out."""

Attribute = Callable[[str], object]


class _Call:
    """One node with numbers for all its shapes. Reading a shape that is not known raises `UnknownShapeError`."""

    def __init__(self, inputs: Shapes, outputs: Shapes, attribute: Attribute) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self.attribute = attribute

    def has(self, index: int) -> bool:
        return index < len(self._inputs) and self._inputs[index] is not None

    def shape(self, index: int) -> tuple[int, ...]:
        found = self._inputs[index] if index < len(self._inputs) else None
        if found is None:
            raise UnknownShapeError
        return found

    def elements(self, index: int) -> int:
        return math.prod(self.shape(index))

    @property
    def written(self) -> int:
        """Elements of the first output."""
        if self._outputs[0] is None:
            raise UnknownShapeError
        return math.prod(self._outputs[0])


class UnknownShapeError(Exception):
    """A shape that the count depends on is not known."""


def _convolution(weight: int) -> Callable[[_Call], int]:
    """Each element written takes one filter: the weight's elements per output channel (its axis 0)."""

    def macs(call: _Call) -> int:
        return call.written * math.prod(call.shape(weight)[1:])

    return macs


def _transposed(call: _Call) -> int:
    """Each element read meets one filter: the weight's elements per input channel (its axis 0)."""
    return call.elements(0) * math.prod(call.shape(1)[1:])


def _gemm(call: _Call) -> int:
    return call.written * call.shape(0)[0 if call.attribute("transA") else 1]


def _matmul(call: _Call) -> int:
    return call.written * call.shape(0)[-2 if call.attribute("transA") else -1]


def _recurrent(call: _Call) -> int:
    """In each of sequence × batch steps, both weights of every direction are used once."""
    steps = math.prod(call.shape(0)[:2])
    return steps * (call.elements(1) + call.elements(2))


def _attention(call: _Call) -> int:
    """Scores cost Q's elements times the keys' length, and the weighted sum the output's times the same."""
    length = call.shape(1)[-2] + (call.shape(4)[-2] if call.has(4) else 0)
    return (call.elements(0) + call.written) * length


def _einsum(call: _Call) -> int:
    """Each element written sums over the labels that the right side lacks."""
    equation = str(call.attribute("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.replace("...", "").split(",")
    if not arrow:
        letters = "".join(terms)
        right = "".join(c for c in letters if letters.count(c) == 1)
    sizes: dict[str, int] = {}
    for index, term in enumerate(left.split(",")):
        shape, (head, _, tail) = call.shape(index), term.partition("...")
        sizes |= dict(zip(head, shape, strict=False))
        sizes |= dict(zip(reversed(tail), reversed(shape), strict=False))
    summed = math.prod(n for label, n in sizes.items() if label not in right)
    return call.written * summed if len(terms) > 1 else 0


_STANDARD: Mapping[str, Callable[[_Call], int]] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed,
    "DeformConv": _convolution(1),
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
}
_MICROSOFT: Mapping[str, Callable[[_Call], int]] = {
    "FusedConv": _convolution(1),
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "QGemm": _gemm,
}
_COUNTED = {"": _STANDARD, "com.microsoft": _MICROSOFT}


def is_counted(domain: str, op: str) -> bool:
    """Whether an operator has multiply-accumulates worth counting."""
    return op in _COUNTED.get(domain, {})


def node_macs(domain: str, op: str, inputs: Shapes, outputs: Shapes, attribute: Attribute) -> int:
    """Multiply-accumulates of one run of a node; 0 for operators that contract nothing.

    Raises `UnknownShapeError` where a shape is missing that the number depends on. `attribute` gives an attribute's
    value, its default where it is not set.
    """
    formula = _COUNTED.get(domain, {}).get(op)
    if formula is None:
        return 0
    try:
        return formula(_Call(inputs, outputs, attribute))
    except IndexError:
        raise UnknownShapeError from None
