"""What a rewrite wants to change, gathered and checked before anything of the graph is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as oir


class Decline(Exception):
    """This rewrite does not apply here; `reason` says why, in words that can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StopRewriting(Exception):
    """The journal has reached the number given by `--stop-after`."""


@dataclass(slots=True)
class Draft:
    """A change to one graph: new nodes and constants, who reads what instead, and who asks for it.

    `anchor`: the node at which the change is made, and whose name the new nodes are called after.
    `sources`: the nodes that the new ones are made from, for provenance.
    `homes`: the outer graphs that get constants which the change does not leave in its own.
    `same_type`: whether a replacement must have the dtype and shape of what it replaces.
    """

    by: str
    anchor: oir.Node
    graph: oir.Graph
    sources: Sequence[oir.Node] = ()
    same_type: bool = True
    nodes: list[oir.Node] = field(default_factory=list)
    constants: list[oir.Value] = field(default_factory=list)
    homes: dict[oir.Value, oir.Graph] = field(default_factory=dict)
    replaced: list[tuple[oir.Value, oir.Value]] = field(default_factory=list)
    inputs: list[tuple[oir.Node, int, oir.Value]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Change:
    """A committed rewrite.

    `ordinal` counts from 1 within a run. `at` names the anchor. `added` are the new nodes that are in
    the graph, `removed` the names of those that are gone. `freed` are nodes that lost a reader, `moved`
    those that read something else than before. `whole`: another graph took the place of the model's own.
    """

    ordinal: int
    by: str
    at: str
    graph: oir.Graph
    added: tuple[oir.Node, ...]
    removed: tuple[str, ...]
    freed: tuple[oir.Node, ...]
    moved: tuple[oir.Node, ...]
    whole: bool = False
