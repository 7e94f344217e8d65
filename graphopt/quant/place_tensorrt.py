"""Placement for TensorRT: NVIDIA's rules for explicit quantization, and the limits that its own tool keeps to.

The rules are those of TensorRT's documentation ("Explicit Quantization", its recommendations for where Q/DQ stand) and
of NVIDIA's Model Optimizer (`modelopt/onnx/quantization`), whose limits come from regressions that were seen on GPUs:
quantize the inputs of weighted operators and never their outputs, for the builder fuses `DQ → Conv → activation → Q`
with the Q that the next operator wants; of an Add that ends a residual block, quantize the identity branch alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from graphopt.quant.operands import Heavy, sole_reader
from graphopt.quant.place_inputs import InputFlow, float_summands, is_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.ir.value import Node, Value

__all__ = ["TensorRTFlow", "objection"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
# What the builder fuses behind a convolution; each reads its data first.
_FUSED = frozenset(["BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "HardSigmoid",
                    "HardSwish", "Swish", "Selu", "Softplus"])  # fmt: skip
_SCORES = frozenset(["Mul", "Div", "Add", "Where", "Cast"])  # between the first product of attention and its Softmax
_FAR = 500  # nodes on either side: residual blocks are shorter


def objection(heavy: Heavy) -> str | None:
    """Why a weighted operator that could be quantized is faster in half precision."""
    node = heavy.node
    if node.op == "Conv":
        return _conv_limits(heavy)
    if node.op == "ConvTranspose":
        reader = sole_reader(node.outputs[0])
        if reader is not None and reader.op == "BatchNormalization":
            return "quantized ConvTranspose is not fused with BatchNormalization: fold it first"
        return None
    if any(output.is_output for output in (heavy.output, *_sums(heavy.output))):
        return "it makes an output of the model, and is no convolution"
    return _product_limits(heavy) or _attention_limits(heavy)


def _conv_limits(heavy: Heavy) -> str | None:
    least = heavy.rule.min_channels
    assert heavy.weight is not None
    shape = [d for d in heavy.weight.shape or () if isinstance(d, int)]
    outputs, inputs, kernel = shape[0], shape[1], shape[2:]
    window = math.prod(kernel)
    if heavy.rule.max_kernel and window > heavy.rule.max_kernel:
        return f"its window has {window} elements, and beyond {heavy.rule.max_kernel} half precision is faster"
    if outputs >= least and inputs >= least:
        return None
    group = heavy.node.attr("group", 1)
    if not heavy.rule.narrow:
        pass
    elif group == 1:
        multiple = outputs % 8 == 0 or inputs % 8 == 0
        wide = heavy.x.is_input or outputs >= least or inputs >= least
        if multiple and wide and len(set(kernel)) == 1:
            return None
    elif outputs % 8 == 0 and all(size >= 3 for size in kernel):
        return None
    return f"{inputs} input and {outputs} output channels per group are below {least}: half precision is faster"


def _product_limits(heavy: Heavy) -> str | None:
    """Products that are vectors, and those with less than a tensor core's tile."""
    rule, shape = heavy.rule, heavy.node.outputs[0].shape
    other = heavy.weight or heavy.other
    assert other is not None
    if shape is None or len(shape) < 2 or other.rank in (None, 1):
        return "its shape is not known, or it is a product of vectors"
    rows, columns = shape[-2], shape[-1]
    if isinstance(columns, int) and columns < max(rule.min_n, 2):
        return f"its result has {columns} columns, and below {max(rule.min_n, 2)} half precision is faster"
    flat = len(shape) == 2 or heavy.weight is None
    if flat and isinstance(rows, int) and rows < rule.min_m:
        return f"its result has {rows} row, and half precision is faster"
    assert other.shape is not None
    turned = heavy.node.op == "Gemm" and heavy.node.attr("transB", 0) == 1
    depth = other.shape[-1 if turned else -2]
    if isinstance(depth, int) and depth < rule.min_k:
        return f"it sums {depth} products, and below {rule.min_k} half precision is faster"
    return None


