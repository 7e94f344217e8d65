"""Random arithmetic on shapes: whatever becomes of it computes the same for all sizes, 0 included, in no more nodes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.rules.helpers import run

SIZES = [{"N": n, "S": s} for n, s in ((2, 3), (1, 1), (3, 2), (0, 2), (2, 0), (0, 0), (1, 4))]
SHAPES: list[list[str | int]] = [["N", "S", 4], ["N", 3, "S"], ["N", "S"], [2, "N", "S", 3], ["N", "N", 2]]


class Chains:
    """A model of random chains Shape → Gather or Slice → arithmetic → Concat → Reshape, Expand and the like."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape = self.random.choice(SHAPES)
        self.tensors = [("x", len(self.shape))]
        for _ in range(self.random.randint(0, 3)):
            self.tensors.append(self.moved(*self.random.choice(self.tensors)))
        made = [self.sized() for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.4:
            made.append((self.random.choice(self.tensors)[0], TensorProto.FLOAT))
        self.results = {name: dtype for name, dtype in made if name != "x"}

    def op(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def const(self, value: Any) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def moved(self, x: str, rank: int) -> tuple[str, int]:
        choice = self.random.randrange(4)
        if choice == 0:
            return self.op(self.random.choice(["Relu", "Neg", "Exp"]), x), rank
        if choice == 1:
            return self.op("Transpose", x, perm=self.random.sample(range(rank), rank)), rank
        if choice == 2:
            return self.op("Unsqueeze", x, self.const([0])), rank + 1
        return self.op("Reshape", x, self.const([0, -1])), 2

    def scalar(self, depth: int = 0) -> str:
        x, rank = self.random.choice(self.tensors)
        size = self.op("Gather", self.op("Shape", x), self.const(self.random.randrange(rank)), axis=0)
        for _ in range(self.random.randint(0, 2)):
            choice = self.random.randrange(4)
            if choice == 0:
                size = self.op("Div", size, self.const(self.random.choice([1, 2])))
            elif choice == 1:
                size = self.op("Cast", self.op("Cast", size, to=TensorProto.INT32), to=TensorProto.INT64)
            else:
                other = self.scalar(depth + 1) if choice == 2 and depth < 2 else self.const(self.random.randint(1, 3))
                size = self.op(self.random.choice(["Mul", "Add"]), size, other)
        return size

    def vector(self) -> str:
        x, rank = self.random.choice(self.tensors)
        shape, choice = self.op("Shape", x), self.random.randrange(4)
        if choice == 0:
            start = self.random.randrange(rank)
            return self.op("Slice", shape, self.const([start]), self.const([self.random.randint(start + 1, rank)]))
        if choice == 1:
            return self.op("Gather", shape, self.const(self.random.choices(range(rank), k=2)), axis=0)
        return shape if choice == 2 else self.op("Unsqueeze", self.scalar(), self.const([0]))

    def target(self) -> str:
        parts = [
            self.vector() if self.random.random() < 0.7 else self.const([self.random.choice([1, 2, 4])])
            for _ in range(self.random.randint(1, 3))
        ]
        return self.op("Concat", *parts, axis=0)

    def sized(self) -> tuple[str, int]:
        x, rank = self.random.choice(self.tensors)
        choice = self.random.randrange(5)
        if choice == 0:
            return self.target(), TensorProto.INT64
        if choice == 1:
            return self.op("ConstantOfShape", self.target()), TensorProto.FLOAT
        if choice == 2:
            wide = self.op("Neg", self.op("Expand", x, self.target()))
            return self.op("Mul", wide, self.random.choice(self.tensors)[0]), TensorProto.FLOAT
        if choice == 3:
            parts = self.random.sample([self.vector(), self.const([-1])], 2)
            return self.op("Reshape", x, self.op("Concat", *parts, axis=0)), TensorProto.FLOAT
        end = self.op("Unsqueeze", self.scalar(), self.const([0]))
        axis = self.const([self.random.randrange(rank)])
        return self.op("Slice", x, self.const([0]), end, axis), TensorProto.FLOAT

    def model(self) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        outputs = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in self.results.items()]
        graph = helper.make_graph(self.nodes, "chains", inputs, outputs, self.weights)
        opset = self.random.choice([13, 15, 18])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("seed", range(40))
def test_arithmetic_on_shapes(seed: int) -> None:
    chains = Chains(seed)
    before = chains.model()
    result = graphopt.optimize(before, "O1", verify=False)
    assert result.report.after.nodes <= result.report.before.nodes
    for sizes in SIZES:
        shape = [sizes.get(str(d), d) for d in chains.shape]
        feeds = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
        try:
            wanted = run(before, feeds)
        except Exception:  # ONNX Runtime's errors have no common class: these sizes do not fit together
            continue
        for a, b in zip(wanted, run(result.model, feeds), strict=True):
            assert a.shape == b.shape and np.array_equal(a, b, equal_nan=True), (seed, sizes)
