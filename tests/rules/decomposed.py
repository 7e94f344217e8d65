"""A transformer as exporters that trace write it: every size is computed from a Shape, at every use.

With all sizes fixed the same model needs none of that, so it is the measure of what is left when they are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Size = int | tuple[str, int]
"""A number, or the size of a tensor along an axis."""
WIDTH, HEADS, WORDS, PLACES = 16, 4, 11, 32


class _Graph:
    """Nodes and weights in the order in which they are made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def op(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def const(self, value: object, dtype: type = np.int64) -> str:
        """A Constant node, as tracing leaves one behind at each use."""
        return self.op("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self._random.standard_normal(shape).astype(np.float32) / np.sqrt(shape[0])
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def size(self, x: str, axis: int) -> str:
        return self.op("Gather", self.op("Shape", x), self.const(axis), axis=0)

    def sizes(self, dims: Sequence[Size | str]) -> str:
        parts = []
        for dim in dims:
            if isinstance(dim, int):
                parts.append(self.const([dim]))
            else:
                scalar = dim if isinstance(dim, str) else self.size(*dim)
                parts.append(self.op("Unsqueeze", scalar, self.const([0])))
        return self.op("Concat", *parts, axis=0)

    def view(self, x: str, *dims: Size | str) -> str:
        return self.op("Reshape", x, self.sizes(dims))

    def expand(self, x: str, *dims: Size | str) -> str:
        """Expand where -1 keeps a size, as torch spells it."""
        wanted = self.sizes(dims)
        ones = self.op("ConstantOfShape", self.op("Shape", wanted), value=helper.make_tensor("o", 7, [1], [1]))
        kept = self.op("Equal", wanted, self.op("Mul", ones, self.const(-1)))
        return self.op("Expand", x, self.op("Where", kept, ones, wanted))

    def linear(self, x: str, n: int, m: int) -> str:
        return self.op("Add", self.weight(m), self.op("MatMul", x, self.weight(n, m)))

    def norm(self, x: str) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, self.const([-1]), keepdims=1))
        square = self.op("Pow", centred, self.const(2.0, np.float32))
        variance = self.op("ReduceMean", square, self.const([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", variance, self.const(1e-5, np.float32)))
        scaled = self.op("Mul", self.op("Div", centred, root), self.weight(WIDTH))
        return self.op("Add", scaled, self.weight(WIDTH))

    def heads(self, x: str) -> str:
        split = self.view(x, (x, 0), (x, 1), HEADS, WIDTH // HEADS)
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def attend(self, x: str, mask: str) -> str:
        q, k, v = (self.heads(self.linear(x, WIDTH, WIDTH)) for _ in range(3))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Div", scores, self.const((WIDTH / HEADS) ** 0.5, np.float32))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.linear(self.view(mixed, (mixed, 0), (mixed, 1), WIDTH), WIDTH, WIDTH)

    def feed_forward(self, x: str) -> str:
        flat = self.view(x, self.op("Mul", self.size(x, 0), self.size(x, 1)), WIDTH)
        wide = self.linear(flat, WIDTH, 2 * WIDTH)
        half = self.op("Erf", self.op("Div", wide, self.const(2**0.5, np.float32)))
        gate = self.op("Add", half, self.const(1.0, np.float32))
        active = self.op("Mul", self.op("Mul", wide, gate), self.const(0.5, np.float32))
        return self.view(self.linear(active, 2 * WIDTH, WIDTH), (x, 0), (x, 1), WIDTH)

    def embed(self, ids: str) -> str:
        ids = self.view(ids, -1, (ids, 1))
        words = self.op("Gather", self.weight(WORDS, WIDTH), ids)
        last = self.op("Cast", self.size(ids, 1), to=TensorProto.INT64)
        steps = self.op("Range", self.const(0), last, self.const(1))
        steps = self.expand(self.op("Unsqueeze", steps, self.const([0])), (ids, 0), -1)
        return self.op("Add", words, self.op("Gather", self.weight(PLACES, WIDTH), steps))

    def mask(self, given: str) -> str:
        """What is added to the scores: nothing where a word may be looked at, much below 0 elsewhere."""
        wide = self.op("Unsqueeze", given, self.const([1, 2]))
        wide = self.expand(wide, (given, 0), 1, (given, 1), (given, 1))
        off = self.op("Sub", self.const(1.0, np.float32), self.op("Cast", wide, to=TensorProto.FLOAT))
        return self.op("Mul", off, self.const(-1e4, np.float32))

    def pool(self, x: str) -> str:
        """The first word's vector, by a Slice whose ends are computed."""
        one = self.op("Unsqueeze", self.op("Div", self.size(x, 1), self.size(x, 1)), self.const([0]))
        first = self.op("Slice", x, self.const([0]), one, self.const([1]))
        return self.view(first, (x, 0), self.op("ReduceProd", self.op("Slice", self.op("Shape", x), self.const([2]),
                                                                      self.const([3])), keepdims=0))


def transformer(batch: int | str, length: int | str, layers: int = 2, opset: int = 18) -> onnx.ModelProto:
    """Token numbers and a mask, both `batch` × `length`, to one vector per sentence; sizes are numbers or names."""
    g = _Graph()
    x, mask = g.embed("ids"), g.mask("mask")
    for _ in range(layers):
        x = g.op("Add", x, g.attend(g.norm(x), mask))
        x = g.op("Add", x, g.feed_forward(g.norm(x)))
    g.nodes.append(helper.make_node("Tanh", [g.linear(g.pool(x), WIDTH, WIDTH)], ["vector"]))
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [batch, length]) for n in ("ids", "mask")]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, WIDTH])]
    graph = helper.make_graph(g.nodes, "transformer", inputs, outputs, g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model
