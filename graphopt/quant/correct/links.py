"""Links: a value whose channels may be scaled, because what makes it can divide and all that reads it can multiply.

If x is the output of a layer with weight W and V the weight of each layer that reads it, then W/s and s·V compute the
same for any s > 0 per channel; so they do through whatever commutes with scaling (`tracks`). A link that also takes
offsets can have each channel moved: what is taken from the bias in front is given to the bias behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphopt.quant.correct.tracks import along, follow, keeps_offsets
from graphopt.quant.within import graphs_of

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value

__all__ = ["NORMS", "Layer", "Link", "Slot", "find_links"]

Array = np.ndarray[Any, Any]
Role = Literal["divide", "multiply", "shift", "absorb"]

NORMS = ("LayerNormalization", "RMSNormalization", "BatchNormalization", "InstanceNormalization")
_ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Clip")


@dataclass(frozen=True, eq=False)
class Slot:
    """A constant that changes: input `index` of `node`, whose elements belong to channels as `track` says.

    `divide` by the scales, `multiply` by them, `shift`: a bias from which the offsets are taken before it is divided,
    `absorb`: a bias that gets what the offsets were worth to the layer. (`track` is of no use there.)
    """

    node: Node
    index: int
    role: Role
    track: Array

    @property
    def value(self) -> Value:
        found = self.node.inputs[self.index]
        assert found is not None
        return found


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that reads a link by its input `value`, whose channels lie along `along`.

    `ids` [K]: the link's channel that each of the layer's K input channels belongs to. `columns` [N or 1, K']: which
    of the K each of its N outputs sums over, as the weight has them. `axis`: the outputs in the weight. `bias`: the
    constant that could absorb offsets, if there is one.
    """

    node: Node
    value: Value
    along: int
    ids: Array
    columns: Array
    axis: int
    bias: Slot | None

    @property
    def weight(self) -> Slot:
        rank = self.node.inputs[1].rank  # type: ignore[union-attr]
        track = self.ids[self.columns]
        view = [*track.shape, *[1] * ((rank or 2) - 2)]
        return Slot(
            self.node,
            1,
            "multiply",
            (track if self.axis == 0 else track.T).reshape(view if self.axis == 0 else [view[1], view[0], *view[2:]]),
        )

    def matrix(self) -> Array:
        """The weight as [N, K', elements of the kernel], float64."""
        array = self.weight.value.content()
        turned = array if self.axis == 0 else array.swapaxes(0, 1)
        return turned.astype(np.float64).reshape([*turned.shape[:2], -1])


@dataclass(frozen=True, eq=False)
class Link:
    """`count` channels between the node `maker` and `layers`.

    `slots`: the constants besides those of the layers. `values`: all values in between, with their tracks. `offsets`:
    channels may also be moved: by any number (`free`), by as much as the least value there is (`floor`: a Relu is in
    between), or not at all (None).
    """

    maker: Node
    count: int
    slots: tuple[Slot, ...]
    layers: tuple[Layer, ...]
    values: tuple[tuple[Value, Array], ...]
    through: tuple[Node, ...]
    offsets: Literal["free", "floor"] | None

    @property
    def kind(self) -> str:
        """`cle` between layers with an activation in between and wherever there is a convolution, else `smooth`."""
        ops = {self.maker.op, *(layer.node.op for layer in self.layers)}
        if self.maker.op in NORMS or self.maker.op == "Mul":
            return "smooth"
        convolved = not ops.isdisjoint(("Conv", "ConvTranspose"))
        return "cle" if convolved or any(n.op in _ACTIVATIONS for n in self.through) else "smooth"


def find_links(model: Model, protects: Callable[[Node | Value], bool]) -> Iterator[Link]:
    """All links of the main graph and of bodies that end in layers, in the order of each graph."""
    for node in (node for graph in graphs_of(model) for node in graph.nodes):
        made = _maker(node) if node.is_standard and not protects(node) else None
        if made is not None:
            link = _Flood(node, protects).run(*made)
            if link is not None:
                yield link


