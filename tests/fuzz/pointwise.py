"""Operators that work on each element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import numpy as np
import onnx

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.values import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    FLOATS,
    I8,
    I32,
    I64,
    INTEGERS,
    NUMBERS,
    STRING,
    U8,
    UNSIGNED,
    Val,
)

_UNARY = (
    "Neg", "Abs", "Relu", "Ceil", "Floor", "Round", "Sign", "Sqrt", "Exp", "Log", "Identity", "Identity", "Reciprocal", "Sigmoid",
    "Tanh", "Erf", "Softplus", "LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Softsign", "Sin", "Cos", "Atan", "Selu", "Celu",
    "ThresholdedRelu", "Mish", "Gelu", "Swish", "Shrink", "IsNaN", "IsInf", "Neg", "Relu", "Abs", "Sigmoid",
)  # fmt: skip
_TWICE = ("Neg", "Abs", "Relu", "Ceil", "Sign", "Exp", "Log", "Sqrt", "Reciprocal", "Identity", "Floor", "Not")


def operand(b: Builder, x: Val) -> Val:
    """Something that broadcasts with x: another value, or a constant, often one that an identity is made of."""
    rng = b.rng
    if rng.random() < 0.45:
        try:
            return b.pick(lambda v: v.dtype == x.dtype and v.shape is not None and _fits(v.dims, x.dims))
        except Reject:
            pass
    shape, chance = x.dims, rng.random()
    if chance < 0.45:
        shape = rng.choice(((), (1,), (1,) * x.rank))
    elif chance < 0.8:
        shape = tuple(d if rng.random() < 0.5 else 1 for d in shape)
    elif chance < 0.9:
        shape = shape[rng.randint(0, len(shape)) :]
    elif x.rank < 4:
        shape = (1,) * rng.randint(0, 2) + shape
    if x.dtype in (BOOL, STRING) or rng.random() < 0.35:
        return b.const(b.numbers(shape, x.dtype))
    wanted = (0, 1, 1, 2, 3, -1, 0.5, -0.0, 1.000001, np.inf if b.special else 6) if x.dtype in FLOATS else (0, 1, 1, 2, 3)
    return b.const(np.full(shape, rng.choice(wanted)), x.dtype)


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


def unary(b: Builder) -> None:
    op = b.rng.choice(_UNARY)
    x = b.node(op, [b.pick(least=-1, dtypes=NUMBERS)])
    if b.rng.random() < 0.35 and x.dtype != BOOL:
        b.node(b.rng.choice((*_TWICE[:-1], op)), [x])


def binary(b: Builder) -> None:
    rng = b.rng
    op = rng.choice(("Add", "Sub", "Mul", "Div", "Add", "Mul", "Mul", "Add", "Pow", "Mod", "PRelu", "Max", "Min", "Sum", "Mean"))
    x = b.pick(least=0, dtypes=NUMBERS)
    if op in ("Div", "Mod") and x.dtype in INTEGERS:
        shape = rng.choice(((), x.dims, (1,)))
        divisors = (1, 2, 3, 5) if x.dtype in UNSIGNED else (1, 2, 3, 5, -2, -3)
        y = b.const(np.full(shape, rng.choice(divisors)), x.dtype, plain=True)
        b.node(op, [x, y])
        return
    for _ in range(rng.choice((1, 1, 2, 3))):
        y = operand(b, x)
        pair = [x, y] if rng.random() < 0.65 or op == "PRelu" else [y, x]
        if op in ("Max", "Min", "Sum", "Mean") and rng.random() < 0.3:
            pair = pair[:1] if rng.random() < 0.5 else [*pair, operand(b, x)]
        fmod = 1 if op == "Mod" else None
        if op == "Pow" and x.dtype in INTEGERS:
            raise Reject
        x = b.node(op, pair, fmod=fmod)


def clip(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=0, dtypes=(b.float, F32, I64, I32, U8, I8))
    for _ in range(rng.choice((1, 2, 2, 3))):
        op = rng.choice(("Clip", "Clip", "Clip", "Relu", "Min", "Max"))
        low, high = rng.choice((None, -2, 0, 1, 3, 5)), rng.choice((None, -1, 1, 4, 6, 0))
        if x.dtype in UNSIGNED:
            low, high = low and abs(low), high and abs(high)
        if op == "Clip" and b.opset < 11:
            x = b.node(op, [x], min=None if low is None else float(low), max=None if high is None else float(high))
        elif op == "Clip":
            x = b.node(op, [x, *(None if k is None else b.const(k, x.dtype) for k in (low, high))])
        elif op == "Relu":
            x = b.node(op, [x])
        else:
            x = b.node(op, [x, operand(b, x)])


def logic(b: Builder) -> None:
    rng = b.rng
    op = rng.choice(("And", "Or", "Xor", "Not", "Equal", "Less", "Greater", "GreaterOrEqual", "LessOrEqual", "Where", "Where", "Where", "BitwiseAnd", "BitwiseXor", "BitwiseNot", "BitShift"))
    if op == "Not":
        x = b.node(op, [b.pick(dtypes=(BOOL,))])
        if rng.random() < 0.4:
            b.node(op, [x])
    elif op in ("And", "Or", "Xor"):
        x = b.pick(least=0, dtypes=(BOOL,))
        b.node(op, [x, operand(b, x)])
    elif op == "Where":
        c = b.pick(least=0, dtypes=(BOOL,))
        x = b.pick(lambda v: _fits(v.dims, c.dims), least=0)
        y = operand(b, x)
        if rng.random() < 0.3:
            c = b.const(np.full(rng.choice((c.dims, (), (1,))), rng.random() < 0.5))
        elif rng.random() < 0.3:
            c = b.node("Not", [c])
        b.node(op, [c, *((x, y) if rng.random() < 0.5 else (y, x))])
    elif op == "BitwiseNot":
        b.node(op, [b.pick(dtypes=INTEGERS)])
    elif op.startswith("Bit"):
        x = b.pick(least=0, dtypes=UNSIGNED if op == "BitShift" else INTEGERS)
        y = operand(b, x) if op != "BitShift" else b.const(rng.choice((0, 1, 3)), x.dtype)
        b.node(op, [x, y], direction=rng.choice(("LEFT", "RIGHT")) if op == "BitShift" else None)
    else:
        x = b.pick(least=0, dtypes=(*NUMBERS, BOOL))
        y = b.node(op, [x, operand(b, x)])
        if rng.random() < 0.3:
            b.node("Cast", [y], to=rng.choice((F32, I64, I32, b.float)))


def cast(b: Builder) -> None:
    rng = b.rng
    x = b.pick(least=-1, dtypes=(*NUMBERS, BOOL))
    for _ in range(rng.choice((1, 2, 2, 3))):
        to = rng.choice((F32, F64, F16, F32, BF16, I64, I32, U8, I8, BOOL, x.dtype))
        if x.dtype in FLOATS and to in INTEGERS:
            x = _harmless(b, x)
            if to in UNSIGNED:
                x = b.node("Abs", [x])
        x = b.node("CastLike", [x, b.pick(dtypes=(to,))]) if rng.random() < 0.15 and b.opset >= 15 else b.node("Cast", [x], to=to)


def _harmless(b: Builder, x: Val) -> Val:
    """x without NaN, and within -100 and 100: other floats as integers are whatever a machine makes of them."""
    if b.opset < 12:
        raise Reject
    bounds = [b.const(k, x.dtype, plain=True) for k in (-100, 100, 0)]
    number = b.node("Not", [b.node("IsNaN", [x])])
    return b.node("Where", [number, b.node("Clip", [x, *bounds[:2]]), bounds[2]])


def activation(b: Builder) -> None:
    """Activations spelled out, at times not quite."""
    rng = b.rng
    x = b.pick(least=0, dtypes=(b.float, F32))
    slight = rng.random() < 0.15

    def c(number: float) -> Val:
        shape = rng.choice(((), (1,), (1,) * x.rank, (1,) * 5)) if rng.random() < 0.2 else ()
        return b.const(np.full(shape, number * (1.01 if slight else 1)), x.dtype)

    kind = rng.randrange(9)
    if kind == 0:
        b.node("Mul", [x, b.node("Sigmoid", [x])])
    elif kind == 1:
        e = b.node("Add", [b.node("Erf", [b.node("Div", [x, c(2**0.5)])]), c(1)])
        b.node("Mul", [b.node("Mul", [x, e]), c(0.5)])
    elif kind == 2:
        b.node("Mul", [x, b.node("Tanh", [b.node("Softplus", [x])])])
    elif kind == 3:
        t = b.node("Add", [x, c(3)])
        t = b.node("Clip", [t, c(0), c(6)]) if b.opset >= 11 else b.node("Clip", [t], min=0.0, max=6.0)
        b.node("Mul", [x, b.node("Div", [t, c(6)])])
    elif kind == 4:
        b.node(rng.choice(("Max", "Max", "Min")), [x, b.node("Mul", [x, c(rng.choice((0.1, 0.1, 2.0, -0.5)))])])
    elif kind == 5:
        b.node("Log", [b.node("Add", [b.node("Exp", [x]), c(1)])])
    elif kind == 6:
        b.node("Where", [b.node("Greater", [x, c(0)]), x, b.node("Mul", [x, c(0.1)])])
    elif kind == 7:
        positive = b.node("Relu", [x])
        negative = b.node("Relu", [b.node("Neg", [x])])
        b.node(rng.choice(("Sub", "Add")), [positive, b.node("Mul", [negative, c(0.25)])])
    else:
        b.node("Mul", [x, b.node("Sigmoid", [b.node("Mul", [x, c(1.702)])])])


def again(b: Builder) -> None:
    """A copy of a node that is there."""
    rng = b.rng
    old = [n for n in b.nodes[-1] if n.op_type not in ("Constant", "If", "Loop", "Scan") and not n.domain]
    if not old:
        raise Reject
    node, known = rng.choice(old), {v.name: v for v in b.values()}
    if any(name and name not in known for name in node.output):
        raise Reject
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    names = [b.name() if name else "" for name in node.output]
    copy.output[:] = names
    if node.op_type in ("Add", "Mul", "And", "Or", "Equal", "Max", "Min") and rng.random() < 0.4:
        copy.input[:] = list(copy.input)[::-1]
    made = [Val(new, known[name].dtype, known[name].shape) for new, name in zip(names, node.output, strict=True) if name]
    b.raw(copy, made)
    if len(made) == 1 and made[0].dtype in NUMBERS and rng.random() < 0.6:
        b.node(rng.choice(("Add", "Sub", "Mul", "Max")), [known[node.output[0]], made[0]])


GENERATORS = {unary: 7, binary: 10, clip: 4, logic: 5, cast: 5, activation: 4, again: 4}
