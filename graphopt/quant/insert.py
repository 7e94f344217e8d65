"""Carrying out a plan: Q/DQ pairs around activations, integer weights and biases with their DQ, through the
Editor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.correct.rounding import Rounded
from graphopt.quant.correct.weights import WeightCorrections
from graphopt.quant.operands import channel_axis
from graphopt.quant.ranges import Range, activation_params, bias_limit_scale, quantize_bias
from graphopt.quant.retarget import Kept
from graphopt.quant.saturation import EXACT, exact_scale, neighbours
from graphopt.quant.types import QuantParams, qtype, quantize
from graphopt.quant.within import ancestor, by_graph, home_of

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.value import Graph, Node, Value
    from graphopt.quant.operands import Heavy
    from graphopt.quant.place import Pair, Plan

__all__ = ["Decliner", "Placed", "insert"]

_SMALL = 4096  # bytes: the scales of 1024 channels

Array = np.ndarray[Any, Any]
_Stored = tuple[Rounded, "int | None", "list[tuple[Heavy, Array]]"]
"""A weight's integers, their axis, and the biases of the operators that read it."""

Decliner = Callable[[str, "Node | None", str], None]
"""Told of a rewrite that was not made: its name, where it was to be, and why."""


@dataclass(frozen=True)
class Placed:
    """One thing that was quantized: an activation, a weight or a bias, with its type, scale(s) and the
    reason.
    """

    kind: str
    name: str
    dtype: str
    scale: float
    channels: int
    reason: str


def insert(
    plan: Plan,
    ranges: Mapping[Value, Range],
    edit: Editor,
    *,
    bits: int = 8,
    corrections: WeightCorrections | None = None,
    kept: Kept | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    decline: Decliner | None = None,
) -> list[Placed]:
    """Change the model as planned; one rewrite per pair, per weight and per bias, and for each body with its readers.

    `ranges` has those of `plan.calibrated`. `bits`: of a weight, 7 where a processor without VNNI has to multiply it
    exactly. `corrections`: how weights are rounded; without, to the nearest. `kept`: what is not computed here, but
    taken over. `progress` is told (done, of), `decline` of what the Editor does not do; without it, `Decline` is
    raised.
    """
    work = _Insertion(plan, ranges, edit, bits, corrections or WeightCorrections(()), kept or Kept(), decline)
    groups = _groups(plan.heavy)
    for i, pair in enumerate(plan.pairs):
        work.attempt("quant.activation", pair.value.producer, functools.partial(work.pair, pair))
        if progress is not None:
            progress(i + 1, len(plan.pairs) + len(groups))
    for i, group in enumerate(groups, len(plan.pairs)):
        work.attempt("quant.weight", group[0].node, functools.partial(work.weight, group))
        if progress is not None:
            progress(i + 1, len(plan.pairs) + len(groups))
    return work.placed


def _groups(heavy: Iterable[Heavy]) -> list[list[Heavy]]:
    """Weighted operators by the weight and axis that they share."""
    groups: dict[tuple[Value, int | None], list[Heavy]] = {}
    for h in heavy:
        if h.weight is not None:
            groups.setdefault((h.weight, h.axis), []).append(h)
    return list(groups.values())


def _range(pair: Pair, ranges: Mapping[Value, Range]) -> Range:
    """The range of a pair's own value, or the one that holds those of all values that share its scale."""
    if pair.fixed is not None:
        return Range(0.0, 1.0)
    found = [ranges.get(value) or _constant_range(value) for value in (pair.like, *pair.also)]
    return Range(min(r.low for r in found), max(r.high for r in found))


def _constant_range(value: Value) -> Range:
    array = value.content()  # only constants have no statistics
    finite = array[np.isfinite(array)]
    return Range(float(finite.min(initial=0.0)), float(finite.max(initial=0.0)))


