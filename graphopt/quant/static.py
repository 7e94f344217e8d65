"""Quantization of a graph from end to end, in place: what was asked is checked, and the stages of its kind run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import UsageError, nearest
from graphopt.quant.batches import Feeds
from graphopt.quant.calibrate import Calibration, calibrate
from graphopt.quant.correct.equalize import EQUALIZATIONS
from graphopt.quant.correct.matrices import MatrixCorrections
from graphopt.quant.correct.protect import protect_weights
from graphopt.quant.dynamic import DYNAMIC_OPS
from graphopt.quant.insert import Decliner
from graphopt.quant.kinds import carry_out, nodes_of_kind, opset_of_kind
from graphopt.quant.lift import lift_opset
from graphopt.quant.options import QuantOptions
from graphopt.quant.present import SYNTHETIC_KEY, read_present
from graphopt.quant.quantized import Quantized
from graphopt.quant.retarget import Retarget
from graphopt.quant.stages import Progress, Static, in_integers, seven_bits, teller
from graphopt.quant.strip import dequantize_graph
from graphopt.quant.typed import require_stored, table_of
from graphopt.quant.weights_only import WEIGHT_OPS, default_block, opset_of_weights

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node
    from graphopt.quant.correct.gain import Gain
    from graphopt.targets.table import QuantTable
    from graphopt.targets.target import Target

__all__ = ["Prepared", "prepare", "quantize_graph"]

_KEPT = (
    "kept as they are (existing=retarget places them for the target, existing=strip quantizes anew, and the pass "
    "dequant makes floats of them)"
)
_AT_RUN_TIME = ("dynamic", "weights")
_AFRESH = {"strip": "quantized anew", "retarget": "placed for the target, with their scales"}


def quantize_graph(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
    before_insert: Callable[[], None] | None = None,
    progress: Progress | None = None,
    decline: Decliner | None = None,
) -> Quantized:
    """Quantize `model` in place for `target`, with `data` (dicts of input name to array) or, without,
    invented inputs.

    A model that is quantized already is left as it is, unless `options.existing` says otherwise.
    `calibration`: of an earlier call on a copy of the same model, which is used if it has all that is needed.
    `before_insert` is called when all is known, and the first Q is about to be placed. `decline` is
    told of rewrites that cannot be made: by which name, at which node, and why. A model with invented ranges
    says so in its metadata (`graphopt.calibration` = `synthetic`). Raises `TargetError` if the target has no
    placement, `UsageError` for options, `DataError` for no data.
    """
    options.check()
    edit.name_apart()
    at_run_time = options.kind in _AT_RUN_TIME
    if options.kind in ("weights", "auto"):
        target.kinds.require_stored(options.stored, options.block, target.name)
    if options.format == "qoperator":
        target.kinds.require("qoperator", target.name)
    if not at_run_time:
        _check_ops(options, table_of(target, options))
    present = read_present(model)
    if present and options.existing == "keep":
        notes = (f"already quantized: {present}; {_KEPT}", *in_integers(edit, target, options))
        return Quantized((), (), 0, None, 8, notes)
    guess = model.metadata.get(SYNTHETIC_KEY)
    given = dequantize_graph(model, edit, decline) if present else None
    if guess is not None and options.existing == "retarget":  # its scales stay
        model.metadata[SYNTHETIC_KEY] = guess
    if at_run_time:
        return _at_run_time(model, edit, target, options, data, teller(progress, "calibration"), decline)
    table = table_of(target, options)
    scales = Retarget(given, model, table) if given is not None and options.existing == "retarget" else None
    work = Static(
        model, edit, target, options, data, scales, seed, progress, decline, calibration, before_insert
    )
    if given is not None:
        work.notes.append(f"already quantized: {present}; {_AFRESH[options.existing]}")
    return _without_ranges(work.run(), edit, target, options, work.choice.nodes)


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for any number of quantizations of its copies: what they may go on from.

    `options`: those that are left to carry out; `calibration`: None if there is nothing to quantize.
    """

    options: QuantOptions
    calibration: Calibration | None
    notes: Sequence[str]
    gains: Sequence[Gain]


def prepare(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    decline: Decliner | None = None,
) -> Prepared:
    """Do once what all quantizations of a model have in common: lift its opset, calibrate, and equalize its layers.

    What is quantized at run time has none of these. Raises what `quantize_graph` raises.
    """
    if options.kind in _AT_RUN_TIME:
        return Prepared(options, None, (), ())
    edit.name_apart()
    work = Static(model, edit, target, options, data, None, seed, progress, decline)
    calibration = work.prepare()
    rest = tuple(name for name in options.corrections_for("static") if name not in EQUALIZATIONS)
    return Prepared(dataclasses.replace(options, corrections=rest), calibration, work.notes, work.gains)


def _at_run_time(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    data: Iterable[Feeds] | None,
    progress: Callable[[int, int | None], None],
    decline: Decliner | None,
) -> Quantized:
    """Quantize what needs no ranges. With `data`, weights are rounded for the inputs that they meet."""
    target.kinds.require(options.kind, target.name)
    needed = opset_of_kind(model, target, options)
    lifted = lift_opset(model, edit, target, needed, data=data, decline=decline)
    if options.kind == "weights" and needed:
        require_stored(model, options, opset_of_weights(target.kinds.weights, options.stored, options.block), lifted)
    chosen, before = nodes_of_kind(model, options.kind, options, target)
    corrections = MatrixCorrections(options.corrections_for(options.kind))
    watches = [] if data is None else corrections.watches(chosen, edit)
    calibration = None
    if data is not None and watches:
        calibration = calibrate(model, watches, data, budget=options.calib_mem, progress=progress)
        corrections.use(calibration)
    if calibration is not None and corrections.protects:
        protect_weights(edit, chosen, corrections, options.stored, functools.partial(_block, target, options))
    notes = [lifted] if lifted else []
    done = Quantized((), before.declined, 0, calibration, 8, notes, reasons=before.reasons)
    return _without_ranges(done, edit, target, options, {options.kind: chosen}, corrections)


def _without_ranges(
    done: Quantized,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    chosen: Mapping[str, Sequence[Node]],
    corrections: MatrixCorrections | None = None,
) -> Quantized:
    """`done`, and the nodes quantized that need no ranges, by kind."""
    if not any(chosen.values()):
        return done
    bits = 7 if target.quant is not None and seven_bits(target.quant, options.reduce_range) else 8
    corrections = corrections or MatrixCorrections(options.corrections_for("weights"))
    carried = carry_out(edit, target, options, chosen, bits=bits, corrections=corrections)
    return dataclasses.replace(
        done,
        placed=[*done.placed, *carried.placed],
        declined=[*done.declined, *carried.declined],
        weight_bits=bits,
        kinds=carried.done,
        notes=[*done.notes, *corrections.notes],
        reasons={**done.reasons, **carried.reasons},
        gains=[*done.gains, *corrections.gains],
    )


def _block(target: Target, options: QuantOptions, rows: int) -> int:
    return default_block(options.stored, target.kinds, rows) if options.block is None else options.block


def _check_ops(options: QuantOptions, table: QuantTable) -> None:
    """Raise `UsageError` for an operator that the target does not quantize."""
    known = {*table.weighted, *table.elementwise}
    if options.kind == "auto":
        known |= DYNAMIC_OPS | WEIGHT_OPS
    for op in options.selection.ops:
        if op not in known:
            raise UsageError(f"quant.ops cannot be {op!r}", hint=nearest(op, known))
