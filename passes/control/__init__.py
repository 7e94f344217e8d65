"""Control flow that is not needed: If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable

from graphopt_passes.control.branches import BRANCHES
from graphopt_passes.control.carried import CARRIED
from graphopt_passes.control.hoist import HOISTS
from graphopt_passes.control.loops import LOOPS

from graphopt import Context, Node, Rewrite

Change = Callable[[Rewrite, Node], None]
CONTROL: dict[str, tuple[Change, ...]] = {
    "If": BRANCHES,
    "Loop": (*LOOPS, *CARRIED, *HOISTS),
    "Scan": (*CARRIED, *HOISTS),
}


def simplify_control(ctx: Context) -> None:
    """Inline branches and iterations that are known, and take out of bodies what does not belong there; inner first."""
    for graph in reversed(list(ctx.model.graphs())):
        for node in graph.find(*CONTROL):
            for change in CONTROL[node.op]:
                if node.is_standard and node.alive:
                    # The types inside a body say more than what several branches or iterations have in common.
                    with ctx.rewrite(f"simplify.{change.__name__}", at=node, same_type=False) as rewrite:
                        change(rewrite, node)
