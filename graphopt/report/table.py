"""The report as tables for a terminal: before and after, what each pass did, quantization, remarks.

Text only: what carries meaning is said in words and not by colour, so that a pipe loses nothing.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.report import units
from graphopt.report.report import Latency, PassSummary, Report

if TYPE_CHECKING:
    from graphopt.quant.budget import Budget
    from graphopt.quant.correct.gain import Gain
    from graphopt.quant.coverage import Coverage
    from graphopt.quant.insert import Placed
    from graphopt.quant.sensitivity import Sensitivity
    from graphopt.quant.verdict import Verdict
    from graphopt.verify.validate import Verification

_RULES_SHOWN = 3
_REASONS_SHOWN = 2
_LEFT_SHOWN = 5
_LAYERS_SHOWN = 20
_KEPT_SHOWN = 8
_RUNNERS = {"onnxruntime": "ONNX Runtime", "reference": "onnx's reference evaluator"}


def render(report: Report, *, stats: bool = False) -> RenderableType:
    """All of the report; with `stats`, every rule with how often it was tried, fired and declined, and why."""
    parts: list[RenderableType] = [_title(report), _comparison(report), Text()]
    parts.append(_passes(report.passes))
    if report.sensitivity is not None:
        parts += [Text(), sensitivity(report.sensitivity)]
    if stats:
        parts += [Text(), _rules(report.passes)]
        parts += [Text(), _placements(report.quantized)] if report.quantized else []
    parts += [Text(), _facts(report)]
    return Group(*parts)


def to_text(report: Report, *, width: int = 100, stats: bool = False) -> str:
    """The same as plain text, no line longer than `width` characters."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(render(report, stats=stats))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _title(report: Report) -> Text:
    text = Text(report.source, style="bold", overflow="fold")
    if report.output is not None:
        text.append(" → ", style="dim").append(report.output)
    text.append(f"   for {report.target}", style="not bold dim")
    return text


