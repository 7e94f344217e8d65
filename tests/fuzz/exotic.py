"""Sequences, optionals, strings, random numbers, recurrent layers: rare, and easily broken."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.values import BOOL, F32, I64, STRING, Val


def _plain(b: Builder, op: str, inputs: list[str], outputs: list[Val], **attributes: object) -> None:
    """A node on values that are no tensors."""
    b.raw(helper.make_node(op, inputs, [o.name for o in outputs], **attributes), [o for o in outputs if o.dtype])


def _opaque(b: Builder) -> Val:
    return Val(b.name("q"), 0, None)


def sequence(b: Builder) -> None:
    if b.opset < 11:
        raise Reject
    rng = b.rng
    x = b.pick(least=1, dtypes=(F32, I64))
    seq = _opaque(b)
    if rng.random() < 0.5:
        alike = [b.pick(lambda v: v.dtype == x.dtype and v.rank == x.rank and v.shape == x.shape) for _ in range(rng.randint(1, 2))]
        parts = [x, *alike]
        _plain(b, "SequenceConstruct", [p.name for p in parts], [seq])
        shapes = [p.shape for p in parts]
    else:
        count = x.dims[0]
        if not 0 < count < 5:
            raise Reject
        _plain(b, "SplitToSequence", [x.name], [seq], axis=0, keepdims=1)
        shapes = [(1, *x.dims[1:])] * count
    if rng.random() < 0.3:
        longer = _opaque(b)
        at = [b.const(rng.randint(0, len(shapes)), I64, plain=True).name] if rng.random() < 0.5 else []
        more = b.pick(lambda v: v.dtype == x.dtype and v.shape == shapes[0])
        _plain(b, "SequenceInsert", [seq.name, more.name, *at], [longer])
        seq, shapes = longer, [*shapes, shapes[0]]
    kind = rng.choice(("at", "at", "length", "concat", "erase"))
    if kind == "erase" and len(shapes) > 1:
        shorter = _opaque(b)
        _plain(b, "SequenceErase", [seq.name], [shorter])
        seq, shapes, kind = shorter, shapes[:-1], "at"
    if kind == "length":
        _plain(b, "SequenceLength", [seq.name], [Val(b.name(), I64, ())])
    elif kind == "concat" and len({s[1:] for s in shapes if s is not None}) == 1:
        total = sum(s[0] for s in shapes if s is not None)
        _plain(b, "ConcatFromSequence", [seq.name], [Val(b.name(), x.dtype, (total, *(shapes[0] or ())[1:]))], axis=0)
    else:
        index = b.const(rng.randrange(-len(shapes), len(shapes)), I64, plain=True)
        known = shapes[0] if len(set(shapes)) == 1 else None
        _plain(b, "SequenceAt", [seq.name, index.name], [Val(b.name(), x.dtype, known)])


def optional(b: Builder) -> None:
    if b.opset < 18:
        raise Reject
    x = b.pick(dtypes=(F32, I64))
    held = _opaque(b)
    _plain(b, "Optional", [x.name], [held])
    if b.rng.random() < 0.3:
        _plain(b, "OptionalHasElement", [held.name], [Val(b.name(), BOOL, ())])
    else:
        _plain(b, "OptionalGetElement", [held.name], [Val(b.name(), x.dtype, x.shape)])


def strings(b: Builder) -> None:
    rng = b.rng
    known = [v for v in b.values() if v.dtype == STRING]
    if known and rng.random() < 0.6:
        x = rng.choice(known)
    else:
        x = b.const(b.numbers(b.shape(rng.choice((1, 2))), STRING)) if b.inside or rng.random() < 0.5 else b.input(b.shape(1), STRING)
    op = rng.choice(("Identity", "Reshape", "Concat", "Gather", "Equal", "Transpose", "Where", "Unsqueeze", "Expand"))
    if op == "Reshape":
        b.node(op, [x, b.ints(-1)])
    elif op == "Concat":
        b.node(op, [x, b.const(b.numbers(x.dims, STRING))], axis=0)
    elif op == "Gather":
        b.node(op, [x, b.ints(0)], axis=0)
    elif op == "Equal":
        b.node(op, [x, b.const(b.numbers((1,), STRING))])
    elif op == "Where":
        b.node(op, [b.const(b.numbers(x.dims, BOOL)), x, b.const(b.numbers((1,), STRING))])
    elif op == "Expand":
        b.node(op, [x, b.ints(2, *x.dims)])
    else:
        b.node(op, [x, *([b.ints(0)] if op == "Unsqueeze" and b.opset >= 13 else [])])


def random_pair(b: Builder) -> None:
    """Two draws of random numbers, which agree nowhere unless somebody takes one for the other."""
    rng = b.rng
    x = b.pick(lambda v: v.size >= 2, dtypes=(F32,))
    op = rng.choice(("RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal"))
    if op.endswith("Like"):
        first, second = (b.node(op, [x], dtype=TensorProto.FLOAT) for _ in range(2))
    else:
        first, second = (b.node(op, [], shape=list(x.dims), dtype=TensorProto.FLOAT) for _ in range(2))
    hidden = [b.scopes[-1].pop() for _ in range(2)]  # nothing else may read what differs from run to run
    assert {v.name for v in hidden} == {first.name, second.name}
    gap = b.node("Sub", [first, second])
    b.scopes[-1].pop()
    same = b.node("Abs", [gap])
    b.scopes[-1].pop()
    largest = b.node("ReduceMax", [same], keepdims=0)
    b.scopes[-1].pop()
    b.node("Greater", [largest, b.const(0, F32, plain=True)])


def recurrent(b: Builder) -> None:
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=3, dtypes=(F32,))
    if x.rank != 3:
        raise Reject
    op, hidden = rng.choice(("RNN", "GRU", "LSTM")), rng.choice((1, 2))
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    ways = rng.choice((1, 1, 2))

    def weight(*shape: int) -> Val:
        return b.const(np.random.default_rng(rng.getrandbits(32)).standard_normal(shape), F32)

    inputs = [x, weight(ways, gates * hidden, x.dims[2]), weight(ways, gates * hidden, hidden)]
    if rng.random() < 0.6:
        bias = weight(ways, 2 * gates * hidden) if rng.random() < 0.5 else b.const(np.zeros((ways, 2 * gates * hidden)), F32)
        inputs.append(bias)
    direction = "bidirectional" if ways == 2 else rng.choice((None, "forward", "reverse"))
    b.nodes_of(op, inputs, outputs=rng.choice((1, 2)), hidden_size=hidden, direction=direction)


def learned(b: Builder) -> None:
    """Operators of ai.onnx.ml on the way."""
    x = b.pick(least=1, dtypes=(F32, I64))
    op = b.rng.choice(("Binarizer", "Scaler", "Normalizer", "ArrayFeatureExtractor"))
    if op == "Binarizer":
        b.node(op, [x], domain="ai.onnx.ml", threshold=0.5)
    elif op == "Scaler":
        b.node(op, [x], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])
    elif op == "Normalizer" and x.rank == 2:
        b.node(op, [x], domain="ai.onnx.ml", norm=b.rng.choice(("MAX", "L1", "L2")))
    else:
        raise Reject


GENERATORS = {sequence: 3, optional: 1, strings: 2, random_pair: 1, recurrent: 1, learned: 1}
