"""Broken bytes of small models: a clear error or a correct result, never a crash, a hang or another exception."""

from __future__ import annotations

import random
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import graphopt

F = np.float32
SECONDS = 20.0  # the most that one small model may take
ROUNDS = 150  # broken versions of each seed model


def _model(text: str, **constants: np.ndarray) -> bytes:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "local" : 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return proto.SerializeToString()


SEEDS = {
    "conv": _model(
        "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { c = Conv<pads = [1,1,1,1]>(x, w) m = Mul(c, k) y = Relu(m) }",
        w=np.ones((4, 3, 3, 3), F), k=np.ones((1, 4, 1, 1), F),
    ),
    "gelu": _model(
        "g (float[N,4] x) => (float[N,4] y) { s = Div(x, r) e = Erf(s) a = Add(e, o) p = Mul(x, a) y = Mul(p, h) }",
        r=np.array(2**0.5, F), o=np.array(1, F), h=np.array(0.5, F),
    ),
    "shapes": _model(
        """g (float[B,S,8] x) => (float[P,Q] y) { s = Shape(x) i = Constant<value_ints = [0]>() b = Gather(s, i)
        m = Constant<value_ints = [-1]>() t = Concat<axis = 0>(b, m) y = Reshape(x, t) }""",
    ),
    "branches": _model(
        """g (bool c, float[4] x) => (float[4] y) { y = If(c)
        <then_branch = t () => (float[4] p) { p = Abs(x) }, else_branch = e () => (float[4] q) { q = Mul(x, k) }> }""",
        k=np.ones(4, F),
    ),
    "function": _model(
        """g (float[4] x) => (float[4] y) { a = local.f(x) y = Add(a, k) }
        <opset_import: ["" : 20], domain: "local"> f (a) => (b) { c = Neg(a) b = Neg(c) }""",
        k=np.full(4, 0.5, F),
    ),
    "integers": _model(
        "g (int32[4] x) => (int32[4] y) { a = Div(c, d) b = Mod(a, d) y = Add(x, b) }",
        c=np.array([7, -7, 1, 0], np.int32), d=np.array([2, 3, -1, 5], np.int32),
    ),
}  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four small injuries: bytes changed, cut, doubled, or lengths made absurd."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(broken) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            broken[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del broken[at : at + rng.randint(1, 8)]
        elif kind == 2:
            broken[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        elif kind == 3:
            broken[at : at + 1] = bytes([(broken[at] if at < len(broken) else 0) ^ 1 << rng.randrange(8)])
        elif kind == 4:
            end = min(len(broken), at + rng.randint(1, 40))
            broken[at:at] = broken[at:end]
        else:
            broken[at : at + 1] = b"\xff\xff\xff\xff\x7f"
    return bytes(broken)


INTS = [-(2**63), -(2**31), -3, -2, -1, 0, 1, 2, 3, 7, 2**31, 2**62, 2**63 - 1]
OPS = ["Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Neg", "Abs", "Relu", "Identity", "Transpose", "Softmax", "Shape",
       "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Expand", "Tile", "Range", "ConstantOfShape", "MatMul",
       "Gemm", "Conv", "Clip", "Where", "Cast", "Loop", "Gather", "ReduceSum", "Erf", "Dropout", "Pad", "Resize"]  # fmt: skip


def mutate_structure(data: bytes, rng: random.Random) -> bytes:
    """One to three changes that keep the format: operators, operands, attributes, types, numbers, opsets."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for _ in range(rng.randint(1, 3)):
        node = rng.choice(graph.node)
        kind = rng.randrange(9)
        if kind == 0:
            node.op_type = rng.choice(OPS)
        elif kind == 1 and node.input:
            names = [i.name for i in graph.input] + [t.name for t in graph.initializer] + [""]
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        elif kind == 2:
            del node.attribute[:]
        elif kind == 3:
            for attribute in node.attribute:
                attribute.ints[:] = [rng.choice(INTS) for _ in attribute.ints]
                if attribute.type == onnx.AttributeProto.INT:
                    attribute.i = rng.choice(INTS)
        elif kind == 4 and graph.initializer:
            tensor = rng.choice(graph.initializer)
            array = numpy_helper.to_array(tensor)
            values = np.array([rng.choice(INTS) for _ in range(array.size)], np.int64).astype(np.float64)
            with np.errstate(all="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(values.reshape(array.shape).astype(array.dtype), tensor.name))
        elif kind == 5 and graph.initializer:
            tensor = rng.choice(graph.initializer)
            tensor.CopyFrom(numpy_helper.from_array(np.array(rng.choice(INTS), np.int64), tensor.name))
        elif kind == 6:
            dims = rng.choice(graph.input).type.tensor_type.shape.dim
            if dims:
                rng.choice(dims).dim_value = rng.choice([0, 1, 2, 3, 5, 2**40])
        elif kind == 7:
            model.opset_import[0].version = rng.randint(1, 24)
        else:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.output[0] = f"{node.output[0]}_{rng.randrange(10**6)}"
    return model.SerializeToString()


def outcome(data: bytes) -> str:
    """`refused`, or how the verification of the result ended. Any other exception fails the test."""
    start = time.monotonic()
    try:
        result = graphopt.optimize(data, "O2")
    except graphopt.GraphoptError as error:
        assert error.exit_code in (2, 3), f"{type(error).__name__}: {error}"
        assert str(error)
        return "refused"
    finally:
        assert time.monotonic() - start < SECONDS
    onnx.ModelProto.FromString(result.model)
    assert result.verification is not None
    assert result.verification.status in ("ok", "skipped")
    return result.verification.status


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_broken_bytes(name: str) -> None:
    rng = random.Random(name)
    assert outcome(SEEDS[name]) == "ok"
    seen = {outcome(mutate(SEEDS[name], rng)) for _ in range(ROUNDS)}
    assert "refused" in seen


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_strange_structures(name: str) -> None:
    rng = random.Random(name)
    seen = {outcome(mutate_structure(SEEDS[name], rng)) for _ in range(ROUNDS)}
    assert "ok" in seen


@pytest.mark.parametrize("name", SEEDS)
def test_truncated_anywhere(name: str) -> None:
    """Every prefix of a model is refused, but for those that end between two fields and are models."""
    data = SEEDS[name]
    for end in range(len(data)):
        try:
            graphopt.load(data[:end])
        except graphopt.ModelError:
            continue
        onnx.checker.check_model(onnx.ModelProto.FromString(data[:end]))


def test_random_bytes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        with pytest.raises(graphopt.ModelError):
            graphopt.load(rng.randbytes(rng.randrange(1, 200)))
