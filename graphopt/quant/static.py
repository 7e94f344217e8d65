"""Static int8 from end to end: plan, calibrate, range, insert."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import UsageError, nearest
from graphopt.quant.calibrate import Calibration, Watch, calibrate
from graphopt.quant.correct.weights import WeightCorrections
from graphopt.quant.coverage import reasons_by_name
from graphopt.quant.insert import Decliner, Placed, insert
from graphopt.quant.kinds import carry_out, nodes_of_kind
from graphopt.quant.lift import lift_opset
from graphopt.quant.options import QuantOptions
from graphopt.quant.place import Plan, plan
from graphopt.quant.present import read_present
from graphopt.quant.qoperator import to_qoperators
from graphopt.quant.ranges import Range, range_of
from graphopt.quant.store import obtain
from graphopt.quant.strip import dequantize_graph
from graphopt.quant.types import qtype
from graphopt.runtime.executor import ExecutorError
from graphopt.targets.cpu import multiplies_bytes_exactly
from graphopt.verify.feeds import synthesize
from graphopt.verify.validate import made_up_feeds

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.correct.gain import Gain
    from graphopt.quant.place import Pair
    from graphopt.quant.statistics import TensorStatistics
    from graphopt.quant.verdict import Verdict
    from graphopt.targets.table import QuantTable
    from graphopt.targets.target import Target

__all__ = ["Quantized", "quantize_graph"]

SYNTHETIC_KEY = "graphopt.calibration"
SYNTHETIC_BATCHES = 8
_KEPT = "kept as they are (existing=strip quantizes anew, and the pass dequant makes floats of them)"

Progress = Callable[[str, int, "int | None"], None]
Feeds = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Quantized:
    """What was done: what was placed, what was declined (node, operator, reason), from which calibration,
    with how many bits. `kinds`: operators that were quantized otherwise than static, by kind. `verdict`: whether it
    paid, if that was asked. `reasons`: why operators stay float, as `coverage` takes them. `gains`: what corrections
    made better.
    """

    placed: Sequence[Placed]
    declined: Sequence[tuple[str, str, str]]
    operators: int
    calibration: Calibration | None
    weight_bits: int
    notes: Sequence[str] = ()
    verdict: Verdict | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    gains: Sequence[Gain] = ()

    @property
    def synthetic(self) -> bool:
        return self.calibration is not None and self.calibration.synthetic


def quantize_graph(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    decline: Decliner | None = None,
) -> Quantized:
    """Quantize `model` in place for `target`, with `data` (dicts of input name to array) or, without,
    invented inputs.

    A model that is quantized already is left as it is, unless `options.existing` says otherwise. `decline` is
    told of rewrites that cannot be made: by which name, at which node, and why. A model with invented ranges
    says so in its metadata (`graphopt.calibration` = `synthetic`). Raises `TargetError` if the target has no
    placement, `UsageError` for options, `DataError` for no data.
    """
    options.check()
    present = read_present(model)
    if present and options.existing == "keep":
        return Quantized((), (), 0, None, 8, (f"already quantized: {present}; {_KEPT}",))
    if present:
        dequantize_graph(model, edit, decline)
    if options.kind in ("dynamic", "weights"):
        return _at_run_time(model, edit, target, options)
    if options.format == "qoperator":
        target.kinds.require("qoperator", target.name)
    table = target.require_quant()
    _check_ops(options.selection.ops, table)
    lifted = lift_opset(model, edit, target, _opset_needed(model, table, options), decline=decline)
    placement = plan(model, table, options.selection, per_channel=options.per_channel, protects=edit.protects)
    remarks = [*([lifted] if lifted else []), *placement.notes]
    if present:
        remarks.append(f"already quantized: {present}; quantized anew")
    bits = 7 if _seven_bits(table, options.reduce_range) else 8
    if not placement.heavy:
        return Quantized((), _declined(placement), 0, None, bits, remarks, reasons=_reasons(placement))
    corrections = WeightCorrections(options.corrections)
    watches: list[Watch | str] = [v.name for v in placement.calibrated]
    watches += corrections.watches(placement.heavy)
    stored = options.calibration is not None and options.calibration.exists()
    batches = (() if stored else _invented(model, seed)) if data is None else data
    run = functools.partial(
        calibrate,
        model,
        batches=batches,
        synthetic=data is None,
        budget=options.calib_mem,
        progress=_teller(progress, "calibration"),
    )
    calibration = obtain(model, watches, data, options.calibration, run)
    if stored:
        remarks.append(f"ranges from {options.calibration}")
    corrections.use(calibration)
    declined, reasons = _declined(placement), _reasons(placement)
    placed = insert(
        placement,
        _ranges(placement, calibration.statistics, options),
        edit,
        bits=bits,
        corrections=corrections,
        progress=_teller(progress, "quantization"),
        decline=decline,
    )
    model.metadata.pop(SYNTHETIC_KEY, None)
    if calibration.synthetic:
        model.metadata[SYNTHETIC_KEY] = "synthetic"
    done = sum(h.weight is None or h.node.inputs[1] != h.weight for h in placement.heavy)
    remarks += [*corrections.notes, *_in_integers(edit, target, options)]
    return Quantized(
        placed, declined, done, calibration, bits, remarks, reasons=reasons, gains=tuple(corrections.gains)
    )


def _in_integers(edit: Editor, target: Target, options: QuantOptions) -> Iterator[str]:
    """Make QOperators of what stands between Q and DQ, if asked; how many, and why others stay."""
    if options.format != "qoperator":
        return
    count, declined = to_qoperators(edit, target.kinds.qoperator)
    yield f"{count} operators read and write integers"
    for (op, reason), number in Counter((op, reason) for _, op, reason in declined).items():
        yield f"{number} × {op} stays between Q and DQ: {reason}"


def _ranges(placement: Plan, statistics: Mapping[str, TensorStatistics], options: QuantOptions) -> dict[Value, Range]:
    """The range of each calibrated value; for the widest type, where it is stored in several."""
    pairs: dict[Value, Pair] = {}
    for pair in sorted(placement.pairs, key=lambda p: qtype(p.dtype).bits):
        pairs.update(dict.fromkeys((pair.like, *pair.also), pair))
    symmetric = placement.table.symmetric
    return {
        v: range_of(
            statistics[v.name],
            options.method,
            options.percentile,
            dtype=pair.dtype,
            symmetric=symmetric or pair.dtype == "int8",
        )
        for v, pair in pairs.items()
    }


def _at_run_time(model: Model, edit: Editor, target: Target, options: QuantOptions) -> Quantized:
    """Quantize what needs no calibration."""
    chosen, before = nodes_of_kind(model, options.kind, options, target)
    bits = 7 if target.quant is not None and _seven_bits(target.quant, options.reduce_range) else 8
    done = carry_out(edit, target, options, {options.kind: chosen}, bits=bits)
    kinds = {options.kind: len(done.placed)} if done.placed else {}
    return Quantized(done.placed, [*before.declined, *done.declined], 0, None, bits, kinds=kinds)


def _teller(progress: Progress | None, what: str) -> Callable[[int, int | None], None]:
    return (lambda *_: None) if progress is None else functools.partial(progress, what)


def _opset_needed(model: Model, table: QuantTable, options: QuantOptions) -> int:
    """The oldest opset in which a model is quantized as well as options and target allow; 0 if nothing will be."""
    if not any(node.is_standard and _has_weight(node) for node in model.main.find(*table.weighted)):
        return 0
    return table.opset_per_channel if options.per_channel and table.per_channel else table.opset


def _has_weight(node: Node) -> bool:
    x, w = (*node.inputs, None, None)[:2]
    return x is not None and w is not None and w.is_const and not x.is_const


def _seven_bits(table: QuantTable, wanted: bool | None) -> bool:
    for choice in (wanted, table.reduce_range):
        if choice is not None:
            return choice
    return table.reduce_range_without_vnni and not multiplies_bytes_exactly()


def _declined(placement: Plan) -> list[tuple[str, str, str]]:
    return [(d.node.name, d.node.op, d.reason) for d in placement.declined]


def _reasons(placement: Plan) -> dict[str, str]:
    return reasons_by_name((d.node, d.reason) for d in placement.declined)


def _check_ops(ops: Sequence[str], table: QuantTable) -> None:
    """Raise `UsageError` for an operator that the target's table does not quantize."""
    known = {*table.weighted, *table.elementwise}
    for op in ops:
        if op not in known:
            raise UsageError(f"quant.ops cannot be {op!r}", hint=nearest(op, known))


def _invented(model: Model, seed: int) -> Iterable[Feeds]:
    """Inputs of sizes that the runtime accepts; made up untried where it takes none, so that it says why."""
    try:
        return made_up_feeds(model.ir, facts=model.facts, samples=SYNTHETIC_BATCHES, seed=seed)
    except ExecutorError:
        return [synthesize(model.ir, model.facts, seed=seed)]
