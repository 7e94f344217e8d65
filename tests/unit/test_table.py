"""The report as text and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import parser

import graphopt
from graphopt.quant.coverage import Coverage, FloatOp
from graphopt.report import units
from graphopt.report.json import dumps, to_json
from graphopt.report.report import Latency, Measures, PassSummary, Report
from graphopt.report.table import to_text
from graphopt.verify.compare import OutputReport
from graphopt.verify.validate import Verification


def report() -> Report:
    return Report(
        source="resnet50.onnx",
        target="ort-cpu",
        output="resnet50.opt.onnx",
        before=Measures(176, 25_557_032, 102_228_128, 102_583_340, 4_133_742_592, 9_633_792, assumed=["batch = 1"]),
        after=Measures(338, 25_530_472, 25_900_000, 26_010_112, 4_133_742_592, 7_225_344, assumed=["batch = 1"]),
        passes=[
            PassSummary("cleanup", "cleanup", False, 14, -14, 0.004, Counter({"cleanup.dead": 14})),
            PassSummary(
                "quant",
                "quant{method=percentile}",
                True,
                104,
                176,
                1.93,
                Counter({"quant.Conv": 53, "quant.Add": 16, "quant.Gemm": 1, "quant.Mul": 1}),
                Counter({"quant.Conv": 60}),
                {
                    "quant.Conv": Counter({"the weight is not constant": 7, "too few rows": 1}),
                    "quant.Gemm": Counter({"a": 1}),
                },
                ["weights have 7 bits"],
            ),
        ],
        verification=Verification(
            "ok",
            None,
            (OutputReport("logits", "float32", (1, 1000), True, None, 0.31, 0.08, 0.9993, 28.4, 1000),),
            2,
            1.71,
            "onnxruntime",
            "synthetic",
            "approx",
        ),
        metric_before=0.9722,
        metric_after=0.9694,
        latency_before=Latency(21.3, 20.9, 22.0, 140),
        latency_after=Latency(8.41, 8.3, 8.9, 140),
        calibration="synthetic",
        coverage=Coverage({"QLinearConv": 53, "Gemm": 1}, (FloatOp("/fc/Gemm", "Gemm", "its name was to be skipped"),)),
        seconds={"load": 0.06, "passes": 1.97},
    )


def text(of: Report, width: int = 80, *, stats: bool = False) -> str:
    return to_text(of, width=width, stats=stats)


EXPECTED = """\
resnet50.onnx → resnet50.opt.onnx   for ort-cpu
                        before           after  difference
────────────────────────────────────────────────────────────────────────────────
nodes                      176             338        +162  1.92× more
parameters              25.6 M          25.5 M     −26.6 k  0.1 % fewer
file size               103 MB         26.0 MB    −76.6 MB  3.94× smaller
MACs                    4.13 G          4.13 G              same
planned memory         9.63 MB         7.23 MB    −2.41 MB  1.33× smaller
latency                21.3 ms         8.41 ms    −12.9 ms  2.53× faster
  middle half   20.9 … 22.0 ms  8.30 … 8.90 ms              140 runs each
metric                  0.9722          0.9694     −0.0028  0.29 % lower

pass       rewrites  nodes   time  what it did
────────────────────────────────────────────────────────────────────────────────
cleanup +        14    −14   4 ms  dead ×14
quant           104   +176  1.9 s  Conv ×53, Add ×16, Gemm ×1, and 1 more
                                   not Conv ×7: the weight is not constant
                                   not Conv ×1: too few rows
                                   … more with --stats
+ added because a pass after it needs it

verified   1 output; worst 'logits': max abs 0.31, relative 0.08, SNR 28 dB
           on 2 made-up inputs, in 1.7 s, by ONNX Runtime
quantized  SYNTHETIC CALIBRATION: the ranges come from made-up inputs; give real
           ones with --data
           int8 kernels: 53 of 54 heavy operators: QLinearConv ×53
           /fc/Gemm stayed float: its name was to be skipped
