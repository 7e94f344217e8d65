"""Where Q and DQ stand: a plan made from the target's table, each entry with its reason. Nothing is changed
here.

Which operators are quantized is decided here; where their pairs go, by the flow of the target's style.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from graphopt.ir.commit import FROM_KEY
from graphopt.quant.exempt import exempt, hazard, protected
from graphopt.quant.operands import Heavy, analyse
from graphopt.quant.styles import flow_of, objection_of
from graphopt.quant.typed import opsets_of
from graphopt.quant.within import not_inside

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.targets.table import QuantTable

__all__ = ["Declined", "Pair", "Plan", "QuantSelection", "plan"]


_COARSE = "opset {} has one scale per weight only: accuracy is better from opset {} on, convert the model to it"


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
        flow_of(table.style)(model, result, protects).run()
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
        reason = not_inside(graph, table)
        for node in graph.nodes:
            if not node.is_standard:
                continue
            if node.op in table.float:
                yield node, table.float[node.op]
            elif node.op in table.weighted:
                yield node, reason if any(output.use_count for output in node.outputs) else "nobody reads its output"


def _deselected(node: Node, selection: QuantSelection, ends: set[Node]) -> str | None:
    reason = selection.objection(node)
    if reason is not None:
        return reason
    return "the first and the last layer were to stay float" if node in ends else None