def table(*columns: str, right: tuple[str, ...] = (), fold: str | None = None) -> Table:
    """An empty table in the house style; `right` names columns of numbers, `fold` the one that may wrap."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name != fold,
            overflow="fold",
            ratio=None,
        )
    return made


def _comparison(report: Report) -> Table:
    made = table("", "before", "after", "difference", "", right=("before", "after", "difference"))
    for row in _rows(report):
        made.add_row(*row)
    return made


def _rows(report: Report) -> Iterator[tuple[str, str, str, str, str]]:
    before, after = report.before, report.after
    yield _row("nodes", before.nodes, after.nodes, "fewer", "more")
    yield _row("parameters", before.parameters, after.parameters, "fewer", "more")
    if before.file_bytes is not None and after.file_bytes is not None:
        yield _row("file size", before.file_bytes, after.file_bytes, "smaller", "larger", units.size)
    else:
        yield _row("weights", before.weight_bytes, after.weight_bytes, "smaller", "larger", units.size)
    yield _row("MACs", before.macs, after.macs, "fewer", "more")
    yield _row("planned memory", before.peak_bytes, after.peak_bytes, "smaller", "larger", units.size)
    if report.latency_before is not None and report.latency_after is not None:
        yield from _latency(report.latency_before, report.latency_after)
    if report.metric_before is not None and report.metric_after is not None:
        yield _metric(report.metric_before, report.metric_after)


def _row(
    name: str, before: int | None, after: int | None, less: str, more: str, text: Any = units.count
) -> tuple[str, str, str, str, str]:
    if before is None or after is None:
        return name, text(before), text(after), "", ""
    difference = units.signed(text(after - before)) if before != after else ""
    return name, text(before), text(after), difference, units.ratio(before, after, less, more)


def _latency(before: Latency, after: Latency) -> Iterator[tuple[str, str, str, str, str]]:
    """Medians, and under them the intervals that hold the middle half of the runs."""
    apart = not overlaps(before, after)
    yield (
        "latency",
        units.milliseconds(before.median),
        units.milliseconds(after.median),
        units.signed(units.milliseconds(after.median - before.median)) if apart else "",
        units.ratio(before.median, after.median, "faster", "slower") if apart else "no measurable change",
    )
    yield "  middle half", _interval(before), _interval(after), "", f"{after.runs} runs each"


def overlaps(before: Latency, after: Latency) -> bool:
    """Whether the intervals meet, so that the medians prove nothing."""
    return before.low <= after.high and after.low <= before.high


def _interval(latency: Latency) -> str:
    return f"{units.three(latency.low)} … {units.three(latency.high)} ms"


def _metric(before: float, after: float) -> tuple[str, str, str, str, str]:
    difference = units.signed(f"{after - before:.4g}") if before != after else ""
    relative = ""
    if before and before != after:
        relative = f"{abs(after - before) / abs(before) * 100:.2g} % {'lower' if after < before else 'higher'}"
    return "metric", f"{before:.6g}", f"{after:.6g}", difference, relative or "same"


def _passes(passes: list[PassSummary]) -> Table:
    numbers = ("rewrites", "nodes", "time")
    made = table("pass", *numbers, "what it did", right=numbers, fold="what it did")
    for item in passes:
        nodes = units.signed(f"{item.nodes_added}") if item.nodes_added else ""
        name = Text(item.name)
        if not item.asked:
            name.append(" +", style="dim")
        made.add_row(name, str(item.rewrites), nodes, units.duration(item.seconds), _deeds(item))
    if any(not item.asked for item in passes):
        made.caption = "+ added because a pass after it needs it"
        made.caption_justify = "left"
    return made


def _deeds(item: PassSummary) -> Text:
    """The rules that fired most and the commonest reasons why one did not, each on lines of their own."""
    lines = Text()
    fired = item.fired.most_common()
    shown = [f"{_short(name, item)} ×{n}" for name, n in fired[:_RULES_SHOWN]]
    if len(fired) > _RULES_SHOWN:
        shown.append(f"and {len(fired) - _RULES_SHOWN} more")
    lines.append(", ".join(shown) or "nothing to do")
    reasons = sorted(
        (
            (n, _short(rule, item), reason)
            for rule, counts in item.declined.items()
            if rule not in item.routine
            for reason, n in counts.items()
        ),
        key=lambda found: (-found[0], found[1:]),
    )
    for n, rule, reason in reasons[:_REASONS_SHOWN]:
        lines.append(f"\nnot {rule} ×{n}: {reason}", style="dim")
    if len(reasons) > _REASONS_SHOWN:
        lines.append("\n… more with --stats", style="dim")
    return lines


def _short(rule: str, item: PassSummary) -> str:
    return rule.removeprefix(f"{item.name}.")


def _rules(passes: list[PassSummary]) -> Table:
    """Every rule, those of a pass together; the slowest first if their time was measured, else by name."""
    timed = any(item.rule_seconds for item in passes)
    numbers = ("tried", "fired", "declined", *(("time",) if timed else ()))
    made = table("rule", *numbers, "because", right=numbers, fold="because")
    for item in passes:
        seconds = item.rule_seconds
        for name in sorted({*item.tried, *item.fired, *item.declined}, key=lambda n: (-seconds.get(n, 0.0), n)):
            reasons = item.declined.get(name, Counter[str]())
            lines = [f"{reason} ×{n}" for reason, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]
            tried = str(item.tried[name]) if name in item.tried else ""
            took = (units.duration(seconds[name]) if name in seconds else "",) if timed else ()
            made.add_row(name, tried, str(item.fired[name]), str(reasons.total()), *took, "\n".join(lines))
    return made


def _facts(report: Report) -> Table:
    """What no column holds: the verification, the quantization, what the numbers rest on, remarks."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    found: Verification | None = report.verification
    if found is None or found.status == "skipped":
        reason = found.reason if found is not None else None
        made.add_row("NOT VERIFIED", reason or "nobody checked that the result computes the same")
    else:
        made.add_row("verified", "\n".join(_verification(found)))
    if report.budget is not None:
        made.add_row("budget", Text("\n").join(_budget(report.budget)))
    if report.verdict is not None:
        made.add_row("verdict", Text("\n").join(_verdict(report.verdict)))
    quantized = list(_quantization(report))
    if quantized:
        made.add_row("quantized", Text("\n").join(quantized))
    if report.gains:
        made.add_row("corrected", "\n".join(_gains(report.gains)))
    if report.stopped_after is not None:
        made.add_row("stopped", f"after rewrite {report.stopped_after}")
    if assumed := report.after.assumed or report.before.assumed:
        made.add_row("assumed", f"{', '.join(assumed)} (for MACs and planned memory)")
    for note in _notes(report):
        made.add_row("note", note)
    made.add_row("took", _times(report.seconds))
    return made


def _verification(found: Verification) -> Iterator[str]:
    """The output that differs most, how that was found out, and what there is to say against it."""
    worst = found.worst
    if worst is None:
        yield "nothing could be compared"
    elif all(output.identical for output in found.outputs):
        yield f"{_many(len(found.outputs), 'output')} equal bit for bit"
    else:
        yield (
            f"{_many(len(found.outputs), 'output')}; worst {worst.name!r}: "
            f"max abs {worst.max_abs:.2g}, relative {worst.error:.2g}, SNR {_decibels(worst.snr)}"
        )
    runner = _RUNNERS.get(found.executor, found.executor)
    inputs = "made-up input" if found.feeds == "synthetic" else "input of the data"
    yield f"on {_many(found.samples, inputs)}, in {units.duration(found.seconds)}, by {runner}"
    if found.outputs and all(output.uniform for output in found.outputs):
        hint = "; give samples with --data" if found.feeds == "synthetic" else ""
        yield f"but no output varies, so that this says little{hint}"
    if found.left_out:
        yield f"left out, for they are random: {', '.join(found.left_out)}"
    if found.reason:
        yield found.reason


def _many(number: int, noun: str) -> str:
    head, of, tail = noun.partition(" of ")
    return f"{number} {head}{'s' if number != 1 else ''}{of}{tail}"


def _decibels(snr: float) -> str:
    return f"{snr:.0f} dB" if math.isfinite(snr) else "infinite" if snr > 0 else "none"


