"""Ranges reach no farther than readers can tell."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant import QuantOptions, quantize_graph
from graphopt.quant.place import plan
from graphopt.quant.told_apart import told_apart
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.targets.target import load_target

WIDE = {"x": np.random.default_rng(0).uniform(-30.0, 30.0, size=(1, 4, 24, 24)).astype(np.float32)}
LAYER = "h = Conv(x, w)"
BEHIND = {
    "HardSwish": ("y = HardSwish(h)", (-3.0, math.inf)),
    "HardSigmoid": ("y = HardSigmoid<alpha = 0.25, beta = 0.5>(h)", (-2.0, 2.0)),
    "a falling HardSigmoid": ("y = HardSigmoid<alpha = -0.25>(h)", (-math.inf, math.inf)),
    "Sigmoid": ("s = Sigmoid(h)  y = Mul(x, s)", (-8.0, 8.0)),
    "Tanh": ("s = Tanh(h)  y = Add(x, s)", (-4.5, 4.5)),
    "Sigmoid, whose logarithm is taken": ("s = Sigmoid(h)  y = Log(s)", (-math.inf, math.inf)),
    "Softplus, divided by": ("s = Softplus(h)  y = Div(x, s)", (-math.inf, math.inf)),
    "Sigmoid, given out": ("y = Sigmoid(h)", (-math.inf, math.inf)),
    "Swish, written out": ("s = Sigmoid(h)  y = Mul(h, s)", (-10.0, math.inf)),
    "HardSwish, written out": ("s = HardSigmoid<alpha = 0.16666667>(h)  y = Mul(s, h)", (-3.0, math.inf)),
    "two readers": ("s = HardSwish(h)  t = Tanh(h)  y = Add(s, t)", (-4.5, math.inf)),
    "one that needs all": ("s = HardSwish(h)  y = Add(s, h)", (-math.inf, math.inf)),
    "a square": ("y = Mul(h, h)", (-math.inf, math.inf)),
    "another's gate": ("s = Sigmoid(x)  y = Mul(h, s)", (-math.inf, math.inf)),
    "an output": ("y = HardSwish(h)", (-math.inf, math.inf)),
    "one scale for several": ("m = MaxPool<kernel_shape = [1, 1]>(h)  s = Conv(m, v)  y = HardSwish(h)", (-math.inf, math.inf)),
}  # fmt: skip


def net(name: str, mixed: bool = False) -> Model:
    """A layer that hands its input on, or `mixed`: on another grid than that of its input."""
    outputs = "float[1,4,24,24] y" + (", float[1,4,24,24] h" if name == "an output" else "")
    outputs += ", float[1,4,24,24] s" if name == "one scale for several" else ""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,24,24] x) => ({outputs}) {{ {LAYER} {BEHIND[name][0]} }}'
    )
    one = np.eye(4, dtype=np.float32)[:, :, None, None]
    weight = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32) if mixed else one
    for key, array in {"w": weight, "v": one * 0.5}.items():
        if any(key in node.input for node in proto.graph.node):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return Model(*read_model(proto.SerializeToString()))


def reach(model: Model) -> tuple[float, float]:
    """The ends of the integers' range of the layer's output."""
    for node in model.main.find("QuantizeLinear"):
        x, scale, zero = node.inputs
        if x is not None and x.producer is not None and x.producer.op == "Conv" and scale is not None and zero is not None:
            s, z = scale.array(), zero.array()
            assert s is not None and z is not None
            kind = np.iinfo(z.dtype)
            return float(s) * (kind.min - float(z)), float(s) * (kind.max - float(z))
    raise AssertionError("the output of the layer is not quantized")


@pytest.mark.parametrize("name", BEHIND)
def test_integers_stand_for_what_makes_a_difference(name: str) -> None:
    model = net(name)
    quantize_graph(model, Editor(model), load_target("onnx"), QuantOptions(corrections=()), [WIDE])
    found, (low, high) = reach(model), BEHIND[name][1]
    assert found[0] == pytest.approx(max(low, -30.0), abs=0.2)
    assert found[1] == pytest.approx(min(high, 30.0), abs=0.2)


@pytest.mark.parametrize(("alpha", "range_"), [(1.0, (-10.0, math.inf)), (0.1, (-math.inf, math.inf))])
def test_a_swish_of_another_slope_tells_more_apart(alpha: float, range_: tuple[float, float]) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 24]> g (float[1,4,8,8] x) => (float[1,4,8,8] y) '
        f"{{ {LAYER} y = Swish<alpha = {alpha}>(h) }}"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    model = Model(*read_model(proto.SerializeToString()))
    found = told_apart(plan(model, load_target("onnx").require_quant()))
    assert [(r.low, r.high) for r in found.values()] == ([range_] if alpha == 1.0 else [])


@pytest.mark.parametrize("name", [name for name, (_, r) in BEHIND.items() if r[0] > -math.inf])
def test_the_result_is_better_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def error() -> float:
        model = net(name, mixed=True)
        quantize_graph(model, Editor(model), load_target("onnx"), QuantOptions(corrections=()), [WIDE])
        off = run_model(package(model.ir), WIDE)["y"] - run_model(package(net(name, mixed=True).ir), WIDE)["y"]
        return float(np.square(off, dtype=np.float64).mean())

    limited = error()
    monkeypatch.setattr("graphopt.quant.stages.told_apart", lambda _: {})
    assert limited < 0.9 * error()
