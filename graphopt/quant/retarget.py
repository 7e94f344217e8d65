"""From one runtime's style of quantization to another's, with the scales that the model came with.

The model is made float first, and what it knew is kept: the encoding of each activation, and the integers of each
weight. Placement is then that of the target, for the operators that were quantized before and no others. An activation
keeps its scale and zero point where the target's type has them, be it shifted by 128 from uint8 to int8; else it keeps
its range. A weight keeps its integers bit for bit where the target takes them.

Values that the target wants quantized and that had no pair get the range of the value that they are moved from or to,
of their operands, or are calibrated; without data the operators that need them stay float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.operands import redundant_activation
from graphopt.quant.ranges import Range, activation_params
from graphopt.quant.types import QuantParams
from graphopt.quant.unfold import MOVES
from graphopt.quant.within import by_graph, graphs_of

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.insert import Decliner
    from graphopt.quant.place import Pair, Plan
    from graphopt.quant.present import Encoding
    from graphopt.quant.strip import Given, Stored
    from graphopt.targets.table import QuantTable

__all__ = ["Kept", "Retarget"]

Planner = Callable[[Mapping["Node", str]], "Plan"]

_WERE_FLOAT = "it was float in the model as it came, and its scales are kept"
_NO_SCALE = "its output had no scale in the model as it came: give data to calibrate it"
_POOLS = frozenset(["AveragePool", "GlobalAveragePool"])
_FAR = 16  # operators that are looked past for a range
_COARSER = 1.01


@dataclass
class Kept:
    """What insertion takes over instead of computing it: parameters of pairs by their `id`, and stored weights."""

    params: dict[int, QuantParams] = field(default_factory=dict)
    weights: dict[Value, tuple[np.ndarray, QuantParams, int | None]] = field(default_factory=dict)


class Retarget:
    """The placement of `table` for a model that was made float, of which `given` is what it knew."""

    def __init__(self, given: Given, model: Model, table: QuantTable) -> None:
        self.given = given
        self.table = table
        self.model = model
        self._weight_only: set[Value] = set()
        self._known: dict[tuple[Value, int], Range | None] = {}

    def plan(self, planner: Planner, *, calibrates: bool) -> Plan:
        """The target's placement for what was quantized before; without data, for what has all its ranges."""
        leave = self._float_before()
        while True:
            plan = planner(leave)
            missing = [] if calibrates else [v for v in plan.calibrated if self.range_of(v) is None]
            blamed = {node for value in missing for node in _blamed(value, plan)}
            if not blamed:
                return plan
            leave.update(dict.fromkeys(blamed, _NO_SCALE))

    def _float_before(self) -> dict[Node, str]:
        found = {}
        for node in (node for graph in graphs_of(self.model) for node in graph.find(*self.table.weighted)):
            x, w = (*node.inputs, None, None)[:2]
            if x is None or w is None:
                continue
            known = w in self.given.weights if w.is_const else self.range_of(w) is not None
            if not known or self.range_of(x) is None:
                found[node] = _WERE_FLOAT
                if known and w.is_const:
                    self._weight_only.add(w)
        return found

    def range_of(self, value: Value) -> Range | None:
        """The range of an activation as far as the model knew it: its own, or one that follows from others."""
        return self._ahead(value, _FAR) or self._back(value, _FAR)

    def ranges(self, plan: Plan) -> dict[Value, Range]:
        """The ranges that are known of those that a placement needs."""
        found = {value: self.range_of(value) for value in plan.calibrated}
        return {value: known for value, known in found.items() if known is not None}

    def _own(self, value: Value) -> Range | None:
        encodings = self.given.activations.get(value)
        return _hull([e.range for e in encodings]) if encodings else None

    def _ahead(self, value: Value, far: int) -> Range | None:
        """From what the value becomes, if it is only moved: the rounding can as well stand before that."""
        own = self._own(value)
        if own is not None or not far or value.is_output:
            return own
        found = []
        for reader, index in value.uses():
            moved = reader.is_standard and (reader.op == "Concat" or (reader.op in MOVES and index == 0))
            behind = self._ahead(reader.outputs[0], far - 1) if moved else None
            if behind is None:
                return None
            found.append(behind)
        return _hull(found) if found else None

    def _back(self, value: Value, far: int) -> Range | None:
        """From what the value is made of; each value once for a distance, for there may be many ways back to it."""
        if (value, far) not in self._known:
            self._known[value, far] = self._made_of(value, far)
        return self._known[value, far]

    def _made_of(self, value: Value, far: int) -> Range | None:
        own = self._own(value)
        node = value.producer
        if own is not None or not far or node is None or not node.is_standard:
            return own
        if node.op == "Sigmoid":
            return Range(0.0, 1.0)
        moved = node.op in MOVES or node.op in _POOLS
        sources = node.inputs[:1] if moved or redundant_activation(node)[0] else node.inputs
        if not (moved or redundant_activation(node)[0] or node.op in ("Add", "Concat")):
            return None
        found = [None if v is None else self._back(v, far - 1) for v in sources]
        ranges = [r for r in found if r is not None]
        if not ranges or len(ranges) < len(found):
            return None
        if node.op == "Add":
            return Range(sum(r.low for r in ranges), sum(r.high for r in ranges))
        if not moved and node.op != "Concat":
            ceiling = redundant_activation(node)[1]
            return Range(0.0, min(max(ranges[0].high, 0.0), ranges[0].high if ceiling is None else ceiling))
        return _hull(ranges)

    def kept(self, plan: Plan) -> Kept:
        """What insertion is to take over. Taken before the graph changes."""
        found = Kept()
        for pair in plan.pairs:
            params = self._params(pair)
            if params is not None:
                found.params[id(pair)] = params
        for heavy in plan.heavy:
            stored = None if heavy.weight is None else self.given.weights.get(heavy.weight)
            weight = None if stored is None else _weight(stored, heavy.axis, self.table)
            if weight is not None and heavy.weight is not None:
                found.weights[heavy.weight] = weight
        return found

    def _params(self, pair: Pair) -> QuantParams | None:
        """Scale and zero point as they were, if the target takes them for this pair; None: from the range."""
        encodings = self.given.activations.get(pair.like, [])
        if pair.also or not encodings or not all(e.equals(encodings[0]) for e in encodings):
            return None
        params = _shifted(encodings[0], pair.dtype)
        if params is None:
            return None
        zero = int(params.zero_point)
        if (self.table.centred(pair.dtype) and zero != 0) or (pair.floor_zero and zero != params.kind.low):
            return None
        high = (params.kind.high - zero) * float(params.scale)
        return None if pair.ceiling is not None and high > pair.ceiling else params

    def losses(self, plan: Plan, kept: Kept) -> Iterable[str]:
        """What cannot be kept, for the report."""
        ratios = []
        for pair in plan.pairs:
            encodings, real = self.given.activations.get(pair.like), self.range_of(pair.like)
            if id(pair) not in kept.params and encodings and real is not None:
                made = activation_params(
                    real,
                    pair.dtype,
                    symmetric=self.table.centred(pair.dtype),
                    ceiling=pair.ceiling,
                    floor_zero=pair.floor_zero,
                )
                ratios.append(float(made.scale) / float(max(e.scale.max() for e in encodings)))
        coarser = [ratio for ratio in ratios if ratio > _COARSER]
        if coarser:
            yield (f"{len(coarser)} activations keep their range in coarser steps, of up to {max(coarser):.2f} times "
                   "the size, for the target's type has no room for their zero point")  # fmt: skip
        weights = {h.weight for h in plan.heavy if h.weight is not None}
        rounded = len(weights) - len(kept.weights)
        if rounded:
            yield f"{rounded} weights are rounded again, for the target takes no integers of their kind"

    def restore(self, edit: Editor, decline: Decliner | None) -> None:
        """Store weights in integers again whose operators computed in floats before, too."""
        for weight in self._weight_only:
            uses = weight.uses()
            if not weight.is_initializer or not uses:
                continue
            stored = self.given.weights[weight]
            for readers in by_graph(uses).values():
                node = min((n for n, _ in readers), key=lambda n: edit.ranks.of(n._raw))
                try:
                    self._store(edit, weight, stored, node, readers)
                except Decline as declined:
                    if decline is not None:
                        decline("quant.weight", node, declined.reason)

    def _store(
        self, edit: Editor, weight: Value, stored: Stored, node: Node, readers: Iterable[tuple[Node, int]]
    ) -> None:
        encoding = stored.encoding
        attrs = {"axis": encoding.axis, "block_size": encoding.block or None}
        with edit.rewrite("quant.weight", at=node) as rw:
            parts = (stored.integers, encoding.scale, encoding.zero_point)
            names = ("integers", "scale", "zero_point")
            inputs = [rw.constant(a, f"{weight.name}_{b}") for a, b in zip(parts, names, strict=True)]
            (dq,) = rw.node("DequantizeLinear", inputs, attrs, assume=weight)
            for reader, index in readers:
                rw.set_input(reader, index, dq)
        edit.drop_unread([weight])