def _attention_limits(heavy: Heavy) -> str | None:
    """Attention has fused kernels, which Q/DQ take apart where they are for other sizes."""
    most, head = heavy.rule.max_length, heavy.rule.head
    if heavy.other is None or not (most or head):
        return None
    softmax, first = _softmax_behind(heavy.node.outputs[0]), True
    if softmax is None:
        softmax, first = _softmax_before(heavy.x), False
    if softmax is None:
        return None
    assert heavy.other.shape is not None
    length = heavy.other.shape[-1] if first else (heavy.x.shape or (None,))[-1]
    if most and not isinstance(length, int):
        return f"it is part of attention, whose length is not known to be at most {most}"
    if most and isinstance(length, int) and length > most:
        return f"it is part of attention over {length} positions, and beyond {most} half precision is faster"
    if not head:
        return None
    size = heavy.other.shape[-2 if first else -1]
    if not isinstance(size, int) or not head[0] <= size <= head[1]:
        return f"it is part of attention with heads of {size}, and the fused kernel takes {head[0]} to {head[1]}"
    if not _is_product(softmax.inputs[0], (("Add",), ("Mul", "Div"))):
        return "it is part of attention with more than a factor and a mask before Softmax, which is not fused"
    return None


def _softmax_before(value: Value) -> Node | None:
    """The Softmax whose probabilities `value` holds."""
    node = value.producer
    if node is not None and node.op == "Cast" and node.is_standard and node.inputs[0] is not None:
        node = node.inputs[0].producer
    return node if node is not None and node.op == "Softmax" and node.is_standard else None


def _softmax_behind(value: Value) -> Node | None:
    for _ in range(8):
        reader = sole_reader(value)
        if reader is None or not reader.is_standard:
            return None
        if reader.op == "Softmax":
            return reader
        if reader.op not in _SCORES:
            return None
        value = reader.outputs[0]
    return None


def _is_product(value: Value | None, between: Sequence[Sequence[str]]) -> bool:
    """Whether `value` is a product of matrices, with at most one operator of each group behind it, in that order."""
    node = None if value is None else value.producer
    if node is None or not node.is_standard:
        return False
    if node.op == "MatMul":
        return True
    at = next((i for i, ops in enumerate(between) if node.op in ops), None)
    return at is not None and any(_is_product(v, between[at + 1 :]) for v in node.inputs)


def _sums(value: Value) -> list[Value]:
    """The sum with a bias that alone reads a product."""
    reader = sole_reader(value)
    biased = reader is not None and reader.op == "Add" and any(v is not None and v.is_const for v in reader.inputs)
    return [reader.outputs[0]] if reader is not None and biased else []


