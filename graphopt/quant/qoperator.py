"""Q/DQ to QOperator: DequantizeLinear → operator → QuantizeLinear becomes one operator that reads and writes integers.

The same arithmetic that ONNX Runtime fuses such a group into when it loads a model, written in the file: for runtimes
that do not fuse, and for those who want to see what runs. QLinearConv and QLinearMatMul are standard; the others are
ONNX Runtime's. What has no such form stays as it is, between its Q and DQ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.operands import redundant_activation, sole_reader
from graphopt.quant.ranges import quantize_bias
from graphopt.quant.unfold import MOVES

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.value import Node, Value

__all__ = ["QOPERATORS", "to_qoperators"]

Array = np.ndarray[Any, Any]

_BY = "quant.qoperator"
_LIMITS = {"UINT8": (0, 255), "INT8": (-128, 127)}
_MOVES = MOVES | {"Split"}
_INTEGER_MAXPOOL = 12  # the opset from which on MaxPool takes 8-bit integers
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class _Side:
    """An integer tensor with its scale and zero point (None: 0): what a DequantizeLinear reads, or a Q writes.

    `axis`: of the channels, where there is a scale for each.
    """

    value: Value
    scale: Value
    zero: Value | None
    axis: int | None = None

    @property
    def dtype(self) -> str:
        dtype = self.value.dtype
        return "" if dtype is None else dtype.name

    def zeros(self) -> Array:
        """The zero point, or the 0 that its absence means."""
        if self.zero is not None:
            return self.zero.content()
        return np.zeros(self.scales().shape, np.uint8 if self.dtype == "UINT8" else np.int8)

    def scales(self) -> Array:
        return self.scale.content()

    def like(self, other: _Side) -> bool:
        """Whether both mean the same numbers by the same integers."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scales(), other.scales())
            and np.array_equal(self.zeros(), other.zeros())
        )


def to_qoperators(edit: Editor, form: str) -> tuple[int, list[tuple[str, str, str]]]:
    """Convert all groups that have a form: `standard` ones only, or `com.microsoft`'s as well.

    Returns how many were converted, and those between Q and DQ that were not as (node, operator, reason).
    """
    work = _Conversion(edit, form == CONTRIBUTED)
    declined = []
    for graph in edit.model.graphs():
        if graph.is_function:
            continue
        for node in list(graph.nodes):
            if not node.alive or not node.is_standard or not (node.op in QOPERATORS or node.op in _MOVES):
                continue
            if not any(v is not None and read_side(v) is not None for v in node.inputs):
                continue
            try:
                work.convert(node)
            except Decline as reason:
                declined.append((node.name, node.op, reason.reason))
    return work.count, declined


def read_side(value: Value) -> _Side | None:
    """What stands in front of the DequantizeLinear that gives `value`; None if there is none with a constant scale."""
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or len(node.inputs) < 2 or node.attr("block_size", 0):
        return None
    q, scale, zero = (*node.inputs, None)[:3]
    if q is None or scale is None or not scale.is_const or (zero is not None and not zero.is_const):
        return None
    if scale.rank == 0 or scale.shape == (1,):
        return _Side(q, scale, zero)
    axis = int(node.attr("axis", 1))
    return _Side(q, scale, zero, axis % (q.rank or 1) if axis < 0 else axis)


def written_side(value: Value) -> _Side | None:
    """What the QuantizeLinear writes that is the only reader of `value`; None if there is none with one scale."""
    node = sole_reader(value)
    if node is None or node.op != "QuantizeLinear" or not node.is_standard or len(node.inputs) < 2:
        return None
    _, scale, zero = (*node.inputs, None)[:3]
    if scale is None or not scale.is_const or scale.rank != 0 or (zero is not None and not zero.is_const):
        return None
    return _Side(node.outputs[0], scale, zero)


