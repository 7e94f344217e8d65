"""What the tests of the kinds of quantization share: small models, one run of the pass, signal over noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import Quantized, QuantOptions, quantize_graph
from graphopt.targets.target import load_target

Feeds = dict[str, np.ndarray]


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, divided by the root of the first size, so that products stay near 1."""
    drawn = np.random.default_rng(seed + sum(shape)).standard_normal(shape)
    return (drawn / np.sqrt(shape[0] if shape else 1)).astype(np.float32)


def proto(signature: str, body: str, opset: int = 21, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text; `constants` become initializers."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {signature} {{ {body} }}'
    made = parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return made


def quantized(
    source: onnx.ModelProto, target: str = "onnx", data: list[Feeds] | None = None, **options: Any
) -> tuple[Model, Quantized]:
    """The model after quantization, which must be valid, and what was done."""
    m = Model(*read_model(source.SerializeToString()))
    done = quantize_graph(m, Editor(m), load_target(target), QuantOptions(**options), data)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(m.ir)))
    return m, done


def ops(m: Model) -> list[str]:
    return [node.op for node in m.main.nodes]


def reasons(done: Quantized) -> dict[str, str]:
    """Why operators stayed float, by name of the operator."""
    return {op: reason for _, op, reason in done.declined}


def feeds_of(source: onnx.ModelProto, sizes: Mapping[str, int] | None = None, seed: int = 1) -> Feeds:
    """Normal numbers, or indices below 32, for each input; open sizes are 3 or as said."""
    rng = np.random.default_rng(seed)
    known = {t.name for t in source.graph.initializer}
    made: Feeds = {}
    for value in source.graph.input:
        if value.name in known:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else (sizes or {}).get(d.dim_param, 3) for d in tensor.shape.dim]
        floats = tensor.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        drawn = rng.standard_normal(shape) if floats else rng.integers(0, 32, shape)
        made[value.name] = drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return made


def run(data: bytes | onnx.ModelProto, feeds: Feeds, *, plain: bool = False) -> list[np.ndarray]:
    """All outputs from ONNX Runtime on one thread, `plain`: without its optimizations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    raw = data if isinstance(data, bytes) else data.SerializeToString()
    found = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    return [np.asarray(f) for f in found]


def decibels(source: onnx.ModelProto, m: Model, sizes: Mapping[str, int] | None = None) -> float:
    """Signal over noise (dB) of the least exact output, both models with all of ONNX Runtime's optimizations."""
    feeds = feeds_of(source, sizes)
    pairs = zip(run(source, feeds), run(to_bytes(m.ir), feeds), strict=True)
    worst = np.inf
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype
        wide, noise = a.astype(np.float64), a.astype(np.float64) - b.astype(np.float64)
        worst = min(worst, 10 * np.log10((wide**2).sum() / max((noise**2).sum(), 1e-30)))
    return float(worst)