class TensorRTFlow(InputFlow):
    """Inputs of weighted operators, identity branches, pools, and what LayerNormalization reads from a Conv."""

    def run(self) -> None:
        super().run()
        # A candidate rather than a law: in NVIDIA/TensorRT#4366, #4401 and Model-Optimizer#174 users report that the
        # builder does not always move the Q above the Concat.
        self.share_concatenations("; one scale on both sides of Concat, so that it is no work")

    def between(self, node: Node) -> None:
        if node.op == "Add":
            self._residual(node)
        elif node.op == "LayerNormalization" and node.op in self.table.elementwise:
            self._normalized(node)

    def weighted(self, heavy: Heavy) -> None:
        node = heavy.node
        value, reader = self._before_pad(heavy.x, node)
        self.read(value, reader, 0, f"input of {node.op}: all inputs of weighted operators, for an integer kernel")
        if heavy.other is not None:
            self.read(heavy.other, node, 1, f"second operand of {node.op}: both, for an integer kernel")

    def _before_pad(self, value: Value, node: Node) -> tuple[Value, Node]:
        """Where the Q belongs: before a Pad with zeros, which the builder fuses with the Conv behind it."""
        pad = value.producer
        if node.op != "Conv" or pad is None or pad.op != "Pad" or not pad.is_standard or self.protects(pad):
            return value, node
        filler = pad.inputs[2] if len(pad.inputs) > 2 else None
        zero = filler is None or filler.splat == 0
        source = pad.inputs[0]
        if pad.version < 11 or not zero or pad.attr("mode", "constant") != "constant":
            return value, node
        if sole_reader(value) != node or source is None or not is_float(source):
            return value, node
        return source, pad

    def _residual(self, add: Node) -> None:
        summands = float_summands(add)
        if summands is None:
            return
        left, right = summands
        if left.producer is None or right.producer is None:
            return
        ends = [self._backbone(left), self._backbone(right)]
        if ends[0] == ends[1]:
            return
        meeting, distances = _meeting(left.producer, right.producer)
        if None not in ends:
            main = 0 if distances[0] > distances[1] else 1
            why = "both branches are convolutions, and this is the shorter way from where they part"
        else:
            main = 0 if ends[0] is not None else 1
            if meeting is not None and meeting == ends[main]:
                return  # the other branch starts at the very convolution: it cannot be fused into it
            why = "the sum is fused into the convolution of the other branch"
        identity = 1 - main
        value = add.inputs[identity]
        assert value is not None
        self.read(value, add, identity, f"identity branch of a residual Add: {why}")

    def _backbone(self, value: Value) -> Node | None:
        """The quantized convolution that makes `value`, with what is fused behind it, for one reader alone."""
        for _ in range(8):
            node = value.producer
            if node is None or not node.is_standard or sole_reader(value) is None:
                return None
            if node.op in _CONVOLUTIONS:
                return node if node in self.heavy else None
            if node.op in _FUSED:
                inner = node.inputs[0]
            elif node.op in ("Add", "Mul") and any(v is not None and v.is_const for v in node.inputs):
                inner = next((v for v in node.inputs if v is not None and not v.is_const), None)
            elif node.op == "Mul":
                return self._gated(value)
            else:
                return None
            if inner is None:
                return None
            value = inner
        return None

    def _gated(self, value: Value) -> Node | None:
        """The convolution behind SiLU, x · Sigmoid(x), which is fused with it as a whole."""
        node = value.producer
        if node is None or node.op != "Mul":
            return None
        for gate, data in (node.inputs[:2], node.inputs[1::-1]):
            made = gate.producer if gate is not None else None
            if made is not None and made.op == "Sigmoid" and data is not None and made.inputs[0] == data:
                conv = data.producer
                alone = len(data.uses()) == 2 and not data.is_output
                return conv if alone and conv in self.heavy and conv.op in _CONVOLUTIONS else None
        return None

    def _normalized(self, node: Node) -> None:
        value = node.inputs[0]
        source = value
        while source is not None and self.moves(source.producer) and sole_reader(source) is not None:
            assert source.producer is not None
            source = source.producer.inputs[0]
        if value is not None and source is not None and is_float(value) and self._backbone(source) is not None:
            self.read(value, node, 0, "input of LayerNormalization: the Conv before it can then write integers")

    def pool(self, pool: Node) -> None:
        value = pool.inputs[0]
        if value is not None and is_float(value) and self.wanted(pool.outputs[0]):
            reason = f"input of {pool.op}, whose output is quantized: it does not commute with Q, and runs on integers"
            self.read(value, pool, 0, f"{reason} between both")


def _meeting(left: Node, right: Node) -> tuple[Node | None, tuple[int, int]]:
    """The nearest node from which both come (None: none within reach), and how far away it is from each."""
    depths: list[dict[Node, int]] = [{left: 0}, {right: 0}]
    fronts = [[left], [right]]
    depth = 0
    while any(fronts) and sum(map(len, depths)) < _FAR:
        for side in (0, 1):
            for node in fronts[side]:
                if node in depths[1 - side]:
                    return node, (depths[0][node], depths[1][node])
        depth += 1
        for side in (0, 1):
            found = []
            for node in fronts[side]:
                for value in node.inputs:
                    maker = value.producer if value is not None else None
                    if maker is not None and maker not in depths[side]:
                        depths[side][maker] = depth
                        found.append(maker)
            fronts[side] = found
    return None, (len(depths[0]), len(depths[1]))