assumed    batch = 1 (for MACs and planned memory)
note       quant: weights have 7 bits
took       2.0 s (load 60 ms, passes 2.0 s)"""


def test_the_whole_table():
    rule = "─" * 10
    found = [line if not line.startswith(rule) else rule for line in text(report()).splitlines()]
    assert found == [line if not line.startswith(rule) else rule for line in EXPECTED.splitlines()]


def test_printing_a_report_shows_the_table():
    assert str(report()) == text(report(), 100)


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(len, text(report(), width, stats=True).splitlines())) <= width


def test_intervals_that_meet_prove_nothing():
    found = report()
    found.latency_after = Latency(20.8, 20.1, 21.0, 140)
    row = next(line for line in text(found).splitlines() if line.startswith("latency"))
    assert row.split("  ")[-1] == "no measurable change"
    assert "−" not in row


def test_what_is_not_known_is_a_question_mark():
    found = report()
    found.before = replace(found.before, macs=None)
    row = next(line for line in text(found).splitlines() if line.startswith("MACs"))
    assert row.split() == ["MACs", "?", "4.13", "G"]


def test_weights_stand_in_for_a_file_that_was_not_written():
    found = report()
    found.after = replace(found.after, file_bytes=None)
    assert "weights" in text(found)
    assert "file size" not in text(found)


def test_verification_that_is_missing_or_impossible():
    found = report()
    found.verification = None
    assert "NOT VERIFIED  nobody checked that the result computes the same" in text(found)
    found.verification = Verification("skipped", "the model is random: no output is the same twice")
    assert "NOT VERIFIED  the model is random: no output is the same twice" in text(found)


def test_verification_bit_for_bit():
    found = report()
    same = OutputReport("y", "float32", (1,), True, None)
    found.verification = Verification("ok", None, (same, same), 1, 0.1, "reference", "data", "exact")
    shown = text(found)
    assert "verified   2 outputs equal bit for bit" in shown
    assert "on 1 input of the data, in 100 ms, by onnx's reference evaluator" in shown


def test_verification_on_outputs_that_do_not_vary():
    found = report()
    dead = OutputReport("y", "float32", (4,), True, None, uniform=True)
    alive = OutputReport("z", "float32", (4,), True, None)
    for feeds in ("synthetic", "data"):
        found.verification = Verification("ok", None, (dead,), 1, 0.1, "onnxruntime", feeds)
        shown = " ".join(text(found).split())
        assert "but no output varies, so that this says little" in shown
        assert ("says little; give samples with --data" in shown) == (feeds == "synthetic")
    found.verification = Verification("ok", None, (dead, alive), 1, 0.1, "onnxruntime")
    assert "says little" not in text(found)


def test_stats_show_every_rule_and_reason():
    shown = text(report(), 120, stats=True)
    assert "the weight is not constant ×7" in shown
    assert "cleanup.dead" in shown
    row = next(line for line in shown.splitlines() if line.startswith("quant.Conv"))
    assert row.split()[:4] == ["quant.Conv", "60", "53", "8"]


def test_json_is_pure():
    found = report()
    found.metric_after = math.nan
    found.seconds = {"load": np.float32(0.5)}
    found.verification = Verification("ok", None, (OutputReport("y", "float32", (1,), True, None),), 1)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(dumps(to_json(found)), parse_constant=refuse)
    assert read["schema"] == "graphopt.report/1"
    assert read["metric"] == {"before": 0.9722, "after": "nan"}
    assert read["verification"]["outputs"][0]["snr"] == "inf"
    assert read["verification"]["outputs"][0]["identical"] is True
    assert read["seconds"] == {"load": 0.5}


def test_json_says_what_the_table_says():
    read = to_json(report())
    assert read["before"]["file_bytes"] == 102_583_340
    assert read["before"]["assumed"] == ["batch = 1"]
    assert read["rewrites"] == 118
    assert read["passes"][1]["rules"]["quant.Conv"] == {
        "tried": 60,
        "fired": 53,
        "declined": {"the weight is not constant": 7, "too few rows": 1},
        "seconds": None,
    }
    assert read["latency"]["measurable"] is True
    assert read["coverage"]["left"] == [{"name": "/fc/Gemm", "op": "Gemm", "reason": "its name was to be skipped"}]
    assert to_json(replace(report(), verification=None, coverage=None, latency_after=None))["latency"] is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9999"),
        (10_000, "10.0 k"),
        (999_600, "1.00 M"),
        (25_557_032, "25.6 M"),
        (None, "?"),
    ],
)
def test_counts(value, shown):
    assert units.count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999, "999 B"), (1_000, "1.00 kB"), (999_960, "1.00 MB"), (2_500_000_000, "2.50 GB"), (None, "?")],
)
def test_sizes(value, shown):
    assert units.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(31e-6, "31 µs"), (0.0123, "12 ms"), (3.96, "4.0 s"), (125, "2 min 05 s")]
)
def test_durations(seconds, shown):
    assert units.duration(seconds) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (100, 100, "same"),
        (100, 50, "2.00× smaller"),
        (100, 95, "5 % smaller"),
        (100, 105, "5 % larger"),
        (1_000_000, 999_999, "hardly smaller"),
        (0, 5, ""),
    ],
)
def test_ratios(before, after, shown):
    assert units.ratio(before, after, "smaller", "larger") == shown


def test_rules_that_look_at_every_operator_do_not_crowd_out_what_was_nearly_done():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Relu(x)  a = Exp(x)  z = Div(a, y) }""")
    (item,) = (p for p in graphopt.optimize(model, "simplify", verify=False).report.passes if p.name == "simplify")
    assert item.declined["simplify.relu_noop"].total() and "simplify.relu_noop" in item.routine
    assert "simplify.reshape_chain" not in item.routine
    found = report()
    found.passes[1] = replace(found.passes[1], routine=frozenset({"quant.Conv"}))
    text = to_text(found)
    assert "the weight is not constant" not in text and "not Gemm ×1: a" in text
    assert "the weight is not constant" in to_text(found, stats=True)