def _constant(node: Node, index: int) -> Value | None:
    """A float32 constant input that no caller can set."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_const or value.dtype is None or value.dtype.name != "FLOAT":
        return None
    return value


def _sizes(value: Value) -> tuple[int, ...]:
    return tuple(d for d in value.shape or () if isinstance(d, int))


def _maker(node: Node) -> tuple[Array, list[Slot]] | None:
    """The track of a node's output and the constants that carry the channels, if it can scale them."""
    rank = node.outputs[0].rank if node.outputs else None
    if rank is None:
        return None
    if node.op in NORMS:
        return _of_norm(node, rank)
    if node.op == "Mul":
        return _of_product(node, rank)
    weight = _constant(node, 1)
    if weight is None or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    sizes = _sizes(weight)
    if node.op == "ConvTranspose":
        each, groups = sizes[1], int(node.attr("group", 1))
        count = each * groups
        group = np.arange(sizes[0]) // (sizes[0] // groups)
        ids = (group[:, None] * each + np.arange(each)).reshape([*sizes[:2], *[1] * (len(sizes) - 2)])
    else:
        axis = {"Conv": 0, "MatMul": len(sizes) - 1, "Gemm": 0 if node.attr("transB", 0) else 1}[node.op]
        if len(sizes) != 2 and node.op in ("MatMul", "Gemm"):
            return None
        count, ids = sizes[axis], along(axis, len(sizes), sizes[axis])
    slots = [Slot(node, 1, "divide", ids)]
    if node.op != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if _constant(node, 2) is None or node.attr("beta", 1.0) != 1.0 or node.attr("alpha", 1.0) != 1.0:
            return None
        slots.append(Slot(node, 2, "shift", np.arange(count)))
    return along(1 if node.op.startswith("Conv") else rank - 1, rank, count), slots


def _of_norm(node: Node, rank: int) -> tuple[Array, list[Slot]] | None:
    rms = node.op == "RMSNormalization"
    scale, bias = _constant(node, 1), None if rms else _constant(node, 2)
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    if scale is None or scale.rank != 1 or (given and not rms and (bias is None or bias.rank != 1)):
        return None
    count = _sizes(scale)[0]
    if node.op in ("LayerNormalization", "RMSNormalization"):
        if int(node.attr("axis", -1)) % rank != rank - 1 or (bias is not None and _sizes(bias) != (count,)):
            return None
        axis = rank - 1
    else:
        axis = 1
        if node.attr("training_mode", 0):
            return None
    ids = np.arange(count)
    slots = [Slot(node, 1, "divide", ids)]
    return along(axis, rank, count), [*slots, *([Slot(node, 2, "shift", ids)] if bias is not None else [])]


def _of_product(node: Node, rank: int) -> tuple[Array, list[Slot]] | None:
    """A Mul by a constant vector: what is left of a normalization that is written out."""
    for index in (0, 1):
        value = _constant(node, index)
        sizes = () if value is None else _sizes(value)
        if len(sizes) == 1 and sizes[0] > 1 and not node.inputs[1 - index].is_const:  # type: ignore[union-attr]
            return along(rank - 1, rank, sizes[0]), [Slot(node, index, "divide", np.arange(sizes[0]))]
    return None


