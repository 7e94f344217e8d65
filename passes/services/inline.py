"""The pass `inline`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import Context, Pass, inline_functions


@dataclass(frozen=True)
class Inline(Pass):
    """Put the bodies of the model's local functions in place of their calls.

    Other passes optimize functions where they are; this is for runtimes that take none.
    """

    name: ClassVar[str] = "inline"
    rewrites: ClassVar[Mapping[str, str]] = {"inline": "Put the bodies of functions in place of their calls."}

    def run(self, ctx: Context) -> None:
        if any(graph.is_function for graph in ctx.model.graphs()):
            ctx.replace_model("inline", inline_functions)

