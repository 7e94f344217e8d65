"""Small models for tests of placement, and what a placement does to them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import Plan, QuantOptions, plan, quantize_graph
from graphopt.quant.static import Quantized
from graphopt.targets.target import load_target

Weights = Mapping[str, tuple[int, ...] | np.ndarray]


def net(body: str, inputs: str, outputs: str, weights: Weights | None = None, *, opset: int = 19) -> Model:
    """A model in onnx's text form: `inputs` such as `float[1,16,8,8] x`; outputs are float32 of unknown shape.

    Node `i` is named after its first output.
    """
    wanted = ", ".join(f"float[?] {name}" for name in outputs.split())
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({wanted}) {{ {body} }}'
    proto = onnx.parser.parse_model(text.replace("float[?]", "float[]"))
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    for node in proto.graph.node:
        node.name = node.output[0]
    rng = np.random.default_rng(0)
    for name, shape in (weights or {}).items():
        if isinstance(shape, np.ndarray):
            array = shape
        else:
            array = (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return Model(*read_model(proto.SerializeToString()))


def placed(m: Model, target: str) -> Plan:
    return plan(m, load_target(target).require_quant())


def pairs(p: Plan) -> dict[str, str]:
    """The readers of each pair by the name of its value: names of nodes in order, `*` for everybody."""
    return {x.value.name: "*" if x.readers is None else " ".join(sorted(n.name for n, _ in x.readers)) for x in p.pairs}


def reasons(p: Plan) -> dict[str, str]:
    """Why operators stay float, by their names."""
    return {d.node.name: d.reason for d in p.declined}


def samples(m: Model, count: int = 3) -> list[dict[str, np.ndarray]]:
    """Inputs of normal numbers; an unknown size is 2."""
    rng = np.random.default_rng(1)
    shapes = {v.name: [d if isinstance(d, int) else 2 for d in v.shape or ()] for v in m.main.inputs}
    return [{n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()} for _ in range(count)]


def quantized(m: Model, target: str, **options: object) -> Quantized:
    """Quantize in place."""
    return quantize_graph(m, Editor(m), load_target(target), QuantOptions(**options), samples(m))  # type: ignore[arg-type]


def run(m: Model, feeds: Mapping[str, np.ndarray], *, optimized: bool = False) -> dict[str, np.ndarray]:
    """The outputs under ONNX Runtime."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = ort.InferenceSession(to_bytes(m.ir), settings, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def snr(exact: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Signal over noise of all outputs together, in dB."""
    noise = sum(float(((exact[o] - found[o].astype(np.float64)) ** 2).sum()) for o in exact)
    return 10 * float(np.log10(sum(float((a.astype(np.float64) ** 2).sum()) for a in exact.values()) / max(noise, 1e-30)))


def plain(text: str) -> str:
    """A reason without its numbers."""
    return re.sub(r"\d+", "N", text)
