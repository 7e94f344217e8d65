"""The cosines and sines of a rotation, of which exporters write each twice, as RotaryEmbedding takes them: once."""

from __future__ import annotations

import numpy as np
from graphopt_passes.fuse.scores import Sizes

from graphopt import Node, Rewrite, Value, require

_POINTWISE = ("Cos", "Sin", "Cast", "Neg")
_MOVES = ("Unsqueeze", "Squeeze", "Reshape", "Transpose")


def once(rewrite: Rewrite, value: Value, interleaved: bool, depth: int = 8) -> Value | None:
    """The different ones among the last axis of `value`, if each stands there twice; None if that is not provable.

    The second of each comes half the axis later, or, `interleaved`, right behind the first.
    """
    shape = value.shape
    size = None if not shape else shape[-1]
    if not isinstance(size, int) or size % 2 or depth == 0:
        return None
    if value.is_const:
        return _once_constant(rewrite, value, interleaved)
    node = value.producer
    if node is None or not node.is_standard:
        return None
    axis = node.attr("axis", 0)
    if node.op == "Concat" and not interleaved and axis in (-1, len(shape or ()) - 1):
        return node.inputs[0] if len(node.inputs) == 2 and node.inputs[0] == node.inputs[1] else None
    if interleaved and (found := _repeated(value, size)) is not None:
        return found
    return _through(rewrite, node, interleaved, depth - 1)


def _once_constant(rewrite: Rewrite, value: Value, interleaved: bool) -> Value | None:
    array = np.asarray(value.array())
    half = array.shape[-1] // 2
    first, second = (array[..., ::2], array[..., 1::2]) if interleaved else (array[..., :half], array[..., half:])
    same = first.tobytes() == second.tobytes()
    return rewrite.constant(np.ascontiguousarray(first), value.name) if same else None


def _repeated(value: Value, size: int) -> Value | None:
    """x of Reshape(Tile(Unsqueeze(x, -1), 2)), with Expand for Tile too, or Concat of two that are equal."""
    merge = value.producer
    more = None if merge is None or merge.op != "Reshape" or merge.inputs[0] is None else merge.inputs[0].producer
    if more is None or not more.is_standard or more.inputs[0] is None or value.shape is None:
        return None
    wide = more.outputs[0].shape
    pairs = (size // 2, 2)
    if wide is None or wide[-2:] != pairs or _significant(wide) != _significant((*value.shape[:-1], *pairs)):
        return None
    equal = more.op in ("Tile", "Expand") or (
        more.op == "Concat" and len(more.inputs) == 2 and more.inputs[0] == more.inputs[1]
        and more.attr("axis") in (-1, len(wide) - 1)
    )  # fmt: skip
    insert = more.inputs[0].producer
    if not equal or insert is None or insert.op not in ("Unsqueeze", "Reshape") or more.inputs[0].shape is None:
        return None
    thin = more.inputs[0].shape
    if thin[-2:] != (size // 2, 1) or _significant(thin) != _significant((*wide[:-1], 1)):
        return None
    x = insert.inputs[0]
    return x if x is not None and x.shape is not None and x.shape[-1] == size // 2 else None


def _significant(shape: Sizes) -> Sizes:
    return tuple(d for d in shape if d != 1)


def _through(rewrite: Rewrite, node: Node, interleaved: bool, depth: int) -> Value | None:
    """The same operator on half of its operand, for operators that leave the last axis alone."""
    x, after = node.inputs[0], node.outputs[0].shape
    if x is None or after is None:
        return None
    if node.op == "Mul":
        for value, by in (node.inputs, node.inputs[::-1]):
            if value is not None and by is not None and by.splat is not None and value.rank == len(after):
                inner = once(rewrite, value, interleaved, depth)
                return None if inner is None else rewrite.node("Mul", [inner, by])[0]
        return None
    gathers = x.rank == 2 and (
        (node.op == "Gather" and node.attr("axis", 0) in (0, -2))
        or (node.op == "GatherND" and node.attr("batch_dims", 0) == 0 and _ends_with_one(node.inputs[1]))
    )
    moves = node.op in _MOVES and x.shape is not None and _significant(x.shape) == _significant(after)
    moves = moves and (x.shape or (1,))[-1] == after[-1] != 1
    inner = once(rewrite, x, interleaved, depth) if gathers or moves or node.op in _POINTWISE else None
    if inner is None or moves:  # only axes of size 1 come, go or move
        return inner
    return rewrite.node(node.op, [inner, *node.inputs[1:]], node.attrs)[0]


def _ends_with_one(value: Value | None) -> bool:
    return value is not None and bool(value.shape) and (value.shape or ())[-1] == 1


def per_token(rewrite: Rewrite, value: Value, like: Value, x: Value, node: Node) -> Value:
    """Cosines or sines for each batch and place of x (batch, heads, places, width).

    `value` has the elements of `like`, or half of those along the last axis, perhaps with other axes of size 1.
    """
    shape, wanted = like.shape, x.shape
    require(shape is not None and wanted is not None and None not in shape, "the shape of the angles is not known")
    assert shape is not None and wanted is not None
    require(2 <= len(shape) <= 4 and shape[-2] == wanted[2], "there is not one angle for each place")
    require(len(shape) < 3 or shape[-3] == 1, "the angles differ between heads")
    batch = shape[0] if len(shape) == 4 else 1
    require(batch in (1, wanted[0]), "the angles are for another batch")
    flat = (batch, shape[-2], (value.shape or (None,))[-1])
    value = _flattened(rewrite, value, flat)
    if batch == wanted[0]:
        return value
    for reader, _ in value.uses():
        if reader.op == "Expand" and reader.graph == node.graph and reader.outputs[0].shape == (wanted[0], *flat[1:]):
            return reader.outputs[0]
    if isinstance(wanted[0], int):
        target = rewrite.constant(np.array([wanted[0], 1, 1]), "shape")
    else:
        (size,) = rewrite.node("Shape", [x], {"start": 0, "end": 1})
        (target,) = rewrite.node("Concat", [size, rewrite.constant(np.array([1, 1]), "ones")], {"axis": 0})
    return rewrite.node("Expand", [value, target])[0]


def _flattened(rewrite: Rewrite, value: Value, flat: Sizes) -> Value:
    """The same elements with the shape `flat`, from which that of `value` differs in axes of size 1."""
    node = value.producer
    before = node.inputs[0] if node is not None and node.op in _MOVES[:3] and node.is_standard else None
    if value.shape == flat:
        return value
    if before is not None and before.shape == flat:
        return before
    shape = value.shape or (None,)
    require(None not in shape and _significant(shape) == _significant(flat), "the shape of the angles is not known")
    if value.is_const and all(isinstance(d, int) for d in flat):
        return rewrite.constant(np.asarray(value.array()).reshape([d for d in flat if isinstance(d, int)]), value.name)
    plain = [i for i, d in enumerate(shape) if d == 1]
    if plain:
        (value,) = rewrite.node("Squeeze", [value, rewrite.constant(np.array(plain), "axes")])
    missing = [i for i, d in enumerate(flat) if d == 1]
    return rewrite.node("Unsqueeze", [value, rewrite.constant(np.array(missing), "axes")])[0] if missing else value
