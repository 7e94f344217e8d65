"""The reference implementation of onnx for operators without a kernel here, where it cannot run away."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.reference

from graphopt.ir.arithmetic import is_float
from graphopt.ir.kernel import Array, Call, Undefined, Unsupported

_MAX_ELEMENTS = 1 << 22  # many of these loop over elements in Python

# The size of the results is bounded by that of the inputs; nothing random, nothing with a body.
SAME_DTYPE = frozenset({
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
    "BitwiseXor", "Celu", "Clip", "Cos", "Cosh", "CumSum", "DepthToSpace", "Elu", "Erf", "GatherElements",
    "GatherND", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Mish", "PRelu", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ScatterElements", "ScatterND",
    "Selu", "Sigmoid", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Tan", "Tanh",
    "ThresholdedRelu", "Trilu",
})
OTHER_DTYPE: dict[str, np.dtype[Any]] = {
    "ArgMax": np.dtype(np.int64),
    "ArgMin": np.dtype(np.int64),
    "IsInf": np.dtype(np.bool_),
    "IsNaN": np.dtype(np.bool_),
    "NonZero": np.dtype(np.int64),
}
_SINCE = {"LogSoftmax": 13, "Softmax": 13}  # the first opset whose meaning the reference implementation has


def by_reference(call: Call) -> tuple[Array, ...]:
    """Run one call through the reference evaluator, and check that the dtype is the one ONNX prescribes."""
    if call.op not in SAME_DTYPE and call.op not in OTHER_DTYPE:
        raise Unsupported(f"there is no kernel for {call.op}")
    if call.version < _SINCE.get(call.op, 0):
        raise Unsupported(f"there is no kernel for {call.op} of opset {call.version}")
    x = call.input(0)
    if call.op.startswith("Reduce") and x.dtype.kind != "f":
        raise Unsupported(f"{call.op} of integers, whose sum may not fit")
    expected = OTHER_DTYPE.get(call.op, x.dtype)
    arrays = [a for a in call.inputs if a is not None]
    if any(a.dtype.kind not in "fiub" for a in arrays) or sum(a.size for a in arrays) > _MAX_ELEMENTS:
        raise Unsupported(f"{call.op} of these arrays by the reference implementation")
    call.allocate([sum(a.size for a in arrays) * (x.ndim or 1)], expected)
    half = x.dtype == np.float16
    feeds = {
        f"i{i}": a.astype(np.float32) if half and a.dtype == np.float16 else a
        for i, a in enumerate(call.inputs)
        if a is not None
    }
    result = [np.asarray(r) for r in _run(call, feeds)]
    if not all(np.isfinite(a).all() for a in (*arrays, *result)):
        raise Unsupported(f"{call.op} with NaN or infinities, which the reference implementation may treat otherwise")
    wanted = np.dtype(np.float32) if half and expected == x.dtype else expected
    if any(r.dtype != wanted for r in result):
        raise Unsupported(f"the reference implementation of {call.op} changes the dtype")
    if is_float(expected):
        result = [r.astype(expected) for r in result]
    return tuple(result)


def _run(call: Call, feeds: dict[str, Array]) -> Any:
    names = [f"i{i}" if a is not None else "" for i, a in enumerate(call.inputs)]
    outputs = [f"o{i}" for i in range(call.n_outputs)]
    node = onnx.helper.make_node(call.op, names, outputs, **dict(call.attrs))
    graph = onnx.helper.make_graph(
        [node], "constant", [onnx.ValueInfoProto(name=n) for n in feeds], [onnx.ValueInfoProto(name=n) for n in outputs]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", call.version)])
    try:
        return onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # it raises whatever NumPy or its own checks do
        raise Undefined(f"{call.op} cannot be computed: {error}") from error
