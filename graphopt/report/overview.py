"""What a model is: the source of `graphopt inspect`, as the JSON schema `graphopt.inspect/1`.

schema                "graphopt.inspect/1"
path                  the file
ir_version, producer  of the file
opsets                {domain: version}, the standard domain as "ai.onnx"
inputs, outputs       [{name, dtype, shape}]: shape a list of numbers and texts, null: not known
nodes, parameters, weight_bytes, file_bytes, macs, peak_bytes, operators, opset, assumed
                      as in `graphopt.report/1`
weights               {dtype: bytes}
functions             [{name, nodes}]: local functions
bodies                how many graphs stand in If, Loop and Scan
external_data         whether weights lie in other files
quantization          {quantize, dequantize, dynamic, integer_operators}: how many operators of each kind
metadata              {key: text}
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.ir.value import Value
from graphopt.report.measure import measure

SCHEMA = "graphopt.inspect/1"

_INTEGER = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "MatMulNBits", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip


def overview(model: Model, path: Path) -> dict[str, Any]:
    """Everything that `graphopt inspect` shows of a model, as JSON would have it."""
    ir = model.ir
    measures = measure(model, path)
    functions = {f.graph for f in ir.functions.values()}
    bodies = sum(1 for g in model.raw_graphs() if g is not ir.graph and g not in functions)
    producer = " ".join(filter(None, (ir.producer_name, ir.producer_version)))
    return {
        "schema": SCHEMA,
        "path": str(path),
        "ir_version": ir.ir_version,
        "producer": producer,
        "opsets": {domain or "ai.onnx": version for domain, version in ir.graph.opset_imports.items()},
        "inputs": [port(v) for v in model.main.inputs if not v.is_initializer],
        "outputs": [port(v) for v in model.main.outputs],
        **dataclasses.asdict(measures),
        "operators": dict(measures.operators.most_common()),
        "weights": dict(_weights(model).most_common()),
        "functions": [
            {"name": f"{f.domain}.{f.name}" if f.domain else f.name, "nodes": len(f.graph)}
            for f in ir.functions.values()
        ],
        "bodies": bodies,
        "external_data": model.source.external if model.source is not None else False,
        "quantization": _quantization(measures.operators),
        "metadata": dict(ir.metadata_props),
    }


def port(value: Value) -> dict[str, Any]:
    """An input or output: name, element type in numpy's spelling, shape with names for what is dynamic."""
    shape = value.shape
    return {
        "name": value.name,
        "dtype": None if value.dtype is None else dtype_name(value.dtype),
        "shape": None if shape is None else [d if isinstance(d, int) or d is None else str(d) for d in shape],
    }


def dtype_name(dtype: oir.DataType) -> str:
    """An element type as numpy spells it: float32 and not FLOAT."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _weights(model: Model) -> Counter[str]:
    """Bytes of the constants by element type."""
    found: Counter[str] = Counter()
    for graph in model.raw_graphs():
        tensors = [v.const_value for v in graph.initializers.values()]
        for node in graph:
            attributes = [a for a in node.attributes.values() if not a.is_ref()]
            tensors += [a.value for a in attributes if a.type == oir.AttributeType.TENSOR]
        for tensor in tensors:
            if tensor is not None:
                found[dtype_name(tensor.dtype)] += int(tensor.nbytes)
    return found


def _quantization(operators: Counter[str]) -> dict[str, int]:
    plain: Counter[str] = Counter()
    for name, n in operators.items():
        plain[name.rpartition(".")[2]] += n
    return {
        "quantize": plain["QuantizeLinear"],
        "dequantize": plain["DequantizeLinear"],
        "dynamic": plain["DynamicQuantizeLinear"] + plain["DynamicQuantizeMatMul"],
        "integer_operators": sum(plain[name] for name in _INTEGER),
    }