def _bits(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def _small_constants(edit: Editor) -> dict[tuple[Graph, tuple[str, tuple[int, ...], bytes]], Value]:
    """Initializers of the main graph that could serve as a scale or zero point, by their bits."""
    found = {}
    main = edit.model.main
    for value in main.initializers:
        size = value.nbytes
        array = value.array() if size is not None and size <= _SMALL and not value.is_output else None
        if array is not None:
            found[main, _bits(array)] = value
    return found


class _Insertion:
    def __init__(
        self,
        plan: Plan,
        ranges: Mapping[Value, Range],
        edit: Editor,
        bits: int,
        corrections: WeightCorrections,
        kept: Kept,
        decline: Decliner | None,
    ) -> None:
        self._decline = decline
        self._corrections = corrections
        self.table = plan.table
        self.edit = edit
        self._main = edit.model.main
        self.domain = plan.dequantizer
        if self.domain:
            edit.model.ir.opset_imports.setdefault(self.domain, 1)
        self.bits = bits
        self.placed: list[Placed] = []
        self._kept = kept
        self._params = {
            id(p): kept.params.get(id(p)) or self._activation(p, _range(p, ranges)) for p in plan.pairs
        }
        self._biases: dict[tuple[Value, Value, Graph], Value] = {}
        self._constants = _small_constants(edit)
        self._x_scale = self._scales_read(plan)

    def _activation(self, pair: Pair, real: Range) -> QuantParams:
        if pair.fixed is not None:
            scale, zero_point = pair.fixed
            return QuantParams(np.array(scale, np.float32), np.array(zero_point).astype(qtype(pair.dtype).dtype))
        low, high = min(real.low, 0.0), max(real.high, 0.0)
        return activation_params(
            Range(low, max(high, low + self.table.least_range)),
            pair.dtype,
            symmetric=self.table.centred(pair.dtype),
            ceiling=pair.ceiling,
            floor_zero=pair.floor_zero,
        )

    def _scales_read(self, plan: Plan) -> dict[Node, Array]:
        """The scale that each weighted operator with a bias reads; taken before the graph changes under the plan."""
        everybody = {p.value: p for p in plan.pairs if p.readers is None}
        special = {(n, i): p for p in plan.pairs for n, i in p.readers or ()}

        def pair_of(h: Heavy) -> Pair:
            return plan.sources.get(h.node) or everybody.get(h.x) or special[h.node, 0]

        return {h.node: self._params[id(pair_of(h))].scale for h in plan.heavy if h.bias is not None}

    def attempt(self, by: str, node: Node | None, change: Callable[[], None]) -> None:
        """Make a change; if it is declined, say so and go on: what it would have changed stays float."""
        gains = len(self._corrections.gains)
        try:
            change()
        except Decline as declined:
            del self._corrections.gains[gains:]
            if self._decline is None:
                raise
            self._decline(by, node, declined.reason)

    def pair(self, pair: Pair) -> None:
        """Put Q and DQ on a value, and let its readers, or all of them, read the DQ; in a body, one of its own."""
        value, params = pair.value, self._params[id(pair)]
        readers = value.uses() if pair.readers is None else pair.readers
        home = home_of(value, readers[0][0]) if pair.readers else value.graph
        assert home is not None, "a value of the model stands in a graph"
        anchor = self._anchor(value, readers, home)
        # A pair keeps the shape, also where it is not known, as in a Loop.
        with self.edit.rewrite("quant.activation", at=anchor, same_type=value.shape is not None) as rw:
            # ONNX Runtime makes uint8 of an int8 pair on x86, but not with a zero point that is captured.
            scale = self._constant(rw, params.scale, f"{pair.like.name}_scale", home)
            zero = self._constant(rw, params.zero_point, f"{pair.like.name}_zero_point", home)
            array = value.array() if value.is_const else None
            if array is None:
                (q,) = rw.node("QuantizeLinear", [value, scale, zero])
            else:
                q = rw.constant(quantize(array, params), like=f"{value.name}_{params.dtype}")
            rest = [at for at in readers if at not in pair.apart]
            if rest or value.is_output:
                (dq,) = rw.node("DequantizeLinear", [q, scale, zero])
                if value.is_output and pair.readers is None:
                    rw.replace(value, dq)
                else:
                    for node, index in rest:
                        rw.set_input(node, index, dq)
            for (node, index), (axis, size) in pair.apart.items():
                rw.set_input(node, index, self._repeated(rw, q, pair, (axis, size)))
        for graph, inside in by_graph(readers).items():
            if graph != home and any(self._fuses(node) for node, _ in inside):
                with self.edit.rewrite("quant.activation", at=inside[0][0]) as rw:
                    (own,) = rw.node("DequantizeLinear", [q, scale, zero])
                    for node, index in inside:
                        rw.set_input(node, index, own)
        if value.is_const:
            self.edit.drop_unread([value])
        self._note("activation", pair.like.name, params.dtype, params.scale, pair.reason)

    def _repeated(self, rw: Rewrite, q: Value, pair: Pair, along: tuple[int, int]) -> Value:
        """A DQ for a pair's integers whose scale is repeated along an axis: the same numbers."""
        axis, size = along
        params, name = self._params[id(pair)], pair.like.name
        scales = self._constant(rw, np.full(size, params.scale), f"{name}_scales")
        zeros = self._constant(rw, np.full(size, params.zero_point), f"{name}_zero_points")
        return self._dequantized(rw, [q, scales, zeros], axis, pair.value)

    def _anchor(self, value: Value, readers: Iterable[tuple[Node, int]], home: Graph) -> Node:
        """The node of `home` behind which a value is there, or before which it has to be."""
        producer = value.producer
        if producer is not None and producer.graph == home:
            return producer
        return min((ancestor(node, home) for node, _ in readers), key=lambda n: self.edit.ranks.of(n._raw))

    def _fuses(self, node: Node) -> bool:
        """Whether the runtime merges an operator with the DQ in front of it, which it does within one graph."""
        rows = (self.table.weighted, self.table.elementwise, self.table.data_movement)
        return node.is_standard and any(node.op in row for row in rows)

    def weight(self, group: list[Heavy]) -> None:
        """Store a weight as integers, for all operators that share it, and their biases in its units."""
        first = group[0]
        weight = first.weight
        assert weight is not None
        name = weight.name
        done, axis, biases = self._taken_over(group) or self._rounded(group)
        scale, zeros = done.params.scale, done.params.zero_point
        stored: dict[Graph, Value] = {}
        for graph, inside in by_graph((h.node, 1) for h in group).items():
            nodes = [node for node, _ in inside]
            # Without a Q in front, ONNX Runtime makes MatMulNBits of a MatMul, and fails where the weight is captured.
            home = graph if any(node.op == "MatMul" for node in nodes) else self._main
            with self.edit.rewrite("quant.weight", at=nodes[0], sources=nodes) as rw:
                if home not in stored:
                    stored[home] = rw.constant(done.integers, like=f"{name}_{done.params.dtype}", graph=home)
                scales = self._constant(rw, scale, f"{name}_scale", home)
                # Optional in ONNX, but QGemm is not chosen without.
                zero = self._constant(rw, zeros, f"{name}_zero_point", home)
                dq = self._dequantized(rw, [stored[home], scales, zero], axis, weight)
                for node in nodes:
                    rw.set_input(node, 1, dq)
        self.edit.drop_unread([weight])
        self._note("weight", name, done.params.dtype, scale, f"weight of {first.node.op}")
        for h, values in biases:
            self.attempt("quant.bias", h.node, functools.partial(self._bias, h, scale, values))

    def _taken_over(self, group: list[Heavy]) -> _Stored | None:
        """A weight as it was stored before, unless a bias would not fit its scale."""
        found = None if group[0].weight is None else self._kept.weights.get(group[0].weight)
        if found is None:
            return None
        integers, params, axis = found
        if (self._least_scale(group, params.scale.shape) > params.scale).any():
            return None
        return Rounded(integers, params), axis, [(h, h.bias.values) for h in group if h.bias is not None]

    def _rounded(self, group: list[Heavy]) -> _Stored:
        """A weight with symmetric scales, rounded as the corrections want it."""
        weight = group[0].weight
        assert weight is not None
        array = weight.content()
        least = self._least_scale(group, group[0].peaks.shape)
        done = self._exact(group, array, least) if self.bits < 8 else None
        dtype = self.table.weight
        done = done or self._corrections.rounded(group, array, dtype=dtype, bits=self.bits, least=least)
        biases = [(h, self._corrections.bias(h, array, done)) for h in group if h.bias is not None]
        return done, group[0].axis, biases

    def _exact(self, group: list[Heavy], array: Array, least: Array) -> Rounded | None:
        """A weight of 8 bits that a processor without VNNI multiplies exactly; None if rounding has undone that."""
        op = group[0].node.op
        axis = channel_axis(group[0].node, group[0].rule, array.ndim)
        least = np.maximum(least, exact_scale(array, op, axis, per_channel=group[0].axis is not None))
        gains = len(self._corrections.gains)
        done = self._corrections.rounded(group, array, dtype="int8", bits=8, least=least)
        if neighbours(done.integers.astype(np.float32), op, axis).max() <= EXACT:
            return done
        del self._corrections.gains[gains:]
        return None

    def _least_scale(self, group: list[Heavy], shape: tuple[int, ...]) -> Array:
        """The smallest weight scale, of a shape, with which all biases fit 32 bits."""
        least = np.zeros(shape, np.float32)
        for h in group:
            if h.bias is not None:
                needed = bias_limit_scale(h.bias.values, float(self._x_scale[h.node]), shape)
                least = np.asarray(np.maximum(least, needed))
        return least

    def _bias(self, heavy: Heavy, w_scale: Array, values: Array) -> None:
        bias = heavy.bias
        assert bias is not None
        name = bias.value.name
        integers, scale = quantize_bias(values, self._x_scale[heavy.node], w_scale)
        with self.edit.rewrite("quant.bias", at=bias.reader) as rw:
            stored = self._constant(rw, integers, f"{name}_int32")
            scales = self._constant(rw, scale, f"{name}_scale")
            key = (stored, scales, bias.reader.graph)
            dq = self._biases.get(key)  # layers that share weight, input and bias
            if dq is None or not self._precedes(dq, bias.reader):
                dq = self._dequantized(rw, [stored, scales], 0 if scale.ndim else None, bias.value)
            rw.set_input(bias.reader, bias.index, dq)
        self._biases[key] = dq
        self.edit.drop_unread([bias.value])
        self._note("bias", name, "int32", scale, f"bias of {heavy.node.op}, in units of x_scale × w_scale")

    def _constant(self, rw: Rewrite, array: Array, like: str, graph: Graph | None = None) -> Value:
        """A new initializer, or the one that holds the same bits: zero points and scales recur.

        `graph`: where it stands; by default the main graph, where bodies share it.
        """
        home = graph or self._main
        key = (home, _bits(array))
        known = self._constants.get(key)
        if known is None or not known.is_initializer:  # it may have been dropped meanwhile
            known = self._constants[key] = rw.constant(array, like=like, graph=home)
        return known

    def _dequantized(self, rw: Rewrite, inputs: list[Value], axis: int | None, like: Value) -> Value:
        domain = "" if axis is None else self.domain
        (dq,) = rw.node("DequantizeLinear", inputs, {"axis": axis}, domain=domain, assume=like)
        return dq

    def _precedes(self, value: Value, reader: Node) -> bool:
        producer = value.producer
        return producer is not None and self.edit.ranks.of(producer._raw) < self.edit.ranks.of(reader._raw)

    def _note(self, kind: str, name: str, dtype: str, scale: Array, reason: str) -> None:
        self.placed.append(Placed(kind, name, dtype, float(np.max(scale)), int(scale.size), reason))
