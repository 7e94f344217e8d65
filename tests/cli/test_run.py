"""`graphopt run` from end to end, in the ways that people call it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

METRIC = """
import numpy as np
calls = []
def first_better(run):
    calls.append(run({"image": np.zeros((1, 2, 8, 8), np.float32)}))
    return 0.9 if len(calls) == 1 else 0.8
def batch(run):
    return float(run({"image": np.zeros((3, 2, 8, 8), np.float32)})["logits"].shape[0])
"""


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_writes_beside_the_input_and_shows_a_table(cli, model):
    before = model.read_bytes()
    code, out, err = cli("run", model.name, "-p", "cleanup,fuse")
    assert (code, err) == (0, "")
    output = model.with_name("net.opt.onnx")
    assert operators(output) == ["Conv", "Relu"]
    assert model.read_bytes() == before
    lines = out.splitlines()
    assert lines[0] == "net.onnx → net.opt.onnx   for onnx"
    assert any(line.startswith("nodes ") and line.endswith("2.50× fewer") for line in lines)
    assert any(line.startswith("verified ") for line in lines)
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def test_output_may_be_the_input(cli, model):
    assert cli("run", model, "-p", "cleanup", "-o", model).code == 0
    assert "Identity" not in operators(model)
    assert [p.name for p in model.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    "args",
    [
        ("-p", "cleanup,fuse"),
        ("-p", "cleanup fuse"),
        ("-p", "cleanup", "-p", "fuse"),
        ("-p", "cleanup", "fuse"),
        ("--passes", "cleanup,", "fuse"),
        ("-O2",),
        ("-O", "2"),
        (),
    ],
)
def test_ways_to_name_passes(cli, model, args):
    assert cli("run", model, *args, "--no-verify").code == 0
    assert operators(model.with_name("net.opt.onnx")) == ["Conv", "Relu"]


def test_a_level_limits_the_passes(cli, model):
    assert cli("run", model, "-p", "cleanup,fuse", "-O1", "--no-verify").code == 0
    assert "BatchNormalization" in operators(model.with_name("net.opt.onnx"))


def test_level_0_changes_nothing(cli, model):
    assert cli("run", model, "-O0").code == 0
    assert operators(model.with_name("net.opt.onnx")) == operators(model)


def test_dry_run_shows_prerequisites_and_writes_nothing(cli, model):
    code, out, err = cli("run", model, "-p", "quant{method=percentile}", "-t", "ort-cpu", "--dry-run")
    assert (code, err) == (0, "")
    rows = [line.split()[1:3] for line in out.splitlines() if line[:1].isdigit()]
    assert rows[-1] == ["quant{method=percentile}", "asked"]
    assert ["fuse", "needed"] in rows
    assert [p.name for p in model.parent.iterdir()] == ["net.onnx"]


def test_json_to_a_file_beside_the_table(cli, model, tmp_path):
    code, out, _ = cli("run", model, "-p", "cleanup", "--json", "report.json")
    assert code == 0
    assert "nodes" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "graphopt.report/1"
    assert (report["before"]["nodes"], report["after"]["nodes"]) == (5, 3)
    assert report["verification"]["status"] == "ok"
    assert report["passes"][0]["rules"]


def test_json_on_stdout_stands_alone(cli, model):
    code, out, err = cli("run", model, "-p", "cleanup", "--json", "-")
    assert code == 0
    assert json.loads(out)["rewrites"] == 2
    assert "for onnx" in err


def test_quiet_prints_nothing(cli, model):
    assert cli("run", model, "-p", "cleanup", "-q") == (0, "", "")


def test_verbose_names_each_step_on_stderr(cli, model):
    code, out, err = cli("run", model, "-p", "cleanup", "-v")
    assert code == 0
    assert "nodes" in out
    assert {"graphopt: cleanup", "graphopt: verify", "graphopt: save"} <= set(err.splitlines())
    assert err.splitlines()[-1] == f"graphopt: wrote {model.with_name('net.opt.onnx')}"


def test_stats_list_the_rules(cli, model):
    _, out, _ = cli("run", model, "-p", "fuse", "--stats", "--no-verify")
    header = next(line for line in out.splitlines() if line.startswith("rule "))
    assert header.split() == ["rule", "tried", "fired", "declined", "time", "because"]


def test_not_verified_is_said_aloud(cli, model):
    assert "NOT VERIFIED" in cli("run", model, "-p", "cleanup", "--no-verify").out


def test_stop_after_is_shown(cli, model):
    code, out, _ = cli("run", model, "-p", "cleanup", "--stop-after", "1")
    assert code == 0
    assert "stopped" in out
    assert operators(model.with_name("net.opt.onnx")).count("Identity") == 1


def test_external_data(cli, model, tmp_path):
    assert cli("run", model, "-p", "cleanup", "--external-data", "-o", "out.onnx").code == 0
    weights = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert any(w.data_location == onnx.TensorProto.EXTERNAL for w in weights) or len(list(tmp_path.iterdir())) == 2


def test_settings_from_files(cli, model, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.graphopt]\npasses = "fuse"\noutput = "project.onnx"\n')
    assert cli("run", model, "--no-verify").code == 0
    assert operators(tmp_path / "project.onnx").count("Conv") == 1
    config = tmp_path / "graphopt.toml"
    config.write_text('output = "config.onnx"\nverify = false\n')
    assert cli("run", model, "--config", config).code == 0
    assert (tmp_path / "config.onnx").exists()
    assert cli("run", model, "--config", config, "-o", "flag.onnx").code == 0
    assert (tmp_path / "flag.onnx").exists()


def test_metric_before_and_after(cli, model, tmp_path):
    (tmp_path / "metric.py").write_text(METRIC)
    code, out, _ = cli("run", model, "-p", "cleanup", "--eval", "metric.py:batch", "--max-drop", "0")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("metric "))
    assert row.split() == ["metric", "3", "3", "same"]


def test_a_gate_that_is_missed_writes_nothing_but_shows_why(cli, model, tmp_path):
    (tmp_path / "metric.py").write_text(METRIC)
    code, out, err = cli("run", model, "-p", "cleanup", "--eval", "metric.py:first_better", "--max-drop", "1%")
    assert code == 5
    assert next(line for line in out.splitlines() if line.startswith("metric ")).split()[:4] == [
        "metric",
        "0.9",
        "0.8",
        "−0.1",
    ]
    assert err == (
        f"graphopt: error: {model}: the metric falls from 0.9 to 0.8, by more than 1 %\n"
        "  nothing was written; allow a larger drop, give more calibration data, or leave out passes\n"
    )
    assert not model.with_name("net.opt.onnx").exists()


def test_a_gate_wide_enough_lets_it_pass(cli, model, tmp_path):
    (tmp_path / "metric.py").write_text(METRIC)
    code, _, _ = cli("run", model, "-p", "cleanup", "--eval", "metric.py:first_better", "--max-drop", "12")
    assert code == 0
    assert model.with_name("net.opt.onnx").exists()


def test_failed_verification_writes_nothing(cli, model, monkeypatch):
    from graphopt.verify import validate

    failed = validate.Verification("failed", "output 'logits': relative error 3 exceeds 0.0001")
    monkeypatch.setattr(validate, "validate", lambda *args, **options: failed)
    output = model.with_name("net.opt.onnx")
    output.write_text("what stood here before")
    code, out, err = cli("run", model, "-p", "cleanup")
    assert (code, out) == (4, "")
    assert "relative error 3 exceeds 0.0001" in err
    assert output.read_text() == "what stood here before"


def test_bench_shows_medians_and_intervals(cli, model, monkeypatch):
    monkeypatch.setattr("graphopt.compile._BENCH_SECONDS", 0.05)
    code, out, _ = cli("run", model, "-p", "cleanup,fuse", "--bench")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith(("latency", "  middle half"))]
    assert len(rows) == 2
    assert rows[1].endswith("runs each")


def test_data_verifies(cli, model, tmp_path):
    np.savez(tmp_path / "data.npz", image=np.ones((1, 2, 8, 8), np.float32))
    code, out, _ = cli("run", model, "-p", "cleanup", "--data", "data.npz")
    assert code == 0
    assert "1 input of the data" in out


def test_target_that_is_not_installed(cli, model, monkeypatch):
    monkeypatch.setattr("graphopt.emit.tensorrt.find_spec", lambda name: None)
    code, out, err = cli("run", model, "-p", "cleanup", "-t", "tensorrt-rtx", "-o", "net.engine")
    assert (code, out) == (6, "")
    assert err == (
        "graphopt: error: net.engine: an engine needs TensorRT for RTX, which is not installed\n"
        '  install it: pip install "graphopt[tensorrt]" (it needs no GPU)\n'
    )


def test_synthetic_calibration_is_flagged_aloud(cli, model):
    code, out, _ = cli("run", model, "-p", "quant", "-t", "ort-cpu", "--force")
    assert code == 0
    assert "SYNTHETIC" in out


def test_the_sensitivity_and_a_budget_without_a_metric(cli, model):
    code, out, _ = cli(
        "run", model, "-p", "fuse,quant", "-t", "ort-cpu", "--sensitivity", "--max-drop", "30%", "--resume", "notes.json",
        "--json", "report.json",
    )  # fmt: skip
    assert code == 0
    assert "all together" in out
    assert "budget     agreement 100 → " in out
    report = json.loads(model.with_name("report.json").read_text())
    assert [row["op"] for row in report["sensitivity"]["operators"]] == ["Conv"]
    assert (report["budget"]["metric"], report["budget"]["probes"]) == ("agreement", 1)
    notes = json.loads(model.with_name("notes.json").read_text())
    assert set(notes["sections"]) == {"noise", "float", "probes"}


def test_a_gate_that_is_missed_shows_what_was_found(cli, model):
    code, out, err = cli("run", model, "-p", "fuse,quant", "-t", "ort-cpu", "--min-speedup", "3x")
    assert code == 5
    assert "verdict" in out
    assert err.endswith(
        "the quantized model is 2.00 times as fast as the float one, not 3 times\n"
        "  nothing was written; ask for less, or leave quant out\n"
    )
    assert not model.with_name("net.opt.onnx").exists()
