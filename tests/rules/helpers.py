"""Small models, and what a pass of rules makes of them: the common ground of the tests of rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt import Accuracy, Pass
from graphopt.engine.pipeline import Pipeline
from graphopt.interop.convert import from_ir
from graphopt.interop.kinds import Kind

SPECIAL = (0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 1e-6, 80.0, -80.0, np.inf, -np.inf, np.nan)
_TOLERANCE = {"float16": (2e-2, 2e-2), "float32": (2e-4, 2e-5), "float64": (1e-9, 1e-10)}


def build(signature: str, body: str, *, opset: int = 18, **constants: Any) -> onnx.ModelProto:
    """A model from ONNX text: `build("(float[N,3] x) => (float[N,3] y)", "y = Mul(x, c)", c=2.0)`.

    `constants` become initializers: arrays as they are, Python floats as float32, integers as int64.
    """
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g {signature} {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(_array(v), k) for k, v in constants.items())
    onnx.checker.check_model(model)
    return model


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    array = np.array(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def weight(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Normally distributed numbers, always the same."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def positive(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Numbers between 0.5 and 2, always the same."""
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(dtype)


def interior(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with an operator between it and each float input, and after each float output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    known = {i.name for i in graph.initializer}
    before, after = [], []
    for value in graph.input:
        if value.name not in known and value.type.tensor_type.elem_type in _FLOATS:
            before.append(helper.make_node("Neg", [f"{value.name}_in"], [value.name]))
            value.name += "_in"
    for value in graph.output:
        if value.type.tensor_type.elem_type in _FLOATS:
            after.append(helper.make_node("Neg", [value.name], [f"{value.name}_out"]))
            value.name += "_out"
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Outcome:
    """What a pass did: the model before and after, and by rule how often it fired and why it declined."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    fired: Counter[str]
    declined: dict[str, Counter[str]]

    @property
    def ops(self) -> list[str]:
        """Operators of the main graph afterwards, sorted."""
        return sorted(node.op_type for node in self.after.graph.node)

    def node(self, op: str) -> onnx.NodeProto:
        """The one node with this operator afterwards."""
        (found,) = [node for node in self.after.graph.node if node.op_type == op]
        return found

    def attrs(self, op: str) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in self.node(op).attribute}


def rewrite(model: onnx.ModelProto, item: Pass, accuracy: str = "close", target: str = "onnx") -> Outcome:
    """Run one pass, without its prerequisites, until it settles; asserts that it then really has settled."""
    after, fired, declined = _run(model, item, accuracy, target)
    onnx.checker.check_model(after, full_check=True)
    again = _run(after, item, accuracy, target)[1]
    assert not again, f"a second run still fires {dict(again)}"
    return Outcome(model, after, fired, declined)


def _run(model: onnx.ModelProto, item: Pass, accuracy: str, target: str) -> Any:
    loaded = graphopt.load(model)
    pipeline = Pipeline([item], target=graphopt.load_target(target), accuracy=Accuracy[accuracy.upper()])
    journal = pipeline.run(loaded)
    prefix = f"{item.name}."
    fired = Counter(entry.rule.removeprefix(prefix) for entry in journal.entries)
    declined = {name.removeprefix(prefix): n for name, n in journal.records[item.name].declined.items()}
    return from_ir(loaded.ir, Kind.PROTO), fired, declined


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs under ONNX Runtime without its own optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def feeds_for(
    model: onnx.ModelProto, dims: Mapping[str, int] | None = None, special: bool = False
) -> dict[str, np.ndarray]:
    """Random inputs; dynamic dims have size 2 unless `dims` says otherwise. `special`: ±0, ±∞, NaN too."""
    rng = np.random.default_rng(7)
    known = {i.name for i in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in known:
            continue
        tensor = value.type.tensor_type
        sizes = dims or {}
        shape = [sizes.get(d.dim_param, 2) if d.dim_param else d.dim_value for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        array = rng.standard_normal(shape) * 2 if dtype.kind == "f" else rng.integers(0, 3, shape)
        if special and dtype.kind == "f":
            flat = array.reshape(-1)
            flat[: len(SPECIAL)] = SPECIAL[: len(flat)]
        feeds[value.name] = np.asarray(array).astype(dtype)
    return feeds


def assert_same(
    outcome: Outcome, dims: Mapping[str, int] | None = None, *, special: bool = False, by: str = "ort, reference"
) -> None:
    """Before and after compute the same, under ONNX Runtime and the reference evaluator, or one of them."""
    feeds = feeds_for(outcome.before, dims, special)
    models = outcome.before, outcome.after
    with np.errstate(all="ignore"):
        if "ort" in by:
            compare(*(run(m, feeds) for m in models))
        if "reference" in by:
            compare(*(list(ReferenceEvaluator(m).run(None, feeds)) for m in models))


def compare(expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        rtol, atol = _TOLERANCE.get(str(a.dtype), (0.0, 0.0))
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol * max(1.0, _scale(a)))


def _scale(a: np.ndarray) -> float:
    finite = np.abs(a[np.isfinite(a)].astype(np.float64)) if a.dtype.kind == "f" else np.zeros(0)
    return float(finite.max(initial=0.0))


def fires(
    item: Pass,
    model: onnx.ModelProto,
    rule: str,
    ops: list[str] | None = None,
    *,
    accuracy: str = "close",
    dims: Mapping[str, int] | None = None,
    special: bool = False,
    by: str = "ort, reference",
) -> Outcome:
    """Assert that `rule` fires, at the graph's boundary and inside of it, and that the model stays the same.

    `ops`: the operators that are then left. `by`: what runs both. `special`: with infinities and NaN, too.
    Returns the outcome at the boundary.
    """
    at_boundary = rewrite(model, item, accuracy)
    inside = rewrite(interior(model), item, accuracy)
    for outcome, extra in ((at_boundary, []), (inside, _added(model))):
        assert outcome.fired[rule], f"{rule} did not fire; declined: {outcome.declined}; {outcome.ops}"
        if ops is not None:
            assert outcome.ops == sorted([*ops, *extra])
        assert_same(outcome, dims, by=by)
        if special:
            assert_same(outcome, dims, special=True, by="ort")
    assert [o.name for o in at_boundary.after.graph.output] == [o.name for o in model.graph.output]
    return at_boundary


def _added(model: onnx.ModelProto) -> list[str]:
    inside = interior(model)
    return ["Neg"] * (len(inside.graph.node) - len(model.graph.node))


def declines(
    item: Pass, model: onnx.ModelProto, rule: str, reason: str | None, *, accuracy: str = "close"
) -> Outcome:
    """Assert that `rule` does not fire, for a reason that matches the regular expression.

    `reason=None`: the pattern itself does not match, so there is none.
    """
    outcome = rewrite(model, item, accuracy)
    assert not outcome.fired[rule], f"{rule} fired: {outcome.ops}"
    reasons = list(outcome.declined.get(rule, ()))
    if reason is None:
        assert not reasons, f"{rule} matched, and declined: {reasons}"
    else:
        assert any(re.search(reason, r) for r in reasons), f"{rule} declined for {reasons}"
    return outcome
