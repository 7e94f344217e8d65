"""Operators that are to stay float between integers: ONNX Runtime must not round their weights by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from graphopt.ir.edit import Editor
from graphopt.ir.model import Model
from graphopt.quant import QuantOptions, QuantSelection, quantize_graph
from graphopt.quant.coverage import Coverage, coverage
from graphopt.quant.place import plan
from graphopt.quant.strip import dequantize_graph
from graphopt.quant.switches import switchboard
from graphopt.targets.target import Target, load_target
from tests.unit.placing import net, quantized, run, samples

WEIGHTS = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (8, 16, 1, 1)}
CONVS = "a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2, b2) d = Relu(c) e = Conv(d, w3)"
POOLED = CONVS.replace("c = Conv<pads=[1,1,1,1]>(b,", "p = MaxPool<kernel_shape=[2,2]>(b) c = Conv(p,")
TRANSPOSED = "a = Conv(x, w1) b = Relu(a) c = ConvTranspose(b, w2) e = Conv(c, w3)"
ONE_CHANNEL = CONVS.replace("w2, b2", "w2")
ONE = {"w1": (1, 3, 3, 3), "w2": (16, 1, 3, 3), "w3": (8, 16, 1, 1)}
HEAD = "a = Conv(x, w1) b = Relu(a) f = Flatten(b) {} h = Relu(s) e = Gemm(h, w3)"
GEMM, MATMUL = HEAD.format("s = Gemm(f, w2, b2)"), HEAD.format("c = MatMul(f, w2) s = Add(c, b2)")
PRODUCTS = {"w1": (2, 3, 3, 3), "w2": (72, 32), "b2": (32,), "w3": (32, 10)}


def seen(m: Model, target: str = "ort-cpu", skip: str = "c") -> tuple[Coverage, float, list[str]]:
    """Quantize all but one operator: the kernels, how far ONNX Runtime's optimizations are off, and the notes."""
    done = quantized(m, target, selection=QuantSelection(skip=(skip,)))
    feeds = samples(m)[0]
    plain, used = run(m, feeds), run(m, feeds, optimized=True)
    off = max(float(np.abs(used[k] - plain[k]).max() / np.abs(plain[k]).max()) for k in plain)
    return coverage(m, done.reasons), off, [str(note) for note in done.notes]


def repeated(m: Model) -> list[int]:
    """The axes of the DequantizeLinear on activations that have more than one scale."""
    found = [n for n in m.main.nodes if n.op == "DequantizeLinear" and n.inputs[0] and n.inputs[0].producer]
    return [n.attr("axis") for n in found if n.inputs[1] is not None and n.inputs[1].rank]


@pytest.mark.parametrize(
    ("body", "shape", "weights", "opset", "skip", "axis"),
    [
        (CONVS, "1,3,8,8", WEIGHTS, 19, "c", 1),
        (CONVS, "N,3,H,W", WEIGHTS, 19, "c", 1),
        (CONVS, "1,3,8,8", WEIGHTS, 12, "c", 1),
        (POOLED, "1,3,8,8", WEIGHTS, 19, "c", 1),
        (POOLED + " z = Sigmoid(p)", "1,3,8,8", WEIGHTS, 19, "c", 1),
        (TRANSPOSED, "1,3,8,8", WEIGHTS, 19, "none", 1),
        (ONE_CHANNEL, "1,3,8,8", ONE, 19, "c", 2),
        (GEMM, "4,3,8,8", PRODUCTS, 19, "s", 1),
        (MATMUL, "N,3,8,8", PRODUCTS, 19, "c", 1),
    ],
    ids=["conv", "dynamic", "opset 12", "pooled", "read twice", "transposed", "one channel", "gemm", "matmul"],
)
def test_what_is_to_stay_float_runs_in_float(
    body: str, shape: str, weights: dict[str, tuple[int, ...]], opset: int, skip: str, axis: int
) -> None:
    outputs = "e z" if " z = " in body else "e"
    m = net(body, f"float[{shape}] x", outputs, weights, opset=opset)
    kernels, off, notes = seen(m, skip=skip)
    assert repeated(m) == [axis]
    assert (kernels.integer, kernels.float) == (2, 1), kernels.remarks()
    assert off < 1e-6
    assert not any("rounds its weight" in note for note in notes)


def test_on_the_standard_target_as_well() -> None:
    m = net(CONVS, "float[1,3,8,8] x", "e", WEIGHTS)
    kernels, off, _ = seen(m, "onnx")
    assert repeated(m) == [1] and kernels.float == 1 and off < 1e-6


def test_without_it_the_runtime_rounds_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that all this is about: when this fails, ONNX Runtime has mended it."""
    table = load_target("ort-cpu").require_quant()
    monkeypatch.setattr(Target, "require_quant", lambda _: dataclasses.replace(table, requantized=()))
    m = net(CONVS, "float[1,3,8,8] x", "e", WEIGHTS)
    kernels, off, _ = seen(m)
    assert repeated(m) == [] and kernels.float == 0 and off > 1e-3


def test_other_readers_keep_one_scale() -> None:
    m = net(CONVS + " f = Conv(b, w3)", "float[1,3,8,8] x", "e f", WEIGHTS)
    kernels, off, _ = seen(m)
    assert repeated(m) == [1] and (kernels.integer, kernels.float) == (3, 1) and off < 1e-6


def test_nothing_is_done_where_no_q_stands_behind() -> None:
    m = net(CONVS.replace(" e = Conv(d, w3)", " e = Sigmoid(d)"), "float[1,3,8,8] x", "e", WEIGHTS)
    kernels, off, _ = seen(m)
    assert repeated(m) == [] and kernels.float == 1 and off < 1e-6


def test_it_says_where_nothing_can_be_done() -> None:
    """One channel, and no other size known: one scale is all there can be."""
    m = net(ONE_CHANNEL, "float[N,3,H,W] x", "e", ONE)
    kernels, _, notes = seen(m)
    assert repeated(m) == [] and kernels.integer == 3
    assert "c is to stay float, but ONNX Runtime rounds its weight" in notes


def test_the_report_says_why() -> None:
    m = net(CONVS, "float[1,3,8,8] x", "e", WEIGHTS)
    selection = QuantSelection(skip=("c",))
    pairs = {p.value.name: p for p in plan(m, load_target("ort-cpu").require_quant(), selection).pairs}
    assert list(pairs["b"].apart.values()) == [(1, 16)]
    assert "c gets a scale per channel" in pairs["b"].reason


def test_it_is_read_as_one_pair() -> None:
    m = net(CONVS + " f = Conv(b, w3)", "float[1,3,8,8] x", "e f", WEIGHTS)
    quantized(m, "ort-cpu", selection=QuantSelection(skip=("c",)))
    given = dequantize_graph(m, Editor(m))
    assert not [n for n in m.main.nodes if "Quant" in n.op or "Dequant" in n.op]
    assert given.pairs == 6  # of x, d, e and f, and twice of b


def test_it_has_one_switch() -> None:
    m = net(CONVS + " f = Conv(b, w3)", "float[1,3,8,8] x", "e f", WEIGHTS)

    def quantize(copy: Model, hook: Callable[[], None]) -> None:
        options = QuantOptions(selection=QuantSelection(skip=("c",)))
        quantize_graph(copy, Editor(copy), load_target("ort-cpu"), options, samples(copy), before_insert=hook)

    values = [s.values for s in switchboard(m, quantize).switches if not s.const]
    assert sorted(values) == [("b",), ("d",), ("e",), ("f",), ("x",)]
