"""`correct=refit`: what stays float behind quantized layers, fitted to what it gets, and judged on data held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant import Quantized, QuantOptions, quantize_graph
from graphopt.quant.correct.twins import Twin, run_twins
from graphopt.quant.place import QuantSelection
from graphopt.report.json import to_json
from graphopt.runtime.package import package
from graphopt.runtime.run import run_model
from graphopt.targets.target import load_target

Feeds = list[dict[str, np.ndarray]]

FRONT = "r = Gemm(x, w, b)"
NETS = {
    "gemm": f"{FRONT}  y = Gemm<transB = 1>(r, v, c)",
    "matmul": f"{FRONT}  m = MatMul(r, u)  y = Add(m, c)",
    "matmul without bias": f"{FRONT}  y = MatMul(r, u)",
    "normalization": f"{FRONT}  y = LayerNormalization(r, s, t)",
    "written out": f"{FRONT}  q = Mul(r, s)  y = Add(t, q)",
    "two in a row": f"{FRONT}  n = LayerNormalization(r, s, t)  y = Gemm<transB = 1>(n, v, c)",
    "conv": f"{FRONT}  e = Unsqueeze(r, axes)  y = Conv(e, k, c)",
}
CLIPPED = ("normalization", "written out", "two in a row")
"""Where means have to be off for a fit to find something."""


def net(name: str) -> Model:
    """A layer of 48 outputs that only carry 8 numbers, and behind it what stays float."""
    rng = np.random.default_rng(5)
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8] x) => (float[] y) {{ {NETS[name]} }}'
    )
    v = rng.normal(size=(4, 48))
    values = {
        "w": rng.normal(size=(8, 48)),
        "b": rng.normal(size=48),
        "v": v,
        "u": v.T,
        "k": v[:, :, None],
        "c": rng.normal(size=4),
        "s": rng.normal(size=48),
        "t": rng.normal(size=48),
    }
    for key, array in values.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), key))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "axes"))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    used = {i for node in proto.graph.node for i in node.input}
    kept = [i for i in proto.graph.initializer if i.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for i, node in enumerate(proto.graph.node):
        node.name = f"front{i}" if i < 1 else f"float{i}"
    return Model(*read_model(proto.SerializeToString()))


def batches(count: int, rows: int = 40, seed: int = 1) -> Feeds:
    rng = np.random.default_rng(seed)
    return [{"x": rng.exponential(size=(rows, 8)).astype(np.float32)} for _ in range(count)]


def quantized(name: str, data: Feeds | None, *corrections: str, **options: Any) -> tuple[Quantized, Model]:
    model = net(name)
    given = QuantOptions(
        method="percentile",
        percentile=92.0 if name in CLIPPED else 99.9,
        corrections=corrections,
        selection=QuantSelection(skip=("float*",)),
        **options,
    )
    return quantize_graph(model, Editor(model), load_target("onnx"), given, data), model


def error(model: Model, name: str) -> float:
    """The power of the error on data that nothing was fitted to."""
    exact, found = package(net(name).ir), package(model.ir)
    off = [run_model(found, f)["y"] - run_model(exact, f)["y"].astype(np.float64) for f in batches(8, seed=9)]
    return float(np.mean(np.square(off)))


@pytest.mark.parametrize("name", [name for name in NETS if name != "two in a row"])
def test_what_stays_float_makes_up_for_what_stands_in_front(name: str) -> None:
    _, plain = quantized(name, batches(8))
    done, fitted = quantized(name, batches(8), "refit")
    assert [g.name for g in done.gains] == ["refit"] and done.gains[0].after > done.gains[0].before
    assert error(fitted, name) < 0.98 * error(plain, name)


def test_layers_are_fitted_one_after_the_other() -> None:
    """So that the second is fitted to what the first gives then: with data that says all, it has the least error."""
    done, model = quantized("two in a row", batches(8), "refit")
    assert [g.where for g in done.gains] == ["float1", "float2"]
    off: list[np.ndarray] = []
    exact = package(net("two in a row").ir)
    for i, feeds in enumerate(batches(8)):
        if i % 4 != 1:
            off.append(run_model(package(model.ir), feeds)["y"] - run_model(exact, feeds)["y"])
    assert np.abs(np.concatenate(off).mean(0)).max() < 1e-4


def test_the_rows_of_one_batch_are_divided() -> None:
    _, plain = quantized("gemm", batches(1, 320))
    done, fitted = quantized("gemm", batches(1, 320), "refit")
    assert [g.name for g in done.gains] == ["refit"]
    assert error(fitted, "gemm") < 0.98 * error(plain, "gemm")


def test_one_sample_is_not_enough_to_judge_by() -> None:
    done, _ = quantized("gemm", batches(1, 1), "refit")
    assert not done.gains and "refit was not used: there is one sample only" in done.notes


def test_refits_need_data() -> None:
    done, _ = quantized("gemm", None, "refit")
    assert not done.gains and any(note.startswith("refit was not used: it runs") for note in done.notes)


def test_what_is_held_out_decides() -> None:
    """The batch that is held out has other inputs, with which no fit to the rest is any good."""
    data = batches(4, 40)
    data[1] = {"x": np.full((40, 8), 0.01, np.float32)}
    done, model = quantized("gemm", data, "refit")
    _, plain = quantized("gemm", data)
    assert not done.gains
    assert error(model, "gemm") == pytest.approx(error(plain, "gemm"))


def test_nothing_is_fitted_where_everything_is_exact() -> None:
    model = net("gemm")
    options = QuantOptions(corrections=("refit",), selection=QuantSelection(skip=("front*",)))
    done = quantize_graph(model, Editor(model), load_target("onnx"), options, batches(4))
    assert not [g for g in done.gains if g.name == "refit"], "no float layer stands behind a quantized one"


def test_the_bound_on_memory_divides_what_is_watched() -> None:
    once, first = quantized("two in a row", batches(8), "refit")
    again, second = quantized("two in a row", batches(8), "refit", calib_mem=1)
    assert [g.where for g in once.gains] == [g.where for g in again.gains]
    assert error(first, "two in a row") == pytest.approx(error(second, "two in a row"), rel=1e-3)


def test_the_report_has_the_gain() -> None:
    result = graphopt.optimize(
        net("gemm"), "quant{correct=refit,skip=float*,method=percentile,percentile=99.9}", target="onnx",
        data=batches(8), verify=False,
    )  # fmt: skip
    gains = to_json(result.report)["corrections"]
    assert [g["name"] for g in gains] == ["refit"]
    assert "refit: 1 place, +" in str(result.report)


def test_twins_have_the_moments_of_their_differences() -> None:
    def model(factor: float) -> Model:
        proto = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) '
            f"<float[3] f = {{{factor}, 1.0, 1.0}}> {{ y = Mul(x, f) }}"
        )
        return Model(*read_model(proto.SerializeToString()))

    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    parts = [[{"x": x[:30]}, {"x": x[30:]}], [{"x": np.full((2, 3), np.nan, np.float32)}]]
    whole, none = run_twins(
        package(model(1.0).ir), package(model(1.5).ir), [Twin("y", "y", -1, pairs=True), Twin("y", "y")], parts
    )
    (found, flat), both = whole, np.concatenate([x * [0.5, 0.0, 0.0], x * [1.5, 1.0, 1.0]], axis=1)
    assert none == [None, None]
    assert found is not None and flat is not None and found.moments is not None
    assert np.allclose(found.means, both.mean(0), atol=1e-6)
    assert np.allclose(found.moments, both.T @ both / 50, atol=1e-6)
    assert np.allclose(found.product, (both[:, :3] * both[:, 3:]).mean(0), atol=1e-6)
    assert np.allclose(flat.squares, [np.square(both[:, :3]).mean(), np.square(both[:, 3:]).mean()], atol=1e-6)
