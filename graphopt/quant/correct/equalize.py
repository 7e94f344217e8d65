"""Equalization: weights and biases are changed so that quantized numbers lose less, and the model computes the same.

Three corrections are cases of one: the channels of a value between two layers are scaled (`cle` between layers with an
activation in between, `smooth` behind normalizations and between layers without one), or moved and scaled (`reparam`
behind normalizations; lowering what a Relu lets through belongs to `cle`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.quant.calibrate import Calibration, Watch
from graphopt.quant.correct.gain import Gain
from graphopt.quant.correct.links import NORMS, Layer, Link, Slot, find_links
from graphopt.quant.correct.migrate import Migration, Steps, migration

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value
    from graphopt.quant.insert import Decliner

__all__ = ["EQUALIZATIONS", "Equalizer", "fold_scale"]

EQUALIZATIONS = ("cle", "smooth", "reparam")

_ENOUGH = 512  # elements of a channel: its extremes then are near those of many more

Array = np.ndarray[Any, Any]


class Equalizer:
    """The links of a model that end in quantized layers, and what is done to them.

    `layers`: the nodes that will be quantized; `wanted`: which of `EQUALIZATIONS`; `watches`: what calibration has to
    watch for it. Nothing is changed before `apply`.
    """

    def __init__(
        self, model: Model, layers: Collection[Node], wanted: Collection[str], protects: Callable[[Node | Value], bool]
    ) -> None:
        self._layers = frozenset(layers)
        self._wanted = frozenset(wanted)
        found = find_links(model, protects) if self._wanted.intersection(EQUALIZATIONS) and layers else ()
        self.links = list(self._chosen(found))
        self.gains: list[Gain] = []
        self.changed: dict[str, None] = {}

    def _chosen(self, links: Iterable[Link]) -> Iterable[Link]:
        """Those that concern a quantized layer; of several that end in the same one, the longest."""
        taken: set[Node] = set()
        for link in links:
            nodes = {layer.node for layer in link.layers}
            if any(self._may(link)) and not nodes.isdisjoint(self._layers) and nodes.isdisjoint(taken):
                taken |= nodes
                yield link

    def _may(self, link: Link) -> tuple[bool, bool]:
        """Whether a link may be scaled, and moved."""
        centred = link.offsets == "free" and link.maker.op in NORMS and "reparam" in self._wanted
        scaled = link.kind in self._wanted
        return scaled or centred, centred or (link.offsets == "floor" and "cle" in self._wanted)

    @property
    def watches(self) -> list[Watch]:
        return [Watch(layer.value.name, channels=layer.along) for link in self.links for layer in self._quantized(link)]

    def knows_little(self, calibration: Calibration) -> bool:
        """Whether there are channels of which few elements were seen, such as those behind a pool over all places."""
        seen = (calibration.along.get((w.name, w.channels)) for w in self.watches if w.channels is not None)
        return any(c.count.min(initial=_ENOUGH) < _ENOUGH for c in seen if c is not None)

    def _quantized(self, link: Link) -> list[Layer]:
        return [layer for layer in link.layers if layer.node in self._layers]

    def apply(self, edit: Editor, calibration: Calibration, steps: Steps, decline: Decliner | None = None) -> None:
        """Change what is expected to gain; `gains` and the names of the values that `changed` are known then."""
        for link in self.links:
            scale, move = self._may(link)
            pairs = [(y, calibration.along.get((y.value.name, y.along))) for y in self._quantized(link)]
            known = [(y, found) for y, found in pairs if found is not None and found.count.size == y.ids.size]
            if len(known) < len(pairs):
                continue
            best = migration(link, known, steps, scale=scale, move=move)
            if best is None:
                continue
            name = "reparam" if best.offsets.any() and link.offsets == "free" else link.kind
            try:
                _migrate(link, best, edit, f"quant.{name}")
            except Decline as declined:
                if decline is not None:
                    decline(f"quant.{name}", link.maker, declined.reason)
                continue
            self.gains.append(Gain(name, link.maker.name or link.values[0][0].name, best.before, best.after))
            self.changed.update((value.name, None) for value, _ in link.values)


def fold_scale(link: Link, scales: Array, edit: Editor, by: str) -> None:
    """Let the channels x of a link be x / scales ([count], positive), in the name of `by`; the model computes the same.

    Raises `Decline` if the Editor does not do it.
    """
    _migrate(link, Migration(scales, np.zeros(link.count), 0.0, 0.0), edit, by)


def _migrate(link: Link, change: Migration, edit: Editor, by: str) -> None:
    slots = [*link.slots, *(layer.weight for layer in link.layers)]
    before: dict[Value, None] = {}
    with edit.rewrite(by, at=link.maker, sources=[link.maker, *(layer.node for layer in link.layers)]) as rw:
        for slot in slots:
            before[slot.value] = None
            _put(rw, slot, _changed(slot, change))
        for layer in link.layers if change.offsets.any() else ():
            assert layer.bias is not None, "a link that takes offsets has biases"
            before[layer.bias.value] = None
            worth = (layer.matrix().sum(2) * change.offsets[layer.ids[layer.columns]]).sum(1)
            _put(rw, layer.bias, _array(layer.bias) + worth)
    edit.drop_unread(before)


def _array(slot: Slot) -> Array:
    return slot.value.content().astype(np.float64)


def _changed(slot: Slot, change: Migration) -> Array:
    array, scales = _array(slot), change.scales[slot.track]
    if slot.role == "multiply":
        return np.asarray(array * scales)
    return np.asarray((array - change.offsets[slot.track] if slot.role == "shift" else array) / scales)


def _put(rw: Rewrite, slot: Slot, array: Array) -> None:
    single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise Decline("a weight would leave the range of float32")
    rw.set_input(slot.node, slot.index, rw.constant(single, like=slot.value.name))
