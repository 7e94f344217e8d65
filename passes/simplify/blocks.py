"""Blocks of pixels that become channels, and back: SpaceToDepth and DepthToSpace, spelled as Reshape and Transpose."""

from __future__ import annotations

from graphopt_passes.simplify.reading import operand

from graphopt import Attr, DType, Node, Rewrite, Tensor, Value, op, require, rule

KERNELS = frozenset([DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.UINT8, DType.INT8])
_TO_DEPTH, _DCR, _CRD = [0, 3, 5, 1, 2, 4], [0, 3, 4, 1, 5, 2], [0, 1, 4, 2, 5, 3]


def _there_and_back(x: Tensor, b: Attr[int], outer: Node) -> Tensor:
    return outer.bind(op.SpaceToDepth(op.DepthToSpace(x, ..., blocksize=b), blocksize=b)) | outer.bind(
        op.DepthToSpace(op.SpaceToDepth(x, blocksize=b), ..., blocksize=b)
    )


@rule(_there_and_back, accuracy="exact", single_use=False, shapes={"x": "N 8 4 4"}, attrs={"b": 2})
def blocks_cancel(x: Tensor, b: int, outer: Node) -> Tensor:  # noqa: ARG001 - the pattern binds it
    """Channels made of blocks, and blocks made of them again, are what they were."""
    inner = outer.inputs[0].producer if outer.inputs[0] is not None else None
    mode = [n.attr("mode", "DCR") for n in (inner, outer) if n is not None and n.op == "DepthToSpace"]
    require(mode == ["DCR"], "the channels are in another order")
    return x


def is_shuffled(node: Node) -> bool:
    """Whether a Reshape follows a Transpose of 6 axes which follows a Reshape."""
    transpose = _maker(node, "Transpose")
    perm = None if transpose is None else transpose.attr("perm")
    return transpose is not None and perm is not None and len(perm) == 6 and _maker(transpose, "Reshape") is not None


def reshape_to_blocks(rewrite: Rewrite, node: Node) -> None:
    """Pixels split into blocks, moved before or behind the channels, and joined, are SpaceToDepth or DepthToSpace."""
    transpose = _maker(node, "Transpose")
    first = None if transpose is None else _maker(transpose, "Reshape")
    require(transpose is not None and first is not None, "there is no Transpose between Reshapes")
    assert transpose is not None and first is not None
    x = operand(first, 0)
    assert x is not None
    require(x.dtype in KERNELS, "runtimes have no kernel of the operator for the dtype")
    gone = all(n.outputs[0].use_count == 1 for n in (transpose, first))
    require(gone, "an interior value has other readers")
    perm = list(transpose.attr("perm"))
    require(perm in (_TO_DEPTH, _DCR, _CRD), "the axes are moved in another way")
    if perm == _TO_DEPTH:
        block = _to_depth(x, first.outputs[0], node.outputs[0])
        made = rewrite.node("SpaceToDepth", [x], {"blocksize": block})
    else:
        mode = "DCR" if perm == _DCR else "CRD"
        block = _to_space(x, first.outputs[0], node.outputs[0], mode)
        require(mode == "DCR" or node.version >= 11, "the operator knows one order of channels at this opset")
        attrs = {"blocksize": block, "mode": mode if node.version >= 11 else None}
        made = rewrite.node("DepthToSpace", [x], attrs)
    rewrite.replace(node.outputs[0], made[0])


def _to_depth(x: Value, middle: Value, result: Value) -> int:
    """The size of the blocks that become channels. Declines the rewrite if it is anything else."""
    outer, inner = x.shape, middle.shape
    known = outer is not None and inner is not None and len(outer) == 4 and len(inner) == 6
    require(known, "it is not split into blocks")
    assert outer is not None and inner is not None
    batch, channels, height, width = outer
    block = inner[3]
    require(isinstance(block, int) and block > 1 and isinstance(channels, int), "the block is not fixed")
    require(isinstance(height, int) and isinstance(width, int), "height and width are not fixed")
    assert isinstance(block, int) and isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)
    require(height % block == width % block == 0, "the blocks do not fit height and width")
    wanted = (batch, channels * block * block, height // block, width // block)
    split = (batch, channels, wanted[2], block, wanted[3], block)
    require(batch is not None and inner == split and result.shape == wanted, "it is joined in another way")
    return block


def _to_space(x: Value, middle: Value, result: Value, mode: str) -> int:
    """The size of the blocks that channels become. Declines the rewrite if it is anything else."""
    outer, inner = x.shape, middle.shape
    known = outer is not None and inner is not None and len(outer) == 4 and len(inner) == 6
    require(known, "it is not split into blocks")
    assert outer is not None and inner is not None
    batch, channels, height, width = outer
    block, again, depth = (inner[i] for i in ((1, 2, 3) if mode == "DCR" else (2, 3, 1)))
    fixed = isinstance(block, int) and block == again and block > 1 and isinstance(depth, int)
    require(fixed, "the block is not fixed")
    assert isinstance(block, int) and isinstance(depth, int)
    require(None not in outer and inner[0] == batch and inner[4:] == (height, width), "other axes are split")
    assert height is not None and width is not None
    wanted = (batch, depth, height * block, width * block)
    require(channels == depth * block * block and result.shape == wanted, "it is joined in another way")
    return block


def _maker(node: Node, kind: str) -> Node | None:
    """The operator of this kind that makes the node's first operand, in the same graph."""
    x = operand(node, 0)
    producer = None if x is None else x.producer
    if producer is None or producer.op != kind or not producer.is_standard or producer.graph != node.graph:
        return None
    return producer
