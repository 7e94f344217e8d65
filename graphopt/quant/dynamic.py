"""Dynamic int8: weights are integers in the file, activations become integers when they are there, by their own range.

No calibration, and no range that production could leave; the cost is a look at all elements of each input. Products
with a constant matrix become DynamicQuantizeLinear and MatMulInteger, scaled back, or what ONNX Runtime makes of
them: DynamicQuantizeMatMul, and, where several products read one input, which is then quantized once,
MatMulIntegerToFloat. Its attention becomes QAttention. Convolutions stay float, for they get much slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.dense import ConstantCache, Dense, dense_of
from graphopt.quant.insert import Placed
from graphopt.quant.ranges import weight_peaks, weight_scale
from graphopt.quant.recurrent import dynamic_lstm
from graphopt.quant.saturation import EXACT, neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.value import Graph, Node, Value
    from graphopt.targets.kinds import KindTable

__all__ = ["DYNAMIC_OPS", "OPSET_DYNAMIC", "Dynamic", "int8_columns"]

Array = np.ndarray[Any, Any]
Integers = tuple["Value", "Value", "Value"]

DYNAMIC_OPS = frozenset({"MatMul", "Gemm", "LSTM", "Attention"})
OPSET_DYNAMIC = 11  # of DynamicQuantizeLinear
_BY = "quant.dynamic"
_WHY = "its input is quantized at run time"
# Inputs of com.microsoft.Attention and .QAttention that are left out if the node has fewer.
_BIAS, _MASK, _PAST, _OTHERS = 2, 3, 4, (5, 6)
_KEPT = ("num_heads", "unidirectional", "mask_filter_value", "scale")
_UNKNOWN_TO_QATTENTION = ("qkv_hidden_sizes", "rotary_embedding_dim")


class Dynamic:
    """Converts operators one by one, in the order of the graph.

    `nodes`: those that will be converted, of which it sees who shares an input. `bits`: 7 where the processor adds
    products in 16 bits, and weights of 8 bits are large enough that this overflows.
    """

    def __init__(
        self, edit: Editor, table: KindTable, nodes: Sequence[Node], *, per_channel: bool = True, bits: int = 8
    ) -> None:
        self._edit, self._table = edit, table
        self._per_channel, self._bits = per_channel, bits
        self._constants = ConstantCache()
        self._quantized: dict[tuple[Graph, Value], Integers] = {}
        self._readers: dict[tuple[Graph, Value], int] = {}
        for node in nodes:
            x = node.inputs[0] if node.inputs else None
            if node.op != "LSTM" and x is not None and not node.attr("transA", 0):
                self._readers[node.graph, x] = self._readers.get((node.graph, x), 0) + 1
        if table.dynamic == CONTRIBUTED:
            edit.model.ir.opset_imports.setdefault(CONTRIBUTED, 1)

    def convert(self, node: Node) -> Placed:
        """Let one operator run on integers. Raises `Decline` with the reason why it stays float."""
        reason = self._table.refused.get(node.op)
        if reason is not None:
            raise Decline(reason)
        if node.op == "LSTM":
            if not self._table.lstm:
                raise Decline("the target has no quantized LSTM")
            return dynamic_lstm(node, self._edit, per_channel=self._per_channel, bits=self._bits)
        if node.op == "Attention" and node.domain == CONTRIBUTED:
            return self._attention(node)
        found = dense_of(node, self._edit)
        if isinstance(found, str):
            raise Decline(found)
        return self._dense(found)

    def _dense(self, dense: Dense) -> Placed:
        node, edit = dense.node, self._edit
        alone = dense.turned or self._readers.get((node.graph, dense.x), 0) < 2
        fused = self._table.dynamic == CONTRIBUTED
        row = dense.row_bias() if fused else None
        with edit.rewrite(_BY, at=node) as rw:
            x = dense.data(rw)
            weight, scales = self._constants.get(dense, edit.model.main, lambda: self._weight(rw, dense))
            assert scales is not None
            bias = None if row is None or not row.any() else rw.constant(np.ascontiguousarray(row), f"{node.name}_bias")
            if fused and alone:
                operands = [x, weight, scales, None, bias]
                (made,) = rw.node("DynamicQuantizeMatMul", operands, domain=CONTRIBUTED, assume=node.outputs[0])
            else:
                q, x_scale, zero = self._integers(rw, node, x, dense.turned)
                if fused:
                    operands = [q, weight, x_scale, scales, zero, None, bias]
                    (made,) = rw.node("MatMulIntegerToFloat", operands, domain=CONTRIBUTED, assume=node.outputs[0])
                else:
                    (product,) = rw.node("MatMulInteger", [q, weight, zero])
                    (real,) = rw.node("Cast", [product], {"to": 1})
                    (factor,) = rw.node("Mul", [x_scale, scales])
                    (made,) = rw.node("Mul", [real, factor])
            rw.replace(node.outputs[0], made if row is not None else dense.add_bias(rw, made))
        scale = scales.content()
        return Placed("dynamic", dense.stored.name, "int8", float(scale.max()), int(scale.size), _WHY)

    def _weight(self, rw: Rewrite, dense: Dense) -> tuple[Value, Value]:
        integers, scale = int8_columns(_finite(dense.matrix()), per_channel=self._per_channel, bits=self._bits)
        name = dense.stored.name
        main = self._edit.model.main
        return rw.constant(integers, f"{name}_int8", graph=main), rw.constant(scale, f"{name}_scale", graph=main)

    def _integers(self, rw: Rewrite, node: Node, x: Value, turned: bool) -> Integers:
        """`x` as uint8, its scale and its zero point: made once for all products of the graph that read it."""
        key = (node.graph, x)
        known = None if turned else self._quantized.get(key)
        if known is not None and all(v.alive for v in known):
            return known
        if self._edit.model.opset() < OPSET_DYNAMIC:
            opset = self._edit.model.opset()
            raise Decline(f"DynamicQuantizeLinear needs opset {OPSET_DYNAMIC}, and the model has {opset}")
        q, scale, zero = rw.node("DynamicQuantizeLinear", [x], outputs=3)
        if not turned:
            self._quantized[key] = (q, scale, zero)
        return q, scale, zero

    def _attention(self, node: Node) -> Placed:
        """com.microsoft.Attention, whose product with the weights of queries, keys and values is quantized."""
        if not self._table.attention:
            raise Decline("the target has no quantized Attention")
        inputs = (*node.inputs, *[None] * 7)[:7]
        x, weight, bias = inputs[0], inputs[1], inputs[_BIAS]
        if x is None or weight is None or not weight.is_const or weight.rank != 2:
            raise Decline("its weight is computed at run time")
        if weight.dtype is None or weight.dtype.name != "FLOAT":
            raise Decline("its weight is not float32")
        if any(inputs[i] is not None for i in _OTHERS) or any(a in node.attrs for a in _UNKNOWN_TO_QATTENTION):
            raise Decline("QAttention knows no attention bias, and no hidden sizes of their own")
        if node.attr("do_rotary", 0) or node.attr("past_present_share_buffer", 0):
            raise Decline("QAttention turns no positions, and shares no buffers")
        array = weight.content()
        integers, scale = int8_columns(_finite(array), per_channel=self._per_channel, bits=self._bits)
        attrs = {k: v for k, v in node.attrs.items() if k in _KEPT}
        with self._edit.rewrite(_BY, at=node) as rw:
            q, x_scale, zero = self._integers(rw, node, x, False)
            stored = rw.constant(integers, f"{weight.name}_int8")
            scales = rw.constant(scale, f"{weight.name}_scale")
            none = rw.constant(np.zeros(scale.shape, np.int8), f"{weight.name}_zero_point")
            if bias is None:
                bias = rw.constant(np.zeros(integers.shape[1], np.float32), f"{node.name}_bias")
            made = rw.node(
                "QAttention",
                [q, stored, bias, x_scale, scales, inputs[_MASK], zero, none, inputs[_PAST]],
                attrs, domain=CONTRIBUTED, outputs=len(node.outputs), assume=node.outputs,
            )  # fmt: skip
            for old, new in zip(node.outputs, made, strict=True):
                rw.replace(old, new)
        return Placed("dynamic", weight.name, "int8", float(scale.max()), int(scale.size), _WHY)


def int8_columns(matrix: Array, *, per_channel: bool = True, bits: int = 8) -> tuple[Array, Array]:
    """A float32 matrix [K, N] as int8, and its scales: [N], or [] for one.

    With 7 `bits`, columns in which 8 would overflow sums of 16 bits get 7, the others 8.
    """
    peaks = weight_peaks(matrix, 1 if per_channel else None)
    scale = weight_scale(peaks)
    integers = np.rint(matrix / scale)
    if bits < 8:
        bad = neighbours(integers, "MatMul", 1) > EXACT
        small = weight_scale(peaks, bits=bits)
        scale = np.where(bad if per_channel else bad.any(), small, scale).astype(np.float32)
        integers = np.rint(matrix / scale)
    return np.clip(integers, -127, 127).astype(np.int8), np.asarray(scale)


def _finite(array: Array) -> Array:
    if not np.isfinite(array).all():
        raise Decline("its weight holds NaN or Inf")
    return array