def _quantization(report: Report) -> Iterator[Text]:
    if report.calibration == "synthetic":
        yield Text(
            "SYNTHETIC CALIBRATION: the ranges come from made-up inputs; give real ones with --data",
            style="bold yellow",
        )
    elif report.calibration == "model":
        yield Text("with the scales that the model came with")
    elif report.calibration is not None:
        yield Text("calibrated on the data that was given")
    coverage: Coverage | None = report.coverage
    if coverage is None:
        return
    floats = {op.op for op in coverage.left}
    kernels = ", ".join(f"{kernel} ×{n}" for kernel, n in coverage.kernels.items() if kernel not in floats)
    yield Text(f"{coverage}: {kernels}" if kernels else str(coverage))
    remarks = coverage.remarks()
    yield from map(Text, remarks[:_LEFT_SHOWN])
    if len(remarks) > _LEFT_SHOWN:
        yield Text(f"and {len(remarks) - _LEFT_SHOWN} more reasons, which the JSON report has")


def _gains(gains: Sequence[Gain]) -> Iterator[str]:
    """For each correction where it helped, and how much, as the statistics of the calibration let one expect."""
    for name in dict.fromkeys(gain.name for gain in gains):
        some = sorted((g for g in gains if g.name == name), key=lambda g: g.decibels)
        middle, best = some[len(some) // 2], some[-1]
        yield (
            f"{name}: {_many(len(some), 'place')}, {middle.decibels:+.1f} dB in the middle, "
            f"{best.decibels:+.1f} dB at {best.where!r}"
        )


def sensitivity(found: Sensitivity) -> Table:
    """What each layer costs, and each activation between others, the worst first."""
    made = table("layer", "", "MACs", "alone", "most of it by", right=("MACs", "alone"), fold="layer")
    rows = [(found.of(op), op.name, op.op, units.count(op.macs), found.reason(op)) for op in found.worst()]
    rows += [(t.noise, t.values[0], "activation", "", f"itself{t.spread}") for t in found.between()]
    for noise, name, kind, macs, why in sorted(rows, key=lambda row: row[0], reverse=True)[:_LAYERS_SHOWN]:
        made.add_row(name, kind, macs, units.decibels(noise), why)
    more = len(rows) - _LAYERS_SHOWN
    made.caption = f"all together {units.decibels(found.noise)}, on {_many(found.samples, 'sample')}"
    made.caption += f"; {more} more cost less" if more > 0 else ""
    made.caption_justify = "left"
    return made


def _budget(found: Budget) -> Iterator[Text]:
    """How far the metric fell, in how many probes that was reached, and what stayed in float for it."""
    falls = f"{found.metric} {found.before:.6g} → {found.after:.6g}, at least {found.least:.6g} asked for"
    yield Text(f"{falls} ({_many(found.probes, 'probe')})")
    if not found.met:
        yield Text("NOT MET by any quantized model: kept float", style="bold yellow")
        return
    for item in found.kept[:_KEPT_SHOWN]:
        yield Text(f"{item.name} ({item.kind}) in {item.state}: {item.why}")
    if len(found.kept) > _KEPT_SHOWN:
        yield Text(f"and {len(found.kept) - _KEPT_SHOWN} more")


def _verdict(found: Verdict) -> Iterator[Text]:
    """Which model was kept, and what both took."""
    speed = found.speedup
    if speed is None:
        yield Text(f"not timed: {found.reason}")
        return
    kept = "the quantized model is faster"
    if not found.faster:
        kept = "NOT FASTER, but quantized all the same" if found.kept == "quantized" else "NOT FASTER: kept float"
    yield Text(kept, style="" if found.faster else "bold yellow")
    if not found.faster and not found.forced and found.kept == "quantized":
        yield Text(f"the float model could not be put back: {found.reason}")
    before, after = Latency.of(speed.before), Latency.of(speed.after)
    line = f"{units.milliseconds(before.median)} in float, {units.milliseconds(after.median)} quantized: "
    line += f"{units.three(speed.ratio)}× ({units.three(speed.low)} … {units.three(speed.high)})"
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in (found.shapes or {}).items())
    yield Text(f"{line}, {after.runs} runs each on one thread, with {inputs}")
    if found.kept == "float":
        yield Text("--force keeps the quantized one", style="dim")


def _placements(quantized: Iterable[Placed]) -> Table:
    """What became integers and why, one line for each reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in quantized:
        groups.setdefault((item.kind, item.dtype, item.reason), []).append(item.name)
    made = table("quantized", "type", "number", "why", "such as", right=("number",), fold="why")
    for (kind, dtype, reason), names in groups.items():
        made.add_row(kind, dtype, str(len(names)), reason, names[0])
    return made


def _notes(report: Report) -> Iterator[str]:
    """Remarks of the passes, then of the run."""
    for item in report.passes:
        yield from (f"{item.name}: {note}" for note in item.notes)
    yield from report.notes


def _times(seconds: dict[str, float]) -> str:
    """The wall time and where it went."""
    phases = ", ".join(f"{name} {units.duration(took)}" for name, took in seconds.items())
    return f"{units.duration(sum(seconds.values()))} ({phases})" if phases else ""
