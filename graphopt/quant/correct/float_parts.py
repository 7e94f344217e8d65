"""What of a quantized model still computes in float from constants that could be fitted: products and factors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Node, Value

__all__ = ["FloatPart", "float_part", "rounds_of"]

_WIDEST = 2048  # channels: second moments of 128 MiB, for each half of the data

Array = np.ndarray[Any, Any]
Slot = tuple["Node", int]


@dataclass(frozen=True, eq=False)
class FloatPart:
    """Something that can be fitted: constants of a weighted operator, or the factor and offset of channels.

    `weight` and `bias`: inputs, each as node and index. `value`: what is watched, the input of a weighted operator and
    else the output; `name`: what it is called in the float model. Channels lie along `axis`. `rows`: the axis of the
    outputs in the weight of a weighted operator, None for factors.
    """

    node: Node
    weight: Slot
    bias: Slot | None
    name: str
    axis: int
    rows: int | None

    @property
    def value(self) -> Value:
        found = self.node.inputs[0] if self.rows is not None else (self.bias or self.weight)[0].outputs[0]
        assert found is not None
        return found

    @property
    def where(self) -> str:
        return self.node.name or self.name

    def constants(self) -> tuple[Array, Array | None]:
        """The weight of a weighted operator as [N, K], or factors as [C]; and the bias, flat. In float64."""
        array = _content(self.weight)
        if self.rows is None:
            array = array.reshape(-1)
        else:
            array = array if self.rows == 0 else array.T
            array = array.reshape(array.shape[:2])
        return array, None if self.bias is None else _content(self.bias).reshape(-1)

    def laid_out(self, weight: Array, bias: Array | None) -> list[tuple[Slot, Array]]:
        """Constants as `constants` gives them, in the layout of the model and float32, each with its place."""
        turned = weight.T if self.rows == 1 else weight
        found = [(self.weight, turned.reshape(_sizes(*self.weight)).astype(np.float32))]
        if self.bias is not None and bias is not None:
            found.append((self.bias, bias.reshape(_sizes(*self.bias)).astype(np.float32)))
        return found


def _content(slot: Slot) -> Array:
    node, index = slot
    value = node.inputs[index]
    array = None if value is None else value.array()
    assert array is not None, "a constant has content"
    return array.astype(np.float64)


def _constant(node: Node, index: int) -> bool:
    """Whether an input is a float32 constant that no caller can set and nobody else reads."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_const or value.dtype is None or value.dtype.name != "FLOAT":
        return False
    return value.use_count == 1 and not value.is_output and value.array() is not None


def float_part(node: Node) -> FloatPart | None:
    if node.op in ("MatMul", "Gemm", "Conv"):
        return _layer(node)
    if node.op in ("LayerNormalization", "BatchNormalization", "InstanceNormalization"):
        return _norm(node)
    return _written_out(node) if node.op == "Mul" else None


def _sizes(node: Node, index: int) -> tuple[int, ...]:
    value = node.inputs[index]
    return tuple(d for d in (() if value is None else value.shape or ()) if isinstance(d, int))


def _layer(node: Node) -> FloatPart | None:
    """A product with a constant matrix."""
    x = node.inputs[0]
    if x is None or x.is_const or x.rank is None or not _constant(node, 1) or node.attr("transA", 0):
        return None
    sizes = _sizes(node, 1)
    if node.op == "Conv":
        plain = not any(node.attr("pads") or ()) and not str(node.attr("auto_pad", "NOTSET")).startswith("SAME")
        if any(d != 1 for d in (*sizes[2:], node.attr("group", 1), *(node.attr("strides") or ()))) or not plain:
            return None
        axis, rows = 1, 0
    else:
        if len(sizes) != 2 or node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
            return None
        axis, rows = -1, 0 if node.op == "Gemm" and node.attr("transB", 0) else 1
    bias: Slot | None = None
    if node.op != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = node, 2
    elif node.op == "MatMul":
        bias = _added(node, sizes[1])
    fits = bias is None or (_constant(*bias) and int(np.prod(_sizes(*bias))) == sizes[rows])
    if not fits or sizes[1 - rows] > _WIDEST:
        return None
    return FloatPart(node, (node, 1), bias, x.name, axis, rows)


def _added(node: Node, count: int) -> Slot | None:
    """The constant vector that is added to an output and nothing else."""
    output = node.outputs[0]
    if output.use_count != 1 or output.is_output:
        return None
    add, index = output.uses()[0]
    if add.op != "Add" or not add.is_standard or add.graph != node.graph or not _constant(add, 1 - index):
        return None
    return (add, 1 - index) if _sizes(add, 1 - index)[-1:] == (count,) else None


def _norm(node: Node) -> FloatPart | None:
    rank = node.outputs[0].rank
    if rank is None or len(node.inputs) < 3 or not (_constant(node, 1) and _constant(node, 2)):
        return None
    if any(len(_sizes(node, i)) != 1 for i in (1, 2)) or any(v.use_count for v in node.outputs[1:]):
        return None
    if node.op == "LayerNormalization" and int(node.attr("axis", -1)) % rank != rank - 1:
        return None
    axis = -1 if node.op == "LayerNormalization" else 1
    return FloatPart(node, (node, 1), (node, 2), node.outputs[0].name, axis, None)


def _written_out(node: Node) -> FloatPart | None:
    """A Mul by a constant for each channel, with an Add of such a constant behind it."""
    index = next((i for i in (0, 1) if _constant(node, i)), None)
    rank = node.outputs[0].rank
    if index is None or rank is None:
        return None
    sizes = _sizes(node, index)
    count = max(sizes, default=0)
    if count < 2 or int(np.prod(sizes)) != count:
        return None
    axis = sizes.index(count) - len(sizes)
    output = node.outputs[0]
    add, at = output.uses()[0] if output.use_count == 1 and not output.is_output else (node, 0)
    if add.op != "Add" or not add.is_standard or add.graph != node.graph or not _constant(add, 1 - at):
        return None
    if _sizes(add, 1 - at) != sizes or add.outputs[0].rank != rank:
        return None
    return FloatPart(node, (node, index), (add, 1 - at), add.outputs[0].name, axis, None)


def rounds_of(model: Model, parts: Iterable[FloatPart]) -> Iterator[list[FloatPart]]:
    """The parts behind quantized values that are still float; those of a round do not read each other."""
    own = {part.node: part for part in parts if part.weight[0].alive and _constant(*part.weight)}
    levels: dict[Value, int] = {}  # values behind a Q: how many parts, one behind the other, stand in front
    rounds: dict[int, list[FloatPart]] = {}
    for node in model.main.nodes:
        before = [levels[v] for v in node.inputs if v is not None and v in levels]
        if not before and node.op != "QuantizeLinear":
            continue
        level = max(before, default=0)
        part = own.get(node)
        if part is not None and before and (part.bias is None or _constant(*part.bias)):
            rounds.setdefault(level, []).append(part)
            level += 1
        levels.update(dict.fromkeys(node.outputs, level))
    for level in sorted(rounds):
        yield rounds[level]


