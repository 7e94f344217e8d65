"""Where Q and DQ stand: a plan made from the target's table, each entry with its reason. Nothing is changed
here.

A value is *integer* when every reader gets it through one Q/DQ pair, so that its producer can write integers.
Such are the outputs of Conv, then of whatever runs on integers behind them and is *wanted* by a weighted
operator. Other values get a pair only in front of the operators that want it; everybody else reads them as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from graphopt.ir.commit import FROM_KEY
from graphopt.quant.exempt import exempt, hazard, protected
from graphopt.quant.keep_float import keep_float
from graphopt.quant.operands import Heavy, analyse, moves_data, redundant_activation, sole_reader
from graphopt.quant.styles import flow_of, objection_of
from graphopt.quant.typed import opsets_of

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.targets.table import QuantTable, Weighted

__all__ = ["Declined", "Pair", "Plan", "QuantSelection", "plan"]


_COARSE = "opset {} has one scale per weight only: accuracy is better from opset {} on, convert the model to it"
_INSIDE = "it stands in a body or function, where activations are not calibrated"


@dataclass(frozen=True)
class QuantSelection:
    """What the user wants quantized: operator types (none: all), and names of nodes to skip, and of the only ones to
    take (none: all), as shell patterns. A node goes by its own name and by those of the nodes that it was made of.

    `ends`: whether the first and the last weighted operator are quantized, too. `floats`: weighted operators that stay
    float for the sake of accuracy, by the names of their first outputs. `values`: activations that are not stored in
    8 bits, by their names: in `16bit`, where the target has that, or in `float`, as are operators that read them then.
    """

    ops: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    ends: bool = True
    only: tuple[str, ...] = ()
    floats: frozenset[str] = frozenset()
    values: Mapping[str, Literal["16bit", "float"]] = field(default_factory=dict)

    def objection(self, node: Node) -> str | None:
        """Why a node is not wanted, if it is not."""
        if self.ops and node.op not in self.ops:
            return f"{node.op} is not among the operators asked for"
        names = [node.name, *node.metadata.get(FROM_KEY, "").split(", ")]
        if any(fnmatchcase(name, pattern) for name in names for pattern in self.skip):
            return "its name was to be skipped"
        if self.only and not any(fnmatchcase(name, pattern) for name in names for pattern in self.only):
            return "its name is not among those asked for"
        return None


@dataclass
class Pair:
    """One QuantizeLinear → DequantizeLinear on `value`, for `readers` (None: for all, a graph output
    included).

    The scale follows from the statistics of `like`, and of `also` if one scale has to serve all of these.
    `floor_zero`, `ceiling`: the range ends at 0, and there. `fixed`: scale and zero point whatever the statistics say.
    A constant gets integers in its place, for the DQ. `apart`: readers with a DQ of their own, whose scale is repeated
    along an axis of that size, see keep_float.py.
    """

    value: Value
    readers: list[tuple[Node, int]] | None
    like: Value
    dtype: str
    reason: str
    floor_zero: bool = False
    ceiling: float | None = None
    also: tuple[Value, ...] = ()
    fixed: tuple[float, int] | None = None
    apart: dict[tuple[Node, int], tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Declined:
    """An operator that stays float, and why."""

    node: Node
    reason: str


@dataclass
class Plan:
    """Pairs for activations and weighted operators with their constants, in the order of the graph.

    `plain`: names of values that get no pair.
    `dequantizer`: the domain of the DequantizeLinear behind weights and biases. `notes`: for the user.
    `sources`: the pairs of weighted operators whose data comes from a pair further up.
    """

    table: QuantTable
    dequantizer: str = ""
    plain: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    heavy: list[Heavy] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    sources: dict[Node, Pair] = field(default_factory=dict)

    @property
    def calibrated(self) -> list[Value]:
        """The values whose ranges are needed, each once."""
        return list(dict.fromkeys(p.like for p in self.pairs if p.fixed is None and not p.like.is_const))


def _nothing(_: Node | Value) -> bool:
    return False


def plan(
    model: Model,
    table: QuantTable,
    selection: QuantSelection | None = None,
    *,
    per_channel: bool = True,
    protects: Callable[[Node | Value], bool] = _nothing,
    leave: Mapping[Node, str | None] | None = None,
) -> Plan:
    """Decide what runs on integers. Linear in the size of the model; reads each weight once.

    Without `per_channel`, and where neither opset nor target has it, a weight gets one scale. `protects`: what must
    stay as it is. `leave`: operators that are not for calibration, and why they stay float; None: they do not.
    """
    opset = model.opset()
    selection = selection or QuantSelection()
    result = Plan(table, plain=frozenset(name for name, kind in selection.values.items() if kind == "float"))
    least, least_per_channel = opsets_of(table)
    old = opset < least
    per_channel = per_channel and table.per_channel
    if per_channel and not old and opset < least_per_channel:
        per_channel, result.dequantizer = table.per_channel_domain != "", table.per_channel_domain
        if not per_channel:
            result.notes.append(_COARSE.format(opset, least_per_channel))
    safe: set[Node] = set()
    objection = objection_of(table.style)
    for node, reason in _chosen(model, table, selection):
        if leave is not None and node in leave:
            reason = leave[node]
            if reason is None:
                continue
        found = reason or analyse(node, table.weighted[node.op], table, per_channel=per_channel)
        if isinstance(found, Heavy) and old:
            found = f"QuantizeLinear needs opset {least}, and the model has {opset}: convert it first"
        if isinstance(found, Heavy):
            reason = exempt(found, selection.floats, result.plain) or protected(found, protects)
            found = reason or hazard(found, table, safe) or objection(found) or found
        if isinstance(found, str):
            result.declined.append(Declined(node, found))
        else:
            result.heavy.append(found)
    if result.heavy or table.style == "node-units":
        flow = _Flow if table.style == "integer-flow" else flow_of(table.style)
        flow(model, result, protects).run()
        result.pairs = [pair for pair in result.pairs if pair.value.name not in result.plain]
        for pair in result.pairs:
            if table.wide and selection.values.get(pair.like.name) == "16bit":
                pair.dtype = table.wide
    return result


def _chosen(model: Model, table: QuantTable, selection: QuantSelection) -> list[tuple[Node, str | None]]:
    """All operators that could be quantized, or would be elsewhere, with the reason why they shall not be, if
    any.
    """
    found = list(_candidates(model, table))
    inside = [node for node, reason in found if reason is None]
    ends = {inside[0], inside[-1]} if inside and not selection.ends else set()
    return [(node, reason or _deselected(node, selection, ends)) for node, reason in found]


def _candidates(model: Model, table: QuantTable) -> Iterator[tuple[Node, str | None]]:
    for graph in model.graphs():
        for node in graph.nodes:
            if not node.is_standard:
                continue
            if node.op in table.float:
                yield node, table.float[node.op]
            elif node.op in table.weighted:
                yield node, None if graph.is_main else _INSIDE


def _deselected(node: Node, selection: QuantSelection, ends: set[Node]) -> str | None:
    reason = selection.objection(node)
    if reason is not None:
        return reason
    return "the first and the last layer were to stay float" if node in ends else None


@dataclass(frozen=True)
class _Root:
    """Where an integer value got its scale: data movement hands it on."""

    like: Value
    floor_zero: bool = False
    ceiling: float | None = None


class _Flow:
    """Follows the data through the main graph: backward for what is wanted, forward for what is integer."""

    def __init__(self, model: Model, result: Plan, protects: Callable[[Node | Value], bool]) -> None:
        self.protects = protects
        self.table = result.table
        self.result = result
        self.nodes = list(model.main.nodes)
        self.axes = model.opset() >= self.table.opset_per_channel or bool(result.dequantizer)
        self.heavy = {h.node: h for h in result.heavy}
        self.wanted: set[Value] = set()
        self.handed_on: set[Value] = set()
        self.integer: dict[Value, _Root] = {}
        self.local: dict[tuple[Value, str], Pair] = {}

    def run(self) -> None:
        self._backward()
        for node in self.nodes:
            heavy = self.heavy.get(node)
            if heavy is not None:
                self._weighted(heavy)
            elif self._moves(node):
                self._movement(node)
            elif self._elementwise(node):
                self._on_integers(node)
        keep_float(self.result, self._is_integer, per_channel=self.axes)

    def _backward(self) -> None:
        for node in reversed(self.nodes):
            self.handed_on.update(v for v in node.outputs if self._handed_on(v))
            heavy = self.heavy.get(node)
            if heavy is not None:
                self.wanted.update(v for v in (heavy.x, heavy.other) if v is not None)
            elif self._moves(node):
                if any(o in self.wanted for o in node.outputs) and node.inputs[0] is not None:
                    self.wanted.add(node.inputs[0])
            elif self._elementwise(node) and self._result(node)[0] in self.wanted:
                self.wanted.update(v for v in node.inputs if v is not None)

    def _handed_on(self, value: Value) -> bool:
        """Whether nobody reads `value` but weighted operators as their data, be it behind data movement."""
        if value.is_output or not value.use_count:
            return False
        for node, index in value.uses():
            moved = index == 0 and self._moves(node) and all(o in self.handed_on for o in node.outputs)
            if not moved and (index != 0 or node not in self.heavy):
                return False
        return True

    def _moves(self, node: Node) -> bool:
        return moves_data(node, self.table) and not self.protects(node)

    def _elementwise(self, node: Node) -> bool:
        row = self.table.elementwise.get(node.op)
        if row is None or not node.is_standard or self.protects(node):
            return False
        return not any(a in node.attrs for a in row.unless_set)

    def _carrier(self, value: Value) -> tuple[Value, _Root]:
        """Where a Q belongs that shall make `value` integer: behind the activation that it makes redundant,
        or on it.
        """
        reader = sole_reader(value)
        if reader is not None and not self.table.symmetric:
            redundant, ceiling = redundant_activation(reader)
            if redundant:
                behind = reader.outputs[0]
                return behind, _Root(behind, True, ceiling)
        return value, _Root(value)

    def _result(self, node: Node) -> tuple[Value, _Root]:
        """Where the Q of an elementwise operator stands."""
        output = node.outputs[0]
        through = self.table.elementwise[node.op].output == "through-redundant-activation"
        return self._carrier(output) if through else (output, _Root(output))

    def _weighted(self, heavy: Heavy) -> None:
        node = heavy.node
        self._read(heavy.x, node, 0, f"input of {node.op}")
        if heavy.other is not None:
            self._read(heavy.other, node, 1, f"second operand of {node.op}", heavy.rule.pair_dtype)
        rule = heavy.rule
        if rule.output == "always":
            self._write(heavy.output, _Root(heavy.output), f"output of {node.op}")
        elif rule.output == "through-redundant-activation":
            self._write(*self._carrier(heavy.output), f"output of {node.op}")
        elif rule.output == "if-wanted" and heavy.output in self.handed_on:
            self._write(heavy.output, _Root(heavy.output), f"output of {node.op}, which only integer operators read")
        elif self._falls_back(heavy, rule):
            value, root = self._carrier(heavy.output)
            self._write(value, root, f"output of {node.op}, which would fall back to float without")

    def _falls_back(self, heavy: Heavy, rule: Weighted) -> bool:
        """Whether the runtime fuses what follows into a float kernel unless the output is quantized."""
        reader = sole_reader(heavy.output)
        if reader is None or not rule.output_before or reader.domain != "":
            return False
        flat = heavy.node.op == "Gemm" or heavy.x.rank in (2, None)
        if reader.op in rule.output_before:
            return flat or heavy.bias is None
        if reader.op != "Add" or not rule.bias_add or heavy.bias is not None:
            return False
        others = [v for v in reader.inputs if v is not None and v != heavy.output]
        number = all(v.is_const and v.shape in ((), (1,)) for v in others)
        return not number and (flat or all(v.rank in (1, None) for v in others))

    def _movement(self, node: Node) -> None:
        source = node.inputs[0]
        root = None if source is None else self.integer.get(source)
        if root is None:
            return
        for output in node.outputs:
            if output in self.wanted:
                self._write(output, root, f"{node.op} moves integers: the scale of {root.like.name!r} stays")

    def _is_integer(self, value: Value) -> bool:
        """Whether `value` is integer; it becomes so, if it is what is left of an integer that was only moved."""
        ways = [value]
        while ways[-1] not in self.integer:
            node = ways[-1].producer
            source = node.inputs[0] if node is not None and self._moves(node) else None
            if source is None:
                return False
            ways.append(source)
        root = self.integer[ways.pop()]
        for moved in reversed(ways):
            self._write(moved, root, f"integers that are moved: the scale of {root.like.name!r} stays")
        return value in self.integer

    def _on_integers(self, node: Node) -> None:
        value, root = self._result(node)
        inputs = [(v, i) for i, v in enumerate(node.inputs) if v is not None]
        outside = [(v, i) for v, i in inputs if v not in self.integer]
        if value not in self.wanted or len(outside) == len(inputs):
            return
        if any(v.is_const or not _is_small(v, node.outputs[0]) for v, _ in outside):
            return
        for v, i in outside:
            self._read(v, node, i, f"small input of {node.op}")
        self._write(value, root, f"output of {node.op}, whose inputs are integers")

    def _read(self, value: Value, node: Node, index: int, reason: str, dtype: str | None = None) -> None:
        """Let one input of a node come through a pair, unless everybody reads the value that way."""
        if value in self.integer:
            return
        kind = dtype or self.table.activation
        pair = self.local.get((value, kind))
        if pair is None:
            pair = self.local[value, kind] = Pair(value, [], value, kind, reason)
            self.result.pairs.append(pair)
        assert pair.readers is not None
        pair.readers.append((node, index))

    def _write(self, value: Value, root: _Root, reason: str) -> None:
        """Let everybody read `value` through one pair, if everybody may."""
        if value in self.integer or value.name in self.result.plain or (value.is_output and self.protects(value)):
            return
        if any(self.protects(reader) for reader, _ in value.uses()):
            return
        self.integer[value] = root
        pair = Pair(value, None, root.like, self.table.activation, reason, root.floor_zero, root.ceiling)
        self.result.pairs.append(pair)


def _is_small(value: Value, output: Value) -> bool:
    """Whether `value` broadcasts over the last two axes, which is where the data of an image is."""
    shape: Sequence[object] | None = value.shape
    return shape is not None and len(shape) >= 3 and len(shape) == output.rank and tuple(shape[-2:]) == (1, 1)
