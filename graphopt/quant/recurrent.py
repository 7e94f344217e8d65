"""LSTM and GRU in integers, as far as there are kernels: ONNX Runtime's DynamicQuantizeLSTM, and stored weights.

There is no kernel with calibrated scales, and none for GRU. What is left for those is to store the weights in
integers: the file gets smaller, and nothing faster, for each run turns them into floats first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.insert import Placed
from graphopt.quant.ranges import weight_peaks, weight_scale
from graphopt.quant.types import CHANNEL_OPSET, QuantParams, quantize

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.value import Node, Value

__all__ = ["dynamic_lstm", "stored_weights"]

Array = np.ndarray[Any, Any]

_LSTM_INPUTS, _PEEPHOLES = 8, 7
_ATTRIBUTES = (
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget",
)  # fmt: skip


def dynamic_lstm(node: Node, edit: Editor, *, per_channel: bool = True, bits: int = 8) -> Placed:
    """Replace an LSTM by com.microsoft.DynamicQuantizeLSTM, with a scale for each gate of each unit.

    Without `per_channel`, with one for each direction: a little faster where it is small, and less exact. Raises
    `Decline` with the reason why the LSTM stays float.
    """
    inputs = (*node.inputs, *[None] * _LSTM_INPUTS)[:_LSTM_INPUTS]
    w, r = _weights(node, edit)
    if inputs[_PEEPHOLES] is not None:
        raise Decline("it has peepholes, which are not quantized")
    if node.attr("layout", 0):
        raise Decline("the quantized LSTM knows the layout 0 only")
    if node.attr("input_forget", 0):
        raise Decline("the runtime has no LSTM with coupled gates")
    (wq, w_scale), (rq, r_scale) = (_directions(v, per_channel, bits) for v in (w, r))
    attrs = {k: v for k, v in node.attrs.items() if k in _ATTRIBUTES}
    edit.model.ir.opset_imports.setdefault(CONTRIBUTED, 1)
    with edit.rewrite("quant.lstm", at=node) as rw:
        stored = [rw.constant(q, f"{v.name}_int8") for v, q in ((w, wq), (r, rq))]
        scales = [rw.constant(s, f"{v.name}_scale") for v, s in ((w, w_scale), (r, r_scale))]
        zero = rw.constant(np.zeros(w_scale.shape, np.int8), f"{w.name}_zero_point")
        operands = [inputs[0], *stored, *inputs[3:], scales[0], zero, scales[1], zero]
        made = rw.node(
            "DynamicQuantizeLSTM", operands, attrs, domain=CONTRIBUTED, outputs=len(node.outputs), assume=node.outputs
        )
        for old, new in zip(node.outputs, made, strict=True):
            if old.name or old.use_count:
                rw.replace(old, new)
    scale = np.maximum(w_scale, r_scale)
    return Placed("dynamic", w.name, "int8", float(scale.max()), int(scale.size), "its input is quantized at run time")


def stored_weights(node: Node, edit: Editor) -> Placed:
    """Store the weights of an LSTM or GRU as int8, with a DequantizeLinear for each. Raises `Decline`."""
    if edit.model.opset() < CHANNEL_OPSET:
        raise Decline(f"a scale per channel needs opset {CHANNEL_OPSET}, and the model has {edit.model.opset()}")
    weights = _weights(node, edit)
    with edit.rewrite("quant.weight_only", at=node) as rw:
        for index, value in enumerate(weights, 1):
            array = _finite(value)
            scale = weight_scale(weight_peaks(array, 1))
            integers = quantize(array, QuantParams(scale, np.zeros(scale.shape, np.int8)), 1)
            operands = [rw.constant(integers, f"{value.name}_int8"), rw.constant(scale, f"{value.name}_scale")]
            (real,) = rw.node("DequantizeLinear", operands, {"axis": 1}, assume=value)
            rw.set_input(node, index, real)
    edit.drop_unread(weights)
    return Placed("weight", weights[0].name, "int8", float(scale.max()), int(scale.size), f"weights of {node.op}")


def _weights(node: Node, edit: Editor) -> tuple[Value, Value]:
    """The weights of inputs and of states; raises `Decline` unless both are float32 constants."""
    w, r = (*node.inputs, None, None, None)[1:3]
    if node.graph.is_function:
        raise Decline("it stands in a function, which several callers share")
    if w is None or r is None or not w.is_const or not r.is_const:
        raise Decline("its weights are computed at run time, or inputs that a caller may set")
    if edit.protects(node) or edit.protects(w) or edit.protects(r):
        raise Decline("it is protected")
    for value in (w, r):
        if value.dtype is None or value.dtype.name != "FLOAT":
            raise Decline("its weights are not float32")
        if value.rank != 3 or not value.nbytes:
            raise Decline("its weights are empty, or of no valid shape")
    return w, r


def _directions(value: Value, per_channel: bool, bits: int) -> tuple[Array, Array]:
    """Weights [D, 4H, I] as the kernel has them: int8 [D, I, 4H], and scales [D, 4H] or [D]."""
    array = _finite(value)
    peaks = np.abs(array).max(axis=2 if per_channel else (1, 2))
    scale = weight_scale(peaks, bits=bits)
    integers = np.rint(array / scale.reshape(len(array), -1, 1)).astype(np.int8)
    return np.ascontiguousarray(integers.transpose(0, 2, 1)), scale


def _finite(value: Value) -> Array:
    array = value.content()
    if not np.isfinite(array).all():
        raise Decline("its weights hold NaN or Inf")
    return array
