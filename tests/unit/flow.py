"""Small models for tests of integer flow, ONNX Runtime's placement, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant.insert import insert
from graphopt.quant.place import Plan, plan
from graphopt.quant.ranges import Range
from graphopt.targets.table import QuantTable
from graphopt.targets.target import load_target

ORT = load_target("ort-cpu").require_quant()
ONNX = load_target("onnx").require_quant()

IMAGE = "N,8,8,8"
ROWS = "4,16"


def model(
    text: Sequence[str],
    *,
    inputs: dict[str, str],
    outputs: Sequence[str],
    weights: dict[str, tuple[int, ...] | np.ndarray],
    opset: int = 17,
) -> Model:
    """A model from node texts such as "y = Conv(x, w) pads=[1,1,1,1]"."""
    rng = np.random.default_rng(0)
    nodes = []
    for line in text:
        out, _, rest = line.partition(" = ")
        op, _, rest = rest.partition("(")
        args, _, attrs = rest.partition(")")
        values = dict(item.split("=") for item in attrs.split()) if attrs.strip() else {}
        parsed = {k: _literal(v) for k, v in values.items()}
        names = [a.strip() for a in args.split(",")] if args else []
        nodes.append(helper.make_node(op, names, [o.strip() for o in out.split(",")], name=out, **parsed))
    arrays = {
        n: (w if isinstance(w, np.ndarray) else rng.normal(size=w).astype(np.float32)) for n, w in weights.items()
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, _dims(s)) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(proto)
    for i, o in enumerate(proto.graph.output):
        o.CopyFrom(next(v for v in inferred.graph.output if v.name == o.name))
        assert o.type.WhichOneof("value"), f"output {i} has no type"
    return Model(*read_model(proto.SerializeToString()))


def _literal(text: str) -> object:
    if text.startswith("["):
        return [int(v) for v in text[1:-1].split(",")]
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _dims(text: str) -> list[int | str]:
    return [int(d) if d.isdigit() else d for d in text.split(",")]


def shown(p: Plan) -> set[tuple[str, str]]:
    """Pairs as (value, readers): `*` for all."""
    return {
        (x.value.name, "*" if x.readers is None else "+".join(sorted(n.name for n, _ in x.readers))) for x in p.pairs
    }


def applied(m: Model, table: QuantTable = ORT, **options: object) -> tuple[Model, float]:
    """The quantized model, and the signal-to-noise ratio (dB) of its outputs without ONNX Runtime's
    optimizations.
    """
    rng = np.random.default_rng(1)
    before = to_bytes(m.ir)
    feeds = {
        v.name: rng.normal(size=[d if isinstance(d, int) else 3 for d in v.shape or ()]).astype(np.float32)
        for v in m.main.inputs
    }
    p = plan(m, table, **options)  # type: ignore[arg-type]
    names = [v.name for v in p.calibrated]
    seen = _run(_exposing(before, names), feeds, names)
    ranges = {v: Range(float(seen[v.name].min()), float(seen[v.name].max())) for v in p.calibrated}
    insert(p, ranges, Editor(m))
    after = to_bytes(m.ir)
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    outputs = [v.name for v in m.main.outputs]
    a, b = _run(before, feeds, outputs), _run(after, feeds, outputs)
    noise = sum(float(((a[o] - b[o]) ** 2).sum()) for o in outputs)
    return m, 10 * np.log10(sum(float((a[o] ** 2).sum()) for o in outputs) / max(noise, 1e-30))


def _exposing(data: bytes, names: Sequence[str]) -> bytes:
    proto = onnx.load_from_string(data)
    known = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    return proto.SerializeToString()


def _run(data: bytes, feeds: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    wanted = [n for n in names if n not in feeds]
    found = session.run(wanted, feeds) if wanted else []  # none would mean all
    return {**feeds, **dict(zip(wanted, found, strict=True))}


CONV = "c = Conv(x, w, b) pads=[1,1,1,1]"
W = {"w": (8, 8, 3, 3), "b": (8,)}
