"""The report as JSON: the schema `graphopt.report/1`.

    schema          "graphopt.report/1"
    source, output  paths; output is null if nothing was written
    target          the target's name
    before, after   nodes, parameters, weight_bytes, file_bytes, macs, peak_bytes (null: not known),
                    operators {name: count}, opset, assumed [text]
    passes          [{name, spelling, asked, rewrites, nodes_added, seconds, notes [text],
                      rules {name: {tried, fired, declined {reason: count}, seconds (null without --stats)}}}]
    rewrites        all rewrites together
    stopped_after   the ordinal at which --stop-after ended the run, else null
    verification    null if switched off, else {status, reason, seconds, samples, executor, outputs [{name, dtype,
                    shape, ok, why, max_abs, error, cosine, snr, differing, uniform, identical}]}
    metric          {before, after}, null without --eval
    latency         {before, after: {median, low, high: milliseconds, runs}, measurable}, null without --bench
    calibration     null, "data", "synthetic", or "model" for scales that were there before
    verdict         null if nothing was quantized, or without a check of its speed, else {kept ("quantized", "float"),
                    faster, forced, reason (null or why nothing was measured), shapes {input: [sizes]}, speedup: null or
                    {ratio, low, high, before, after: {median, low, high: milliseconds, runs}}}
    coverage        null, or {integer, dynamic, weights, float, kernels {name: count}, left [{name, op, reason}]}:
                    heavy operators on integers, those of them with scales found at run time, those with integer
                    weights only, and those in float
    quantized       [{kind, name, dtype, scale (the largest), channels, reason}], each activation, weight and bias
    corrections     [{name, where, before, after: signal-to-noise ratio in dB of what is computed there}]
    budget          null without max_drop, or {metric ("metric", "agreement"), max_drop, before, after, least, probes,
                    candidates, met, kept [{name, kind, state ("float", "16bit"), why}], notes [text]}
    sensitivity     null unless asked for, or {noise, samples, operators [{name, op, macs, noise, carrier ("weight",
                    "input", "output"), value (null: the weight), reason}]}, the worst first; noise over signal
    seconds         wall time by phase
    notes           [text]
    versions        {package: version}

There is no NaN and no infinity in it: what is not finite is written as the text "nan", "inf" or "-inf".
Fields may be added under the same number; it changes when one is removed or changes its meaning.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.report.report import Latency, Measures, PassSummary, Report
from graphopt.report.table import overlaps

SCHEMA = "graphopt.report/1"


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain dicts, lists, texts, numbers and None."""
    whole = {
        "schema": SCHEMA,
        "source": report.source,
        "output": report.output,
        "target": report.target,
        "before": _measures(report.before),
        "after": _measures(report.after),
        "passes": [_pass(item) for item in report.passes],
        "rewrites": report.rewrites,
        "stopped_after": report.stopped_after,
        "verification": _verification(report.verification),
        "metric": _metric(report),
        "latency": _latency(report.latency_before, report.latency_after),
        "calibration": report.calibration,
        "coverage": _coverage(report.coverage),
        "verdict": _verdict(report.verdict),
        "quantized": [dataclasses.asdict(item) for item in report.quantized],
        "corrections": [dataclasses.asdict(gain) for gain in report.gains or ()],
        "budget": _budget(report.budget),
        "sensitivity": _sensitivity(report.sensitivity),
        "seconds": report.seconds,
        "notes": report.notes,
        "versions": report.versions,
    }
    plain: dict[str, Any] = _plain(whole)
    return plain


def dumps(document: Mapping[str, Any]) -> str:
    """The text of a JSON document, indented, with a newline at its end."""
    return json.dumps(_plain(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _measures(measures: Measures) -> dict[str, Any]:
    return {**dataclasses.asdict(measures), "operators": dict(measures.operators.most_common())}


def _pass(item: PassSummary) -> dict[str, Any]:
    names = sorted({*item.tried, *item.fired, *item.declined})
    rules = {
        name: {
            "tried": item.tried[name],
            "fired": item.fired[name],
            "declined": dict(item.declined.get(name, {})),
            "seconds": item.rule_seconds.get(name),
        }
        for name in names
    }
    fields = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    for name in ("tried", "fired", "declined", "rule_seconds", "routine"):
        del fields[name]
    return {**fields, "rules": rules}


def _verification(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    outputs = [{**dataclasses.asdict(o), "identical": o.identical} for o in found.outputs]
    return {**fields, "outputs": outputs}


def _metric(report: Report) -> dict[str, Any] | None:
    if report.metric_before is None or report.metric_after is None:
        return None
    return {"before": report.metric_before, "after": report.metric_after}


def _latency(before: Latency | None, after: Latency | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
        "measurable": not overlaps(before, after),
    }


def _coverage(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "integer": found.integer,
        "dynamic": found.dynamic,
        "weights": found.weights,
        "float": found.float,
        "kernels": dict(found.kernels),
        "left": [dataclasses.asdict(op) for op in found.left],
    }


def _verdict(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    speed = found.speedup
    if speed is not None:
        times = {name: dataclasses.asdict(Latency.of(getattr(speed, name))) for name in ("before", "after")}
        fields["speedup"] = {"ratio": speed.ratio, "low": speed.low, "high": speed.high, **times}
    return fields


def _budget(found: Any) -> dict[str, Any] | None:
    return None if found is None else {**dataclasses.asdict(found), "least": found.least}


def _sensitivity(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    operators = []
    for op in found.worst():
        carrier, tensor, _ = found.carrier(op)
        row = {"name": op.name, "op": op.op, "macs": op.macs, "noise": found.of(op), "carrier": carrier}
        operators.append({**row, "value": tensor and tensor.values[0], "reason": found.reason(op)})
    between = [{"name": t.values[0], "noise": t.noise} for t in found.between()]
    return {"noise": found.noise, "samples": found.samples, "operators": operators, "activations": between}


def _plain(value: Any) -> Any:
    """`value` in the types that JSON has; numbers that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    number = float(value)  # numpy's numbers among them
    return number if math.isfinite(number) else str(number)
