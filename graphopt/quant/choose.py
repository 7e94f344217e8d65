"""`auto`: a kind of quantization for each operator, from its sizes and what was measured on the target.

A product of M rows with K × N weights is bound by arithmetic where M is large, and by reading its weights where M is
small; below some hundred rows and columns each kind costs more than it gains. Where the lines run is measured, not
derived: the table of the target says what each kind takes of the time of float.

With calibration data, static comes first where it is about as fast as the others: it alone lets integers flow from
operator to operator. Without, dynamic comes first: its ranges are those of the real input, while static ones would
be guessed. Convolutions are static or float, for nothing else is fast. Sizes that are open are taken to be small and
to be large, and what is best at its worst is chosen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.quant.dense import Dense, dense_of
from graphopt.quant.dynamic import DYNAMIC_OPS
from graphopt.quant.kinds import deselected
from graphopt.quant.weights_only import WEIGHT_OPS

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.options import QuantOptions
    from graphopt.targets.target import Target

__all__ = ["Choice", "choose"]

_EQUAL = 1.1  # the faster of two kinds counts as faster from this ratio on
_PAYS = 0.95  # what a kind must take of the time of float at most
_LARGE_TABLE = 1 << 20  # bytes of an embedding whose rows are stored in integers
_WITH_DATA, _WITHOUT = ("static", "dynamic", "weights"), ("dynamic", "static", "weights")
_OPEN_BATCH, _OPEN_LENGTH = (1, 32), (1, 128)
Sizes = Sequence[Mapping[str, int]]


@dataclass
class Choice:
    """Nodes to convert by kind, and those that calibration shall leave alone, with the reason if they stay float."""

    nodes: dict[str, list[Node]] = field(default_factory=lambda: {"dynamic": [], "weights": []})
    left: dict[Node, str | None] = field(default_factory=dict)

    def take(self, node: Node, kind: str) -> None:
        if kind != "static":
            self.nodes[kind].append(node)
            self.left[node] = None


def choose(
    model: Model,
    edit: Editor,
    target: Target,
    options: QuantOptions,
    *,
    data: bool,
) -> Choice:
    """Decide for each operator; `data`: whether there are samples to calibrate on. Reads no weights."""
    choice = Choice()
    work = _Choosing(edit, target, options, data, choice)
    ops = {*DYNAMIC_OPS, *WEIGHT_OPS, *(() if target.quant is None else target.quant.weighted)}
    for graph in model.graphs():
        found = [node for node in graph.nodes if node.op in ops]
        for node in found:
            if deselected(node, options.selection, found) is not None:
                continue
            if node.op in ("MatMul", "Gemm") and node.is_standard:
                work.product(node)
            elif node.op == "LSTM" and node.is_standard:
                work.lstm(node)
            elif node.op == "Attention" and node.domain == CONTRIBUTED:
                work.attention(node)
            elif node.op == "Gather" and node.is_standard:
                work.embedding(node)
    return choice


class _Choosing:
    def __init__(self, edit: Editor, target: Target, options: QuantOptions, data: bool, choice: Choice) -> None:
        self.edit, self.target, self.choice = edit, target, choice
        self.kinds, self.figures = target.kinds, target.kinds.figures
        self.order = _WITH_DATA if data else _WITHOUT
        self.column = {"static": "static", "dynamic": "dynamic", "weights": options.stored.removeprefix("u")}

    def product(self, node: Node) -> None:
        dense = dense_of(node, self.edit)
        if isinstance(dense, str):
            return  # the placement of static int8 says why, or takes it
        rows = _rows(dense)
        self._take(node, self._possible(node), "product", [{"m": m, "k": dense.k, "n": dense.n} for m in rows])

    def attention(self, node: Node) -> None:
        x, w = (*node.inputs, None, None)[:2]
        sizes = None if w is None else [d for d in w.shape or () if isinstance(d, int)]
        if x is None or not sizes or len(sizes) != 2 or not self.kinds.attention:
            return
        rows = _open(x, (_OPEN_BATCH[:1], _OPEN_LENGTH))
        self._take(node, ["dynamic"], "product", [{"m": m, "k": sizes[0], "n": sizes[1]} for m in rows])

    def lstm(self, node: Node) -> None:
        x, w, r = (*node.inputs, None, None, None)[:3]
        if x is None or w is None or r is None or not self.kinds.lstm or x.rank != 3:
            return
        steps, batch, inputs = x.shape or (None, None, None)
        state = r.shape[-1] if r.shape else None
        width = math.isqrt(_size(inputs, 1) * _size(state, 1))
        lengths = [steps] if isinstance(steps, int) else [1, 100]
        sizes = [{"steps": s, "batch": _size(batch, 1), "width": width} for s in lengths]
        self._take(node, ["dynamic"], "lstm", sizes)

    def embedding(self, node: Node) -> None:
        table = node.inputs[0]
        possible = self.kinds.weights and "Gather" not in self.kinds.float
        if possible and table is not None and table.rank == 2 and (table.nbytes or 0) >= _LARGE_TABLE:
            self.choice.take(node, "weights")

    def _possible(self, node: Node) -> list[str]:
        """The kinds that the target has for a product."""
        quant = self.target.quant
        static = quant is not None and node.op in quant.weighted and node.graph.is_main
        has = {"static": static, "dynamic": bool(self.kinds.dynamic), "weights": bool(self.kinds.weights)}
        return [kind for kind in self.order if has[kind]]

    def _take(self, node: Node, kinds: Sequence[str], table: str, sizes: Sizes) -> None:
        if not kinds:
            return
        ratios = {kind: self._worst(table, kind, sizes) for kind in kinds}
        known = {kind: ratio for kind, ratio in ratios.items() if ratio is not None}
        if not known:  # nothing was measured there
            self.choice.take(node, kinds[0])
            return
        best = min(known, key=lambda kind: known[kind])
        if known[best] > _PAYS:
            size = " × ".join(str(v) for v in sizes[-1].values())
            self.choice.left[node] = f"at {size}, {best} takes {known[best]:.2f} of the time of float"
            return
        self.choice.take(node, next(kind for kind in kinds if known.get(kind, math.inf) <= known[best] * _EQUAL))

    def _worst(self, table: str, kind: str, sizes: Sizes) -> float | None:
        column = self.column[kind] if table == "product" else kind
        found = [self.figures.ratio(table, column, size) for size in sizes]
        return max((f for f in found if f is not None), default=None)


def _rows(dense: Dense) -> list[int]:
    """How many rows are multiplied: one number, or a small and a large one where sizes are open."""
    shape = dense.x.shape or ()
    if dense.turned:
        return [shape[-1]] if isinstance(shape[-1], int) else list(_OPEN_BATCH)
    if len(shape) == 2:
        return _open(dense.x, (_OPEN_BATCH,))
    return _open(dense.x, (_OPEN_BATCH[:1], *[_OPEN_LENGTH] * (len(shape) - 2)))


def _open(x: Value, choices: Iterable[Sequence[int]]) -> list[int]:
    """The products of all sizes but the last, those that are open as in `choices`: the smallest and the largest."""
    shape = x.shape or ()
    sizes = [[d] if isinstance(d, int) else list(c) for d, c in zip(shape, choices, strict=False)]
    found = [math.prod(combination) for combination in itertools.product(*sizes)]
    return sorted({max(min(found), 1), max(*found, 1)})


def _size(dim: object, default: int) -> int:
    return dim if isinstance(dim, int) else default
