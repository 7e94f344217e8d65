"""Writing the orders that were found into the graph, one node after another.

Each rewrite leaves a graph that computes the same: a node is made anew in its order, and whoever still reads its
results in the old one reads them through a Transpose, which goes again once nobody is left.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt_passes.layout.orders import NEW, Layout, Shape, between, keeps_order, own, sizes, straight
from graphopt_passes.layout.reading import integers
from graphopt_passes.layout.units import Unit
from graphopt_passes.layout.wiring import BY, Wiring
from graphopt_passes.simplify.reading import reshape_target

from graphopt import Context, Decline, Graph, Node, Rewrite, Value, require

Spelling = tuple[Value, Layout]


class Writer:
    """Rewrites units of one graph, in topological order."""

    def __init__(self, ctx: Context, graph: Graph, wiring: Wiring) -> None:
        self._ctx = ctx
        self._graph = graph
        self._wiring = wiring
        self._stored: dict[Value, Spelling] = {}  # tensors that are written anew, and in which layout
        self._made: dict[Spelling, Value] = {}  # tensors in other layouts than the one they are written in
        self._place: dict[Node, int] = {}

    def write(self, orders: Mapping[Unit, Layout]) -> None:
        changed = {unit.node: unit for unit, order in orders.items() if order != unit.carry.straight}
        nodes = list(self._graph.nodes)
        self._place = {node: i for i, node in enumerate(nodes)}
        for node in nodes:
            if node in changed and node.alive:
                self._rewrite(changed[node], orders[changed[node]])

    def _rewrite(self, unit: Unit, order: Layout) -> None:
        node, carry = unit.node, unit.carry
        spellings = {i: self._wiring.spellings(o) for i, o in enumerate(node.outputs)}
        made: dict[Spelling, Value] = {}
        stored: dict[Value, Spelling] = {}
        committed = False
        with self._ctx.rewrite(BY, at=node) as rewrite:
            inputs = [self._operand(rewrite, unit, i, order, made) for i in range(len(node.inputs))]
            for index, new in enumerate(carry.build(rewrite, node, inputs, order)):
                old = node.outputs[index]
                if index not in carry.writes:
                    rewrite.replace(old, new)
                    continue
                layout = carry.writes[index].layout(order)
                stored[old] = new, layout
                self._redirect(rewrite, node, old, spellings[index], stored[old], made)
            committed = True
        if committed and all(v.alive for v, _ in stored.values() if v.use_count) and not node.alive:
            self._stored |= stored
            self._made |= made

    def _operand(
        self, rewrite: Rewrite, unit: Unit, index: int, order: Layout, made: dict[Spelling, Value]
    ) -> Value | None:
        value = unit.node.inputs[index]
        if index not in unit.operands:
            return value
        root, _ = unit.operands[index]
        wanted = unit.read(index, order)
        return self._have(rewrite, unit.node, root, wanted, made)

    def _have(self, rewrite: Rewrite, at: Node, root: Value, wanted: Layout, made: dict[Spelling, Value]) -> Value:
        """A tensor in a layout, where there is one already or newly made."""
        value, stored = self._stored.get(root, (root, straight(len(self._wiring.shape(root)))))
        if self._wiring.price(root, stored, wanted).nodes == 0:
            return value
        key = root, self._wiring.form(root, wanted)
        found = made.get(key) or self._made.get(key)
        if found is not None and found.alive:
            return found
        others = self._wiring.spellings(root)[1:]
        alike = [v for v, seen in others if v.alive and self._wiring.form(root, seen) == key[1]]
        if root not in self._stored:
            for spelling in alike:
                if self._is_before(spelling.producer, at):
                    return spelling
        if self._wiring.is_free(root):
            found = _constant(rewrite, root, wanted)
        else:
            found = _transposed(rewrite, value, between(stored, wanted), at.version)
            if root not in self._stored:
                for spelling in alike:  # those behind this node are the same
                    rewrite.replace(spelling, found)
        made[key] = found
        return found

    def _is_before(self, node: Node | None, at: Node) -> bool:
        """Whether a node is one of those that were there at first, and in front of another."""
        return node is not None and node.alive and node in self._place and self._place[node] < self._place[at]

    def _redirect(
        self,
        rewrite: Rewrite,
        at: Node,
        old: Value,
        spellings: list[Spelling],
        stored: Spelling,
        made: dict[Spelling, Value],
    ) -> None:
        """Let everybody who reads the old tensor, in whatever layout, read the new one."""
        new, layout = stored
        links = {value.producer for value, _ in spellings[1:]}
        for spelling, seen in spellings:
            if not spelling.is_output and all(reader in links for reader, _ in spelling.uses()):
                continue
            if self._wiring.price(old, layout, seen).nodes == 0:
                rewrite.replace(spelling, new)
                continue
            key = old, self._wiring.form(old, seen)
            if key not in made:
                made[key] = _transposed(rewrite, new, between(layout, seen), at.version)
            rewrite.replace(spelling, made[key])


def _transposed(rewrite: Rewrite, value: Value, layout: Layout, version: int) -> Value:
    """A tensor in another layout, with new axes where the layout has them."""
    perm = own(layout)
    shape = value.shape or ()
    if version >= 5 and perm != straight(len(perm)) and keeps_order(shape, perm):
        try:
            return rewrite.node("Reshape", [value, rewrite.constant(integers(_target(shape, layout)), "shape")])[0]
        except Decline:
            pass  # a constant cannot say the sizes
    if perm != straight(len(perm)):
        (value,) = rewrite.node("Transpose", [value], {"perm": list(perm)})
    axes = [place for place, axis in enumerate(layout) if axis == NEW]
    if not axes:
        return value
    if version < 13:
        return rewrite.node("Unsqueeze", [value], {"axes": axes})[0]
    return rewrite.node("Unsqueeze", [value, rewrite.constant(integers(axes), "axes")])[0]


def _target(shape: Shape, layout: Layout) -> list[int]:
    require(0 not in shape, "the tensor is empty")
    return reshape_target(shape, sizes(shape, layout))


def _constant(rewrite: Rewrite, value: Value, layout: Layout) -> Value:
    array = value.content()
    shape = sizes(array.shape, layout)
    return rewrite.constant(array.transpose(own(layout)).reshape([int(str(n)) for n in shape]), value.name)