@dataclass
class _Flood:
    """Follows the output of one node to all its readers; gives up at the first that takes no scale."""

    maker: Node
    protects: Callable[[Node | Value], bool]
    layers: list[Layer] = field(default_factory=list)
    through: list[Node] = field(default_factory=list)
    values: list[tuple[Value, Array]] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    seen: set[Node] = field(default_factory=set)

    def run(self, track: Array, slots: Iterable[Slot]) -> Link | None:
        output = self.maker.outputs[0]
        shape = output.shape
        if shape is None or any(t not in (1, d) for t, d in zip(track.shape, shape, strict=True)):
            return None
        self.slots += slots
        pending = [(output, track)]
        while pending:
            value, ids = pending.pop()
            if value.is_output or self.protects(value):
                return None
            self.values.append((value, ids))
            for reader, index in value.uses():
                if reader in self.seen or reader.graph != self.maker.graph or self.protects(reader):
                    return None
                self.seen.add(reader)
                if self._layer(reader, index, value, ids):
                    continue
                behind = ids if self._adds_constant(reader, index, ids) else follow(reader, index, ids)
                if behind is None:
                    return None
                self.through.append(reader)
                pending.append((reader.outputs[0], behind))
        if not self.layers:
            return None
        count = int(track.size)
        return Link(
            self.maker, count, tuple(self.slots), tuple(self.layers), tuple(self.values), tuple(self.through),
            self._offsets(),
        )  # fmt: skip

    def _adds_constant(self, node: Node, index: int, track: Array) -> bool:
        """Whether the reader adds a constant, which can be divided like the rest; it is noted."""
        if node.op not in ("Add", "Sub") or not node.is_standard or (other := _constant(node, 1 - index)) is None:
            return False
        if node.outputs[0].rank != track.ndim or (other.rank or 0) > track.ndim:
            return False
        self.slots.append(Slot(node, 1 - index, "divide", track))
        return True

    def _layer(self, node: Node, index: int, value: Value, track: Array) -> bool:
        """Whether the reader is a layer that can multiply its weight by the scales; it is noted."""
        if index or not node.is_standard or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return False
        weight = _constant(node, 1)
        if weight is None or node.attr("transA", 0) or node.attr("alpha", 1.0) != 1.0:
            return False
        sizes, axis = _sizes(weight), 1 if node.op.startswith("Conv") else track.ndim - 1
        if track.size != track.shape[axis] or (len(sizes) != 2 and not node.op.startswith("Conv")):
            return False
        layer = _weighted(node, value, axis, sizes, track.reshape(-1))
        if layer is not None:
            self.layers.append(layer)
        return layer is not None

    def _offsets(self) -> Literal["free", "floor"] | None:
        if any(layer.bias is None for layer in self.layers) or not any(s.role == "shift" for s in self.slots):
            return None
        if all(keeps_offsets(n) for n in self.through):
            return "free"
        return "floor" if all(keeps_offsets(n) or n.op == "Relu" for n in self.through) else None


def _weighted(node: Node, value: Value, along: int, sizes: tuple[int, ...], ids: Array) -> Layer | None:
    """The layer, if its weight fits the channels."""
    columns, axis = np.arange(ids.size)[None, :], 1
    if node.op == "Conv":
        groups, axis = int(node.attr("group", 1)), 0
        if sizes[1] * groups != ids.size:
            return None
        if groups > 1:
            group = np.arange(sizes[0]) // (sizes[0] // groups)
            columns = group[:, None] * sizes[1] + np.arange(sizes[1])
    elif node.op == "Gemm" and node.attr("transB", 0):
        axis = 0
    if sizes[1 - axis] != columns.shape[1]:
        return None
    return Layer(node, value, along, ids, columns, axis, _absorbing(node, sizes[axis]))


def _absorbing(node: Node, outputs: int) -> Slot | None:
    """The bias of a layer that computes the same sums everywhere: a padded convolution does not at its borders."""
    none = np.zeros(0, int)
    if node.op == "Conv":
        padded = node.attr("auto_pad") in ("SAME_UPPER", "SAME_LOWER") or any(node.attr("pads") or ())
        return None if padded or _constant(node, 2) is None else Slot(node, 2, "absorb", none)
    if node.op == "Gemm":
        return None if _constant(node, 2) is None or node.attr("beta", 1.0) != 1.0 else Slot(node, 2, "absorb", none)
    if node.op == "MatMul" and node.outputs[0].use_count == 1 and not node.outputs[0].is_output:
        add, index = node.outputs[0].uses()[0]
        value = _constant(add, 1 - index) if add.op == "Add" and add.is_standard else None
        if value is not None and add.graph == node.graph and _sizes(value)[-1:] in ((outputs,), (1,), ()):
            return Slot(add, 1 - index, "absorb", none)
    return None