def _hull(ranges: list[Range]) -> Range:
    return Range(min(r.low for r in ranges), max(r.high for r in ranges))


def _blamed(value: Value, plan: Plan) -> list[Node]:
    """The weighted operators of whose result a value is made; all that are placed, if none is found."""
    heavy = {h.node for h in plan.heavy}
    pending, seen, found = [value], {value}, []
    while pending:
        node = pending.pop().producer
        if node is None:
            continue
        if node in heavy:
            found.append(node)
            continue
        fresh = [v for v in node.inputs if v is not None and not v.is_const and v not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return found or list(heavy)


def _shifted(encoding: Encoding, dtype: str) -> QuantParams | None:
    """The same encoding in a type of the same size; None if there is none."""
    kind = encoding.kind.name
    if encoding.axis is not None or encoding.scale.dtype != np.float32:
        return None
    if kind == dtype:
        return encoding.params
    shift = {("uint8", "int8"): -128, ("int8", "uint8"): 128}.get((kind, dtype))
    if shift is None:
        return None
    zero = encoding.zero_point.astype(np.int32) + shift
    return QuantParams(encoding.scale, np.asarray(zero.astype(dtype)))


def _weight(stored: Stored, axis: int | None, table: QuantTable) -> tuple[np.ndarray, QuantParams, int | None] | None:
    """The integers of a weight in the target's type, with the numbers they stand for unchanged; None if it has none."""
    encoding, integers = stored.encoding, stored.integers
    zero = encoding.zero_point.astype(np.int32)
    if encoding.block or encoding.scale.dtype != np.float32:
        return None
    if encoding.axis is not None and (encoding.axis != axis or not table.per_channel):
        return None
    if table.weight != "int8":
        return (integers, encoding.params, encoding.axis) if encoding.kind.name == table.weight else None
    if encoding.kind.name == "uint8":
        integers, zero = (integers.astype(np.int16) - 128).astype(np.int8), zero - 128
    elif encoding.kind.name != "int8":
        return None
    if zero.any() and (table.symmetric or zero.ndim):
        return None
    return integers, QuantParams(encoding.scale, np.asarray(zero.astype(np.int8))), encoding.axis
