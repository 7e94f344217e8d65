"""Where the channels of a value are, and where they go: through activations, pooling, and data that is moved.

A track is an array of integers that broadcasts against the value: the number of the channel to which each element
belongs. Its sizes are 1 along axes that do not tell channels apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.quant.operands import redundant_activation

if TYPE_CHECKING:
    from graphopt.ir.value import Node, Value

__all__ = ["along", "follow", "keeps_offsets"]

_SAME = ("Relu", "LeakyRelu", "Abs", "Neg", "Identity", "Dropout", "PRelu", "Clip")
_WINDOWS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MOVEMENT = ("Identity", "Dropout", "Transpose", "Gather", "Slice", *_RESHAPES)

Array = np.ndarray[Any, Any]


def along(axis: int, rank: int, count: int) -> Array:
    """The track of a value whose channels are counted along one axis."""
    view = [1] * rank
    view[axis] = count
    return np.arange(count).reshape(view)


def keeps_offsets(node: Node) -> bool:
    """Whether a number that is added to a channel in front of this operator is the same number behind it."""
    return node.op in _MOVEMENT


def follow(node: Node, index: int, track: Array) -> Array | None:
    """The track of a node's first output, from that of its input `index`; None where scaling a channel by a positive
    number in front of it is not the same as scaling it behind.
    """
    value, output = node.inputs[index], node.outputs[0]
    if value is None or not node.is_standard or any(o.use_count or o.is_output for o in node.outputs[1:]):
        return None
    if node.op in ("Mul", "Div", "MatMul"):
        return _product(node, index, track, output)
    if index:
        return None
    if node.op in _SAME:
        return track if _is_homogeneous(node) else None
    if node.op in _WINDOWS:
        return track if track.shape[2:] == (1,) * (track.ndim - 2) and value.rank == output.rank else None
    if node.op in ("Pad", "Resize", "Slice"):
        return track if _leaves_channels(node, track, output) else None
    if node.op == "Transpose":
        return track.transpose([int(a) for a in node.attr("perm", tuple(range(track.ndim))[::-1])])
    if node.op in _RESHAPES:
        return _reshaped(track, value.shape, output.shape)
    if node.op == "Gather":
        return _gathered(node, track)
    return None


def _is_homogeneous(node: Node) -> bool:
    if node.op == "Clip":
        return redundant_activation(node) == (True, None)
    if node.op == "PRelu":
        slope = node.inputs[1]
        return slope is not None and slope.is_const
    return node.op != "Dropout" or len(node.inputs) < 3 or node.inputs[2] is None


def _product(node: Node, index: int, track: Array, output: Value) -> Array | None:
    """Behind a product with something else; a sum over the channels would mix them."""
    rank = output.rank
    if rank is None or rank < track.ndim or (node.op == "Div" and index):
        return None
    if node.op == "MatMul":
        summed = -1 if index == 0 else -2
        if track.ndim < 2 or track.shape[summed] != 1:
            return None
    wide = track.reshape([1] * (rank - track.ndim) + list(track.shape))
    return wide if _matches(wide, output) else None


def _leaves_channels(node: Node, track: Array, output: Value) -> bool:
    """Whether what resizes or cuts a tensor does it along other axes than those of the channels."""
    if output.rank != track.ndim or not _matches(track, output):
        return False
    if node.op == "Slice":
        return _cuts_elsewhere(node, track)
    if node.op == "Resize":
        return bool(node.attr("coordinate_transformation_mode") != "tf_crop_and_resize")
    if node.attr("mode", "constant") != "constant":
        return True
    if node.version < 11:
        return bool(node.attr("value", 0.0) == 0.0)
    filler = node.inputs[2] if len(node.inputs) > 2 else None
    return filler is None or filler.splat == 0


def _cuts_elsewhere(node: Node, track: Array) -> bool:
    """A Slice keeps the number of channels only if it takes all of them, but it could turn their order."""
    axes: Sequence[int] | None
    if node.version < 10:
        axes = node.attr("axes")
    else:
        given = node.inputs[3] if len(node.inputs) > 3 else None
        array = None if given is None else given.array()
        axes = None if array is None else [int(a) for a in array]
    return axes is not None and all(track.shape[a] == 1 for a in axes)


def _gathered(node: Node, track: Array) -> Array | None:
    axis = int(node.attr("axis", 0)) % track.ndim
    indices = node.inputs[1]
    rank = None if indices is None else indices.rank
    if rank is None or track.shape[axis] != 1:
        return None
    sizes = list(track.shape)
    return track.reshape([*sizes[:axis], *[1] * rank, *sizes[axis + 1 :]])


def _matches(track: Array, value: Value) -> bool:
    """Whether the sizes of a track are those of the value, along the axes of the channels."""
    shape = value.shape
    return shape is not None and all(t in (1, d) for t, d in zip(track.shape, shape, strict=True))


def _reshaped(track: Array, before: Sequence[Any] | None, after: Sequence[Any] | None) -> Array | None:
    """The track of a reshaped value. Axes fall into groups that hold the same elements before and after."""
    if before is None or after is None:
        return None
    sizes: list[int] = []
    i = j = 0
    parts: list[Array] = []
    while i < len(before) or j < len(after):
        group = _group(before, after, i, j)
        if group is None:
            return None
        end, stop = group
        inner = track.shape[i:end]
        if all(s == 1 for s in inner):
            new = [1] * (stop - j)
            ids = np.zeros(new, int)
        else:
            wanted = [d for d in before[i:end] if isinstance(d, int)]
            if len(wanted) < end - i or not all(isinstance(d, int) for d in after[j:stop]):
                return None
            ids = np.arange(int(np.prod(inner))).reshape(inner)
            ids = _narrowed(np.broadcast_to(ids, wanted).reshape([int(d) for d in after[j:stop]]))
            new = list(ids.shape)
        parts.append(ids)
        sizes += new
        i, j = end, stop
    return _combined(track, parts, sizes)


def _group(before: Sequence[Any], after: Sequence[Any], i: int, j: int) -> tuple[int, int] | None:
    """The ends of the smallest group of axes from `i` and `j` on with as many elements; open sizes pair up."""
    if i < len(before) and j < len(after) and not isinstance(before[i], int):
        rest = (len(before) - i, len(after) - j)
        same = before[i] is not None and before[i] == after[j]
        return (i + 1, j + 1) if same or _rest_is_static(before, after, i, j, rest) else None
    left = right = 1
    end, stop = i, j
    while True:
        if end < len(before) and (left <= right or stop == len(after)) and isinstance(before[end], int):
            left *= before[end]
            end += 1
        elif stop < len(after) and isinstance(after[stop], int):
            right *= after[stop]
            stop += 1
        else:
            return None
        if left == right:
            return end, stop
        if 0 in (left, right):
            return None


def _rest_is_static(before: Sequence[Any], after: Sequence[Any], i: int, j: int, rest: tuple[int, int]) -> bool:
    """Whether two open sizes must be equal, because all that follows them has as many elements."""
    tail, other = before[i + 1 :], after[j + 1 :]
    if not rest[0] or isinstance(after[j], int) or not all(isinstance(d, int) and d for d in (*tail, *other)):
        return False
    return int(np.prod(tail, dtype=int)) == int(np.prod(other, dtype=int))


def _narrowed(ids: Array) -> Array:
    """Without repetition: size 1 along each axis along which nothing changes."""
    for axis in range(ids.ndim):
        first = ids.take([0], axis=axis)
        if (ids == first).all():
            ids = first
    return ids


def _combined(track: Array, parts: Sequence[Array], sizes: Sequence[int]) -> Array | None:
    """The new track, from what each group of axes contributes: positions along the old axes of the group."""
    flat = track.reshape(-1)
    lengths = [int(p.max()) + 1 if p.size else 1 for p in parts]
    if int(np.prod(lengths, dtype=int)) != flat.size:
        return None
    position = np.zeros([1] * len(sizes), int)
    start = 0
    for part, length in zip(parts, lengths, strict=True):
        view = [1] * len(sizes)
        view[start : start + part.ndim] = part.shape
        position = position * length + part.reshape(view)
        start += part.ndim
    return np.asarray(flat[position])
