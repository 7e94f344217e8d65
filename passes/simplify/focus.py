"""Every other row and column, joined as channels: SpaceToDepth, with its channels in order."""

from __future__ import annotations

import numpy as np
from graphopt_passes.simplify.blocks import KERNELS
from graphopt_passes.simplify.joined import axis_of, operands
from graphopt_passes.simplify.reading import from_front, ints, operand

from graphopt import Node, Rewrite, Value, require

_LARGEST = 8  # blocks that are looked for


def is_focus(node: Node) -> bool:
    """Whether a Concat joins as many Slices as a block has pixels."""
    parts = [v.producer for v in operands(node)]
    square = len(parts) in {b * b for b in range(2, _LARGEST + 1)}
    return square and all(p is not None and p.op == "Slice" and p.is_standard for p in parts)


def focus_to_depth(rewrite: Rewrite, node: Node) -> None:
    """Pixels at each place of every block, joined as channels, are SpaceToDepth, up to the order of the channels."""
    parts = operands(node)
    require(axis_of(node) == 1, "they are not joined as channels")
    block = round(len(parts) ** 0.5)
    found = [_pixel(p, block) for p in parts]
    x = found[0][0]
    require(all(value == x for value, _, _ in found), "the Slices are of different tensors")
    require(all(p.use_count == 1 for p in parts), "the Slices have other readers")
    require(x.dtype in KERNELS, "runtimes have no kernel of the operator for the dtype")
    require(x.shape is not None and isinstance(x.shape[1], int), "the number of channels is not fixed")
    assert x.shape is not None and isinstance(x.shape[1], int)
    order = [row * block + column for _, row, column in found]
    require(sorted(order) == list(range(block * block)), "a pixel of the block is missing")
    made = rewrite.node("SpaceToDepth", [x], {"blocksize": block})[0]
    if order != sorted(order):
        channels = np.arange(x.shape[1])
        places = np.concatenate([channels + i * x.shape[1] for i in order])
        made = rewrite.node("Gather", [made, rewrite.constant(places.astype(np.int64), "channels")], {"axis": 1})[0]
    rewrite.replace(node.outputs[0], made)


def _pixel(value: Value, block: int) -> tuple[Value, int, int]:
    """What was sliced, and which row and column of each block. Declines the rewrite for other Slices."""
    begins: dict[int, int] = {}
    while value.producer is not None and value.producer.op == "Slice" and len(begins) < 2:
        node, x = value.producer, operand(value.producer, 0)
        assert x is not None
        require(x.rank == 4 and node.version >= 10, "it has no height and width, or Slice takes no steps")
        starts, ends = ints(node, 1, "starts", 10), ints(node, 2, "ends", 10)
        axes, steps = ints(node, 3, "axes", 10), ints(node, 4, "steps", 10)
        require(starts and ends and axes and steps, "it takes no steps")
        assert starts and ends and axes and steps
        for start, end, axis, step in zip(starts, ends, from_front(axes, 4), steps, strict=True):
            size = None if x.shape is None else x.shape[axis]
            require(axis in (2, 3) and axis not in begins and step == block, "it takes other steps")
            require(isinstance(size, int) and size % block == 0, "the blocks do not fit height and width")
            assert isinstance(size, int)
            begin = start + size if start < 0 else start
            require(0 <= begin < block, "it does not begin in the first block")
            require(len(range(size)[start:end:step]) == size // block, "it does not take a pixel of each block")
            begins[axis] = begin
        value = x
    require(set(begins) == {2, 3}, "only one of height and width is sliced")
    return value, begins[2], begins[3]
