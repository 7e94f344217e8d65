"""The stages of static quantization: place, calibrate, equalize, range, insert."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.quant.batches import Feeds, divided, invented
from graphopt.quant.calibrate import Calibration, Watch, calibrate
from graphopt.quant.choose import Choice, choose
from graphopt.quant.correct.empirical import Empirical
from graphopt.quant.correct.equalize import EQUALIZATIONS, Equalizer
from graphopt.quant.correct.migrate import Steps
from graphopt.quant.correct.remainder import Remainder
from graphopt.quant.correct.weights import WeightCorrections
from graphopt.quant.coverage import reasons_by_name
from graphopt.quant.insert import Decliner, insert
from graphopt.quant.lift import HALF_OPSETS, lift_opset
from graphopt.quant.options import QuantOptions
from graphopt.quant.place import Plan, plan
from graphopt.quant.place_inputs import is_float
from graphopt.quant.present import SYNTHETIC_KEY, read_present
from graphopt.quant.qoperator import to_qoperators
from graphopt.quant.quantized import Quantized
from graphopt.quant.ranges import Range, range_of
from graphopt.quant.retarget import Kept, Retarget
from graphopt.quant.shared import copies
from graphopt.quant.store import obtain
from graphopt.quant.told_apart import told_apart
from graphopt.quant.typed import opsets_of, require_types, table_of, types_of
from graphopt.quant.types import qtype
from graphopt.quant.unfit import marked, stand_ins, unfit
from graphopt.quant.unseen import unseen, witnesses
from graphopt.quant.weights_only import opset_of_weights
from graphopt.quant.within import graphs_of, not_inside
from graphopt.targets.cpu import multiplies_bytes_exactly

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.correct.gain import Gain
    from graphopt.quant.place import Pair
    from graphopt.quant.statistics import TensorStatistics
    from graphopt.targets.table import QuantTable
    from graphopt.targets.target import Target

__all__ = ["Progress", "Static", "in_integers", "seven_bits", "teller"]

_FEW, _MANY = 16, 128  # samples that decide how layers are equalized
_MAY_SATURATE = "weights keep the 8 bits that they came with, with which products may saturate on this processor"

Progress = Callable[[str, int, "int | None"], None]


class Static:
    """One quantization with calibrated scales, stage by stage. `scales`: those that the model came with, if it did."""

    def __init__(
        self,
        model: Model,
        edit: Editor,
        target: Target,
        options: QuantOptions,
        data: Iterable[Feeds] | None,
        scales: Retarget | None,
        seed: int,
        progress: Progress | None,
        decline: Decliner | None,
        calibration: Calibration | None = None,
        before_insert: Callable[[], None] | None = None,
    ) -> None:
        self.model, self.edit, self.target = model, edit, target
        self.options, self.data, self.scales = options, data, scales
        self._seed, self._progress, self._decline = seed, progress, decline
        self.table = table_of(target, options)
        self._floats = qtype(self.table.weight).is_float
        self.bits = 7 if seven_bits(self.table, options.reduce_range) and not self._floats else 8
        self.corrections = WeightCorrections(options.corrections_for("static") if scales is None else ())
        self.notes: list[str] = []
        self.gains: Sequence[Gain] = ()
        self.choice = Choice()
        self._unfit: dict[Node, str] = {}
        self._marked: dict[str, str] = {}
        self._known, self._before_insert = calibration, before_insert

    def run(self) -> Quantized:
        placement = self._place()
        if not placement.heavy and not placement.pairs:
            self._restore()
            declined = _declined(placement)
            return Quantized((), declined, 0, None, self.bits, self.notes, reasons=_reasons(placement))
        placement, ranges, calibration = self._calibrate(placement)
        if self._before_insert is not None:
            self._before_insert()
        declined, reasons = _declined(placement), _reasons(placement)
        measured = self.corrections.measures and calibration is not None and self.data is not None
        empirical = Empirical(placement.heavy, calibration) if measured and calibration is not None else None
        if self.corrections.measures and empirical is None:
            self.notes.append("empirical was not used: it runs the model on data, and there is none")
        remainder = self._remainder(placement)
        self.notes += copies(placement)
        try:
            placed = insert(
                placement,
                ranges,
                self.edit,
                bits=self.bits,
                corrections=self.corrections,
                kept=self._keep(placement),
                progress=teller(self._progress, "quantization"),
                decline=self._decline,
            )
        finally:  # a run may end at any rewrite
            self._flag(calibration)
        self._restore()
        if empirical is not None and self.data is not None:
            run = functools.partial(calibrate, self.model, batches=self.data, budget=self.options.calib_mem)
            empirical.correct(self.edit, run)
            self.corrections.gains += empirical.gains
        if remainder is not None and self.data is not None:
            remainder.correct(self.edit, self.data, self.options.calib_mem)
            self.corrections.gains += remainder.gains
            self.notes += remainder.notes
        self.notes += [*self.corrections.notes, *in_integers(self.edit, self.target, self.options)]
        done = sum(h.weight is None or h.node.inputs[1] != h.weight for h in placement.heavy)
        gains = (*self.gains, *self.corrections.gains)
        return Quantized(placed, declined, done, calibration, self.bits, self.notes, reasons=reasons, gains=gains)

    def _remainder(self, placement: Plan) -> Remainder | None:
        """What stays float, if it is to be fitted anew."""
        if "refit" not in self.options.corrections_for("static"):
            return None
        if self.data is None:
            self.notes.append("refit was not used: it runs the model on data, and there is none")
            return None
        return Remainder(self.model, (h.node for h in placement.heavy), self.edit.protects)

    def prepare(self) -> Calibration | None:
        """Everything up to the ranges: the opset, equalization, and statistics of the model as it is then."""
        placement = self._place()
        return self._calibrate(placement)[2] if placement.heavy or placement.pairs else None

    def _place(self) -> Plan:
        """The plan for the target, in an opset that it can be carried out in."""
        needed = _opset_needed(self.model, self.target, self.table, self.options)
        lifted = None
        if self.scales is None:
            lifted = lift_opset(
                self.model, self.edit, self.target, needed, data=self.data, decline=self._decline
            )
            self.notes += [lifted] if lifted else []
        if needed:
            require_types(self.model, self.table, self.options.selection, lifted)
        if self.scales is not None:
            placement = self.scales.plan(self._plan, calibrates=self.data is not None)
        else:
            if self.options.kind == "auto":
                self.choice = choose(self.model, self.edit, self.target, self.options, data=self.data is not None)
            placement = self._plan()
        self.notes += placement.notes
        return placement

    def _plan(self, leave: Mapping[Node, str | None] | None = None) -> Plan:
        """The plan for the model as it is; `leave` as `plan` takes it, by default what was found to be left out."""
        options, selection = self.options, self.options.selection
        if self._marked:
            selection = replace(selection, values={**selection.values, **dict.fromkeys(self._marked, "float")})
        return plan(
            self.model,
            self.table,
            selection,
            per_channel=options.per_channel,
            protects=self.edit.protects,
            leave={**self.choice.left, **self._unfit} if leave is None else leave,
        )

    def _calibrate(self, placement: Plan) -> tuple[Plan, dict[Value, Range], Calibration | None]:
        """The ranges of the plan's values: those that the model came with, the others from samples.

        Layers are equalized on the way, and some may have to stay float, which makes another plan of it.
        """
        known = self._given(placement)
        unknown = [v for v in placement.calibrated if v not in known]
        if not unknown:
            return placement, known, None
        placement, calibration = self._settle(*self._equalized(placement, unknown))
        known = self._given(placement)
        unknown = [v for v in placement.calibrated if v not in known]
        self.corrections.use(calibration)
        return placement, known | _ranges(placement, unknown, calibration.statistics, self.options), calibration

    def _equalized(self, placement: Plan, unknown: Iterable[Value]) -> tuple[Plan, Calibration]:
        """The plan for the equalized model, and what was seen of it.

        How layers are equalized is decided by the first samples: sixteen, or more where that is little for a channel.
        Those are run again for what changed by that, and the others once, on the model as it is then.
        """
        path = self.options.calibration
        stored = path is not None and path.exists()
        data = (() if stored else invented(self.model, self._seed)) if self.data is None else self.data
        run = functools.partial(
            calibrate,
            self.model,
            synthetic=self.data is None,
            budget=self.options.calib_mem,
            progress=teller(self._progress, "calibration"),
        )
        again = path is None  # a file is for the model as it is
        wanted = self._equalizations() if self.scales is None and again else ()
        equal = Equalizer(self.model, [h.node for h in placement.heavy], wanted, self.edit.protects)
        watches = [*self._watches(placement, unknown), *equal.watches]
        calibration, rest = self._known, None
        if calibration is None or not calibration.has(watches):
            data, rest = divided(data, _FEW) if equal.links else (data, None)
            calibration = obtain(self.model, watches, self.data, path, functools.partial(run, batches=data))
            if rest is not None and equal.knows_little(calibration):
                more, rest = divided(rest, _MANY - _FEW)
                calibration = calibration.merged(run(watches, batches=more))
                data = [*data, *more]
            self.notes += [f"ranges from {path}"] if stored else []
        equal.apply(self.edit, calibration, _steps(self.table, self.options, self.bits), self._decline)
        self.gains = equal.gains
        if equal.changed:
            placement = self._plan()
            unknown = placement.calibrated
            fresh = [watch for watch in self._watches(placement, unknown) if watch.name in equal.changed]
            calibration = calibration.updated(run(fresh, batches=data)) if fresh else calibration
        if rest is not None:
            calibration = calibration.merged(run(self._watches(placement, unknown), batches=rest))
        return placement, calibration

    def _equalizations(self) -> Sequence[str]:
        """None for 8-bit floats: small channels have steps as fine, relative to them, as large ones."""
        asked = [name for name in self.options.corrections if self._floats and name in EQUALIZATIONS]
        why = f"was not used: the steps of {self.table.weight} are as fine as numbers are small"
        self.notes += [f"{name} {why}" for name in asked]
        return () if self._floats else self.options.corrections_for("static")

    def _settle(self, placement: Plan, calibration: Calibration) -> tuple[Plan, Calibration]:
        """Leave out what the statistics say cannot be rounded, and what there are none of; until nothing is left."""
        if self.scales is None:
            self._unfit.update(unfit(placement, calibration.statistics))
            if self.table.style == "node-units":
                self._marked.update(marked(placement, calibration.statistics))
        if self._unfit or self._marked:
            placement, calibration = self._again(placement, calibration)
        while found := unseen(placement, calibration, self._given(placement)):
            self._unfit.update(found.nodes)
            self._marked.update(found.values)
            placement, calibration = self._again(placement, calibration)
        self.notes += [f"{name!r} is left float: {reason}" for name, reason in self._marked.items()]
        return placement, calibration

    def _again(self, placement: Plan, calibration: Calibration) -> tuple[Plan, Calibration]:
        """The plan without what was found to be left out."""
        if self.scales is None:
            after = self._plan()
        else:
            calibrates = self.data is not None
            after = self.scales.plan(lambda leave: self._plan({**leave, **self._unfit}), calibrates=calibrates)
        return after, calibration.updated(stand_ins(placement, after, calibration))

    def _given(self, placement: Plan) -> dict[Value, Range]:
        """The ranges that the model came with."""
        return {} if self.scales is None else self.scales.ranges(placement)

    def _watches(self, placement: Plan, values: Iterable[Value]) -> list[Watch]:
        inside = [Watch(v.name) for v in witnesses(placement)]
        return [*(Watch(v.name) for v in values), *inside, *self.corrections.watches(placement.heavy)]

    def _keep(self, placement: Plan) -> Kept | None:
        """What is taken over from the model as it came."""
        if self.scales is None:
            return None
        kept = self.scales.kept(placement)
        self.notes += self.scales.losses(placement, kept)
        if self.bits < 8 and kept.weights:
            self.notes.append(_MAY_SATURATE)
            self.bits = 8
        return kept

    def _restore(self) -> None:
        if self.scales is not None:
            self.scales.restore(self.edit, self._decline)

    def _flag(self, calibration: Calibration | None) -> None:
        """Say in the model whether its ranges are guesses."""
        if self.scales is None:
            self.model.metadata.pop(SYNTHETIC_KEY, None)
        if calibration is not None and calibration.synthetic and read_present(self.model).pairs:
            self.model.metadata[SYNTHETIC_KEY] = "synthetic"


def in_integers(edit: Editor, target: Target, options: QuantOptions) -> Iterator[str]:
    """Make QOperators of what stands between Q and DQ, if asked; how many, and why others stay."""
    if options.format != "qoperator":
        return
    count, declined = to_qoperators(edit, target.kinds.qoperator)
    yield f"{count} operators read and write integers"
    for (op, reason), number in Counter((op, reason) for _, op, reason in declined).items():
        yield f"{number} × {op} stays between Q and DQ: {reason}"


def _ranges(
    placement: Plan, values: Iterable[Value], statistics: Mapping[str, TensorStatistics], options: QuantOptions
) -> dict[Value, Range]:
    """The range of each of the calibrated `values`; for the widest type, where it is stored in several."""
    pairs: dict[Value, Pair] = {}
    for pair in sorted(placement.pairs, key=lambda p: qtype(p.dtype).bits):
        pairs.update(dict.fromkeys((pair.like, *pair.also), pair))
    needed = told_apart(placement)
    found = {}
    for v in values:
        kind = pairs[v].dtype
        centred = placement.table.centred(kind)
        seen = range_of(statistics[v.name], options.method, options.percentile, dtype=kind, symmetric=centred)
        most = needed.get(v, seen)
        found[v] = Range(max(seen.low, most.low), min(seen.high, most.high))
    return found


def teller(progress: Progress | None, what: str) -> Callable[[int, int | None], None]:
    """`progress` of one thing: a function that is told (done, of)."""
    return (lambda *_: None) if progress is None else functools.partial(progress, what)


def _opset_needed(model: Model, target: Target, table: QuantTable, options: QuantOptions) -> int:
    """The oldest opset in which a model is quantized as well as options and target allow; 0 if nothing will be."""
    inside = [graph for graph in graphs_of(model) if not_inside(graph, table) is None]
    ops = {*table.weighted} - {*table.float}
    nodes = (node for graph in inside for node in graph.find(*ops))
    units = table.style == "node-units" and any(is_float(v) for node in model.main.nodes for v in node.outputs)
    if not units and not any(node.is_standard and _is_meant(node, table) for node in nodes):
        return 0
    wanted = opsets_of(table)[options.per_channel and table.per_channel]
    wanted = max(wanted, HALF_OPSETS[options.rest or table.rest])
    if options.kind == "auto" and (options.stored.endswith("4") or options.block):
        wanted = max(wanted, opset_of_weights(target.kinds.weights, options.stored, options.block))
    return max(wanted, *(qtype(name).opset for name in types_of(table, options.selection)))


def _steps(table: QuantTable, options: QuantOptions, bits: int) -> Steps:
    """How fine the integers of activations and weights are."""
    symmetric = table.centred(table.activation)
    per_channel = options.per_channel and table.per_channel
    return Steps(127 if symmetric else 255, symmetric, 2 ** (bits - 1) - 1, per_channel)


def _is_meant(node: Node, table: QuantTable) -> bool:
    """Whether a weighted operator has a weight, or may do without."""
    x, w = (*node.inputs, None, None)[:2]
    return x is not None and w is not None and not x.is_const and (w.is_const or table.weighted[node.op].pairs)


def seven_bits(table: QuantTable, wanted: bool | None) -> bool:
    """Whether weights get 7 bits: as was `wanted`, else as the target says, else where 8 may saturate here."""
    for choice in (wanted, table.reduce_range):
        if choice is not None:
            return choice
    return table.reduce_range_without_vnni and not multiplies_bytes_exactly()


def _declined(placement: Plan) -> list[tuple[str, str, str]]:
    return [(d.node.name, d.node.op, d.reason) for d in placement.declined]


def _reasons(placement: Plan) -> dict[str, str]:
    return reasons_by_name((d.node, d.reason) for d in placement.declined)
