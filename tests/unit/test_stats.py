"""`--stats`: how often each rule was tried and fired, why it declined, and how long it took."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from onnx import parser

import graphopt
from graphopt.engine import driver
from graphopt.report.json import to_json
from graphopt.report.report import PassSummary, Report
from graphopt.report.table import to_text

MODEL = parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[N] x) => (float[N] y) {
        one = Constant <value = float {1.0}> ()
        a = Relu(x)
        b = Relu(a)
        c = Mul(b, one)
        y = Exp(c)
    }
""")


def optimized(**options: Any) -> Report:
    return graphopt.optimize(MODEL, "simplify", verify=False, **options).report


def summary(report: Report) -> PassSummary:
    return next(item for item in report.passes if item.name == "simplify")


def test_the_time_of_each_rule_is_measured_when_asked_for() -> None:
    item = summary(optimized(stats=True))
    assert item.fired["simplify.idempotent"] == 1 and item.fired["simplify.mul_one"] == 1
    assert set(item.tried) <= set(item.rule_seconds)
    assert all(0 < seconds < item.seconds for seconds in item.rule_seconds.values())


def test_the_clock_is_not_read_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        read = 0

        def perf_counter(self) -> float:
            self.read += 1
            return time.perf_counter()

    clock = Clock()
    monkeypatch.setattr(driver, "time", clock)
    assert summary(optimized()).rule_seconds == {} and clock.read == 0
    item = summary(optimized(stats=True))
    assert item.rule_seconds and clock.read == 2 * sum(item.tried.values())


def test_the_table_has_the_slowest_rule_first() -> None:
    report = optimized()
    item = summary(report)
    item.rule_seconds = {"simplify.mul_one": 0.25, "simplify.idempotent": 0.5}
    lines = to_text(report, stats=True).splitlines()
    header = next(line for line in lines if line.startswith("rule "))
    assert header.split() == ["rule", "tried", "fired", "declined", "time", "because"]
    names = [line.split()[0] for line in lines if line.startswith("simplify.")]
    assert names[:2] == ["simplify.idempotent", "simplify.mul_one"]
    assert next(line for line in lines if line.startswith("simplify.idempotent ")).split()[-2:] == ["500", "ms"]


def test_the_table_without_times_goes_by_name() -> None:
    lines = to_text(optimized(), stats=True).splitlines()
    header = next(line for line in lines if line.startswith("rule "))
    assert header.split() == ["rule", "tried", "fired", "declined", "because"]
    names = [line.split()[0] for line in lines if line.startswith("simplify.")]
    assert names == sorted(names)


def test_json_has_the_seconds() -> None:
    for stats in (True, False):
        document = json.loads(json.dumps(to_json(optimized(stats=stats))))
        (found,) = [p["rules"] for p in document["passes"] if p["name"] == "simplify"]
        assert (found["simplify.mul_one"]["seconds"] is not None) is stats
        assert "rule_seconds" not in document["passes"][0]