class _Conversion:
    def __init__(self, edit: Editor, contributed: bool) -> None:
        self.edit, self.contributed, self.count = edit, contributed, 0
        self._missing: dict[tuple[str, tuple[int, ...]], Value] = {}

    def convert(self, node: Node) -> None:
        if node.op in _MOVES:
            self._movement(node)
        else:
            if node.op not in ("Conv", "MatMul") and not self.contributed:
                raise Decline(f"ONNX has no integer form of {node.op}")
            if self.contributed:
                self.edit.model.ir.opset_imports.setdefault(CONTRIBUTED, 1)
            QOPERATORS[node.op](self, node)
        self.count += 1

    # -- operators with weights ------------------------------------------------------------------------------

    def conv(self, node: Node) -> None:
        x, w = self._read(node, 0), self._read(node, 1, axis=0)
        y = self._written(node)
        self._one_type(x, y)
        with self.edit.rewrite(_BY, at=node) as rw:
            bias = self._bias(rw, node, x, w)
            operands = [*self._triple(rw, x), *self._triple(rw, w), y.scale, self._zero(rw, y), bias]
            (made,) = rw.node("QLinearConv", operands, _kept(node, _CONV))
            rw.replace(y.value, made)

    def matmul(self, node: Node) -> None:
        a = self._read(node, 0)
        rank = node.inputs[1].rank if node.inputs[1] is not None else None
        b = self._read(node, 1, axis=None if rank is None else rank - 1)
        if b.axis and (rank or 0) > 2:
            raise Decline("its weight is a stack of matrices, for which integer forms take one scale")
        y = self._written_or_float(node, a)
        if y is None and not self.contributed:
            raise Decline("its output is float")
        with self.edit.rewrite(_BY, at=node) as rw:
            if y is not None:
                operands = [*self._triple(rw, a), *self._triple(rw, b), y.scale, self._zero(rw, y)]
                (made,) = rw.node("QLinearMatMul", operands)
                rw.replace(y.value, made)
            else:
                operands = [a.value, b.value, a.scale, b.scale, self._zero(rw, a), self._zero(rw, b)]
                out = node.outputs[0]
                (made,) = rw.node("MatMulIntegerToFloat", operands, domain=CONTRIBUTED, assume=out)
                rw.replace(out, made)

    def gemm(self, node: Node) -> None:
        a, b = self._read(node, 0), self._read(node, 1, axis=0 if node.attr("transB", 0) else 1)
        if node.attr("beta", 1.0) != 1.0 or node.attr("alpha", 1.0) != 1.0:
            raise Decline("its alpha or beta is not 1")
        y = self._written_or_float(node, a)
        with self.edit.rewrite(_BY, at=node) as rw:
            bias = self._bias(rw, node, a, b)
            operands = [*self._triple(rw, a), *self._triple(rw, b), bias]
            if y is not None:
                operands += [y.scale, self._zero(rw, y)]
            out = node.outputs[0] if y is None else y.value
            (made,) = rw.node("QGemm", operands, _kept(node, ("transA", "transB")), domain=CONTRIBUTED, assume=out)
            rw.replace(out, made)

    def _bias(self, rw: Rewrite, node: Node, x: _Side, w: _Side) -> Value | None:
        """The bias as int32 in units of both scales."""
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None:
            return None
        units = np.asarray(np.float32(x.scales().reshape(())) * w.scales(), np.float32)
        side = read_side(value)
        if side is not None and side.dtype == "INT32" and not side.zeros().any():
            if np.array_equal(np.broadcast_to(side.scales(), units.shape), units):
                return side.value
            raise Decline("its bias is not in units of the scales of input and weight")
        array = value.array() if value.is_const else None
        if array is None or array.ndim != 1 or not np.isfinite(array).all():
            raise Decline("its bias is no constant with one value per channel")
        if (np.abs(array) / units > 2**31 - 1).any():
            raise Decline("its bias is too large for 32 bits")
        integers, _ = quantize_bias(array, x.scales().reshape(()), w.scales())
        return rw.constant(integers, f"{value.name}_int32")

    # -- operators without -----------------------------------------------------------------------------------

    def binary(self, node: Node) -> None:
        a, b = self._read(node, 0), self._read(node, 1)
        y = self._written(node)
        self._one_type(a, b, y)
        with self.edit.rewrite(_BY, at=node) as rw:
            operands = [*self._triple(rw, a), *self._triple(rw, b), y.scale, self._zero(rw, y)]
            self._replace(rw, f"QLinear{node.op}", operands, {}, y)

    def unary(self, node: Node) -> None:
        x = self._read(node, 0)
        y = written_side(node.outputs[0])
        if y is None:
            raise Decline("its output is not quantized")
        self._one_type(x, y)
        if node.op == "AveragePool" and any(d != 1 for d in node.attr("dilations", None) or ()):
            raise Decline("the integer kernel knows no dilations")
        attrs = _kept(node, _POOL) if node.op == "AveragePool" else {}
        if node.op == "LeakyRelu":
            attrs = {"alpha": node.attr("alpha", 0.01)}
        with self.edit.rewrite(_BY, at=node) as rw:
            self._replace(rw, f"QLinear{node.op}", [*self._triple(rw, x), y.scale, self._zero(rw, y)], attrs, y)

    def concat(self, node: Node) -> None:
        sides = [self._read(node, i) for i in range(len(node.inputs))]
        y = self._written(node)
        self._one_type(*sides, y)
        with self.edit.rewrite(_BY, at=node) as rw:
            operands: list[Value | None] = [y.scale, self._zero(rw, y)]
            for side in sides:
                operands += self._triple(rw, side)
            self._replace(rw, "QLinearConcat", operands, {"axis": node.attr("axis")}, y)

    def _movement(self, node: Node) -> None:
        """An operator that only moves data moves the integers instead."""
        x = self._read(node, 0)
        if node.op == "MaxPool" and (node.version < _INTEGER_MAXPOOL or len(node.outputs) > 1):
            raise Decline("MaxPool takes no integers here")
        first = node.inputs[0]
        assert first is not None
        outputs = [o for o in node.outputs if o.use_count]
        if not outputs:
            raise Decline("nobody reads it")
        written = [(o, written_side(o)) for o in outputs]
        if any(y is None or not y.like(x) for _, y in written):
            raise Decline("its input and its output have different scales, or are not both quantized")
        with self.edit.rewrite(_BY, at=node) as rw:
            made = rw.copy(node, {first: x.value})
            for old, y in written:
                assert y is not None and old.index is not None
                rw.replace(y.value, made[old.index])

    # -- parts -----------------------------------------------------------------------------------------------

    def _read(self, node: Node, index: int, axis: int | None = None) -> _Side:
        value = node.inputs[index] if index < len(node.inputs) else None
        side = None if value is None else read_side(value)
        if side is None or side.dtype not in _LIMITS:
            raise Decline("not all of its inputs are 8-bit integers with constant scales")
        if side.axis is not None and side.axis != axis:
            raise Decline("an input has a scale per channel that its integer form does not take")
        return side

    def _written(self, node: Node) -> _Side:
        """What is written behind `node`: at once, or behind an activation that the limits of the integers replace."""
        y = written_side(node.outputs[0])
        if y is not None:
            return y
        y, ceiling = _behind_activation(node)
        if y is None or y.dtype not in _LIMITS:
            raise Decline("its output is not quantized")
        low, high = _LIMITS[y.dtype]
        if int(y.zeros()) != low or (ceiling is not None and float(y.scales() * np.float32(high - low)) > ceiling):
            raise Decline("the activation behind it does more than the limits of the integers")
        return y

    def _written_or_float(self, node: Node, x: _Side) -> _Side | None:
        """`_written`, of the type of `x`; None if no Q follows, so that the output stays float."""
        if written_side(node.outputs[0]) is None and _behind_activation(node)[0] is None:
            return None
        y = self._written(node)
        self._one_type(x, y)
        return y

    def _one_type(self, *sides: _Side) -> None:
        if len({side.dtype for side in sides}) > 1:
            raise Decline("its inputs and its output are integers of different types")

    def _triple(self, rw: Rewrite, side: _Side) -> list[Value | None]:
        return [side.value, side.scale, self._zero(rw, side)]

    def _zero(self, rw: Rewrite, side: _Side) -> Value:
        if side.zero is not None:
            return side.zero
        return rw.constant(side.zeros(), f"{side.value.name}_zero_point")

    def _replace(
        self, rw: Rewrite, op: str, operands: Sequence[Value | None], attrs: dict[str, Any], y: _Side
    ) -> None:
        (made,) = rw.node(op, operands, attrs, domain=CONTRIBUTED, assume=y.value)
        rw.replace(y.value, made)


def _behind_activation(node: Node) -> tuple[_Side | None, float | None]:
    """What a Q writes behind an activation that it can make redundant, and up to which value that reaches."""
    reader = sole_reader(node.outputs[0])
    redundant, ceiling = (False, None) if reader is None else redundant_activation(reader)
    return (written_side(reader.outputs[0]) if reader is not None and redundant else None), ceiling


def _kept(node: Node, names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in node.attrs.items() if k in names}


QOPERATORS: dict[str, Callable[[_Conversion, Node], None]] = {
    "Conv": _Conversion.conv,
    "MatMul": _Conversion.matmul,
    "Gemm": _Conversion.gemm,
    "Add": _Conversion.binary,
    "Mul": _Conversion.binary,
    "Concat": _Conversion.concat,
    "Sigmoid": _Conversion.unary,
    "LeakyRelu": _Conversion.unary,
    "AveragePool": _Conversion.unary,
    "GlobalAveragePool": _Conversion.unary,
}
