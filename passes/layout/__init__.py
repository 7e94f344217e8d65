"""The pass `layout`: orders of axes with which fewer elements have to be moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt_passes.layout import dense
from graphopt_passes.layout.search import Search
from graphopt_passes.layout.wiring import BY, Wiring
from graphopt_passes.layout.write import Writer

from graphopt import Context, Graph, Rule, RulePass, rules_in

_MAX_RUNS = 4  # that change something, in one run of the pipeline: each finds the best for the graph that it is given


@dataclass(frozen=True)
class Layout(RulePass):
    """Let operators work in the order of axes in which Transposes around them move the fewest elements."""

    name: ClassVar[str] = "layout"
    requires: ClassVar[tuple[str, ...]] = ("cleanup", "fold", "simplify")
    rewrites: ClassVar[Mapping[str, str]] = {
        BY: "An operator works in the order of axes in which the tensors around it are not transposed.",
    }

    pack: ClassVar[tuple[Rule[Any], ...]] = tuple(rules_in(dense))

    def run(self, ctx: Context) -> None:
        ctx.apply(self.pack, self.name)
        before = ctx.edit.ordinal, len(ctx.changes)  # more may be known of values without a rewrite
        settled, runs = ctx.shared.get(BY, (None, 0))
        if ctx.ignores(BY) or settled == before or runs >= _MAX_RUNS:
            return
        for graph in list(ctx.model.graphs()):
            _reorder(ctx, graph)
        changed = ctx.edit.ordinal > before[0]
        if not changed:
            settled = before  # nothing is left to do until something changes
        ctx.shared[BY] = settled, runs + changed


def _reorder(ctx: Context, graph: Graph) -> None:
    transposed = [node.outputs[0] for node in graph.find("Transpose") if node.is_standard]
    if not transposed:
        return
    wiring = Wiring(ctx, graph, lambda node, reason: ctx.decline(BY, node, reason))
    search = Search(wiring)
    search.run(transposed)
    if search.refused and not search.orders:
        ctx.decline(BY, None, "no fewer elements would be moved")
    if search.orders:
        Writer(ctx, graph, wiring).write(search.orders)
