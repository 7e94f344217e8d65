"""Pooling windows that are larger than what they slide over: legal with ceil_mode, and refused by some runtimes."""

from __future__ import annotations

from graphopt import Attr, Node, Tensor, op, require, rule


def _rounded_up(x: Tensor, kernel: Attr[list[int]], steps: Attr[list[int]], node: Node) -> Tensor:
    pool = op.any("AveragePool", "MaxPool")
    return node.bind(pool(x, ..., kernel_shape=kernel, strides=steps, ceil_mode=1))


@rule(_rounded_up, bounded=True, shapes={"x": "f32: N C 3 4"}, attrs={"kernel": [5, 6], "steps": [5, 6]})
def pool_oversize(x: Tensor, kernel: list[int], steps: list[int] | None, node: Node) -> Tensor:
    """A pooling window that is larger than the padded map is as large as that."""
    counted = node.attr("count_include_pad", 0)
    require(node.attr("auto_pad") == "NOTSET" and not counted, "padding is counted or implied")
    require(set(node.attr("dilations") or [1]) == {1}, "the window has gaps")
    count = len(kernel)
    pads = node.attr("pads") or [0] * 2 * count
    sizes = [d for d in x.shape[2:] if isinstance(d, int)]
    require(len(sizes) == count, "the size of the map is not known")
    room = [size + pads[i] + pads[i + count] for i, size in enumerate(sizes)]
    require(all(size > 0 for size in sizes), "the map is empty")
    slack = [k - r < s for k, r, s in zip(kernel, room, steps or [1] * count, strict=True)]
    require(all(slack), "the window is so large that there is no result")
    require(any(k > r for k, r in zip(kernel, room, strict=True)), "the window fits")
    window = [min(k, r) for k, r in zip(kernel, room, strict=True)]
    result: Tensor = op.any(node.op)(x, **{**node.attrs, "kernel_shape": window})
    return result
