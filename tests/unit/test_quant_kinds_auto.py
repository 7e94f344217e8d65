"""`auto`: which kind each operator gets, from its sizes and a table of figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.ir.edit import Editor
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.ir.save import to_bytes
from graphopt.quant import Quantized, QuantOptions, coverage, quantize_graph
from graphopt.targets.kinds import Figures, read_kind_table
from graphopt.targets.target import Target, load_target
from tests.unit.kinds import feeds_of, ops, proto, reasons, run, weight

FIXTURES = Path(__file__).parents[2] / "fixtures"
# Below 100 rows and columns nothing pays; many rows: static and dynamic alike, few: weights.
FIGURES = Figures({
    "product": [
        {"m": 1, "k": 16, "n": 16, "static": 1.5, "dynamic": 1.4, "int8": 1.1, "int4": 1.1},
        {"m": 512, "k": 16, "n": 16, "static": 1.5, "dynamic": 1.4, "int8": 1.9, "int4": 1.9},
        {"m": 1, "k": 256, "n": 256, "static": 0.8, "dynamic": 0.7, "int8": 0.3, "int4": 0.2},
        {"m": 512, "k": 256, "n": 256, "static": 0.32, "dynamic": 0.30, "int8": 1.2, "int4": 1.4},
    ],
    "lstm": [
        {"steps": 10, "batch": 1, "width": 16, "dynamic": 1.4},
        {"steps": 10, "batch": 1, "width": 256, "dynamic": 0.4},
    ],
})  # fmt: skip
LARGE, SMALL = {"w": weight(256, 256)}, {"w": weight(16, 16)}


def target(name: str = "ort-cpu") -> Target:
    found = load_target(name)
    return replace(found, kinds=replace(found.kinds, figures=FIGURES))


def auto(source: onnx.ModelProto, *, data: bool = True, to: Target | None = None, **options: object) -> tuple[Model, Quantized]:
    m = Model(*read_model(source.SerializeToString()))
    samples = [feeds_of(source, seed=s) for s in range(2)] if data else None
    done = quantize_graph(m, Editor(m), to or target(), QuantOptions(kind="auto", **options), samples)  # type: ignore[arg-type]
    onnx.checker.check_model(onnx.load_from_string(to_bytes(m.ir)))
    return m, done


def product(rows: str, n: int = 256) -> onnx.ModelProto:
    return proto(f"(float[{rows}, {n}] x) => (float[{rows}, {n}] y)", "y = MatMul(x, w)", **(LARGE if n == 256 else SMALL))


def test_rows_decide() -> None:
    assert ops(auto(product("1, 512"))[0]) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert ops(auto(product("1, 512"), data=False)[0]) == ["DynamicQuantizeMatMul"]
    assert ops(auto(product("1, 1"))[0]) == ["MatMulNBits"]
    m, done = auto(product("1, 512", 16))
    assert ops(m) == ["MatMul"] and "at 512 × 16 × 16, dynamic takes 1.40 of the time of float" in reasons(done)["MatMul"]


def test_an_open_length_counts_at_its_worst() -> None:
    """Weights are best for one row, and bad for many; dynamic is good for both."""
    assert ops(auto(product("1, S"), data=False)[0]) == ["DynamicQuantizeMatMul"]
    assert ops(auto(product("N"), data=False)[0]) == ["DynamicQuantizeMatMul"]


def test_without_data_nothing_is_calibrated_unless_it_must() -> None:
    m, done = auto(product("1, 512"), data=False)
    assert done.calibration is None and done.kinds == {"dynamic": 1} and "graphopt.calibration" not in m.metadata
    source = proto("(float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y)", "y = Conv<pads = [1, 1, 1, 1]>(x, w)", w=weight(8, 8, 3, 3))
    m, done = auto(source, data=False)
    assert done.synthetic and "QuantizeLinear" in ops(m)


def test_kinds_side_by_side() -> None:
    source = proto(
        "(float[1, 512, 256] x) => (float[1, 512, 256] y, float[10, 1, 1, 256] z)",
        "h = MatMul(x, w) y = Relu(h) s = Slice(x, a, b, c) t = Transpose<perm = [1, 0, 2]>(s) z = LSTM<hidden_size = 256>(t, i, r)",
        **LARGE, i=weight(1, 1024, 256) * np.float32(0.05), r=weight(1, 1024, 256, seed=1) * np.float32(0.05),
        a=np.array([0]), b=np.array([10]), c=np.array([1]),
    )  # fmt: skip
    m, done = auto(source)
    assert "DynamicQuantizeLSTM" in ops(m) and "QuantizeLinear" in ops(m) and done.operators == 1
    assert done.kinds == {"dynamic": 1} and not done.declined
    feeds = feeds_of(source)
    for a, b in zip(run(source, feeds), run(to_bytes(m.ir), feeds), strict=True):
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_recurrent_layers_by_their_width() -> None:
    def lstm(width: int) -> onnx.ModelProto:
        w = np.random.default_rng(0).standard_normal((1, 4 * width, width)).astype(np.float32) * np.float32(0.05)
        signature = f"(float[10, 1, {width}] x) => (float[10, 1, 1, {width}] y)"
        return proto(signature, f"y = LSTM<hidden_size = {width}>(x, w, r)", w=w, r=w[:, ::-1].copy())

    assert ops(auto(lstm(256))[0]) == ["DynamicQuantizeLSTM"]
    m, done = auto(lstm(16))
    assert ops(m) == ["LSTM"] and "1.40" in reasons(done)["LSTM"]


def test_large_embeddings_only() -> None:
    for rows, expected in ((200, ["Gather"]), (6000, ["Gather", "Cast", "Gather", "Mul"])):
        source = proto("(int64[3] i) => (float[3, 64] y)", "y = Gather(t, i)", t=weight(rows, 64))
        assert ops(auto(source, data=False)[0]) == expected


def test_4_bits_only_if_asked() -> None:
    bits = {}
    for dtype in ("int8", "int4"):
        m, _ = auto(product("1, 1"), weight=dtype)
        bits[dtype] = next(iter(m.main.nodes)).attr("bits")
    assert bits == {"int8": 8, "int4": 4}


def test_what_the_user_skips_stays_float() -> None:
    source = product("1, 512")
    source.graph.node[0].name = "head"
    m, done = auto(source, selection=graphopt.QuantSelection(skip=("head",)))
    assert ops(m) == ["MatMul"] and "skipped" in reasons(done)["MatMul"]
    with pytest.raises(graphopt.UsageError):
        auto(source, selection=graphopt.QuantSelection(ops=("Nothing",)))
    assert auto(source, selection=graphopt.QuantSelection(ops=("LSTM",)))[1].operators == 0


def test_a_target_without_figures_takes_what_it_has() -> None:
    assert ops(auto(product("1, 512"), to=load_target("onnx"))[0])[0] == "QuantizeLinear"


def test_figures_between_measured_sizes() -> None:
    def ratio(m: int, n: int) -> float:
        found = FIGURES.ratio("product", "int8", {"m": m, "k": n, "n": n})
        assert found is not None
        return found

    assert ratio(1, 256) == pytest.approx(0.3, rel=1e-3) and ratio(512, 16) == pytest.approx(1.9, rel=1e-3)
    assert 0.3 < ratio(16, 256) < 1.2 and ratio(2, 256) < ratio(128, 256)
    assert FIGURES.ratio("product", "unheard", {"m": 1}) is None and FIGURES.ratio("gru", "dynamic", {}) is None


def test_the_figures_that_come_with_the_package() -> None:
    figures = load_target("ort-cpu").kinds.figures
    rows = figures.tables["product"]
    assert {(r["m"], r["n"]) for r in rows} >= {(1, 64), (1, 1024), (128, 64), (128, 1024)}
    small, large = ({k: figures.ratio("product", k, {"m": 128, "k": n, "n": n}) for k in ("static", "dynamic")} for n in (64, 1024))
    assert all(a > b for a, b in zip(small.values(), large.values(), strict=True))  # type: ignore[operator]
    assert all(r["dynamic"] > 0 for r in figures.tables["lstm"])


@pytest.mark.parametrize("text", ['product = [{ m = 1, k = 0, n = 1, static = 1 }]', 'product = [{ m = "one" }]', "product = [1]", "="])
def test_a_file_that_is_no_table_of_figures(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(graphopt.UsageError) as caught:
        read_kind_table({"measured": "f.toml"}, "here", tmp_path)
    assert "f.toml" in str(caught.value)


@pytest.mark.parametrize("name", ["bilstm", "vit", "residual_cnn"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_trained_networks_keep_their_accuracy(name: str, calibrated: bool) -> None:
    path = FIXTURES / "models" / f"{name}.onnx"
    data = FIXTURES / "data" / "digits_calib.npz" if calibrated else None
    done = graphopt.optimize(path, "fuse,quant{kind=auto}", target=target(), data=data, verify=False)
    images = np.load(FIXTURES / "data" / "digits_test.npz")["image"]
    labels = np.load(FIXTURES / "data" / "digits_labels.npy")
    found = [float((run(d, {"image": images})[0].argmax(1) == labels).mean()) for d in (path.read_bytes(), to_bytes(done.model.ir))]
    assert found[1] >= found[0] - (0.005 if calibrated else 0.02)
    assert coverage(done.model).integer >= 1
