"""Operators that compute element by element, with broadcasting; also the plan for those that have none of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Port, Rejected
from graphopt.check.dtypes import FLOATS
from graphopt.check.sizes import Shape, broadcast, variation
from graphopt.check.values import Want

_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf",
    "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
    "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_BINARY = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_VARIADIC = ("Max", "Mean", "Min", "Sum")
_KNOWN = frozenset((*_UNARY, *_BINARY, "Mod"))


def broadcasting(call: Call) -> Shape | None:
    """Operands of shapes that broadcast: those that are made by operators first, then the ones that vary on them."""
    alike = call.op in _VARIADIC and call.version < 8
    fixed = [i for i in range(call.count) if call.has(i) and not call.is_open(i)]
    free = [i for i in range(call.count) if call.is_open(i)]
    free.sort(key=call.is_const)
    shapes: list[Shape] = []
    for index in fixed:
        shapes.append(call.put(index, Want(shape=broadcast(*shapes) if shapes else call.want)).shape)
    for index in free:
        against = broadcast(*shapes)
        if against is None:
            raise Rejected(f"operands of {call.op} do not broadcast")
        if not shapes and not call.is_number(index):
            want = Want(shape=call.want)
        else:
            want = Want(shape=against, strict=True) if alike else Want(against=against)
        shapes.append(call.put(index, want).shape)
    found = broadcast(*shapes)
    if found is None:
        raise Rejected(f"operands of {call.op} do not broadcast")
    return found if call.op in _KNOWN and call.step.domain == "" else None


def modulo(call: Call) -> Shape | None:
    """Of floats, only as C has it."""
    if call.emitter.types[Port(call.step, 0)] in FLOATS:
        call.attr("fmod", lambda: 1, usual=1.0)
    return broadcasting(call)


def prelu(call: Call) -> Shape:
    """Slopes that broadcast into the operand."""
    x = call.put(0, Want(shape=call.want)).shape
    slope = variation(x, call.rng, call.sizes)
    wish = slope if broadcast(slope, x) == x and len(slope) <= len(x) else x
    call.put(1, Want(shape=wish, strict=True, fits=lambda s: broadcast(s, x) == x and len(s) <= len(x)))
    return x


def trilu(call: Call) -> Shape:
    x = call.put_data(2)
    if call.has(1):
        call.put(1, Want(content=np.asarray(call.rng.choice((0, 1, -1)))))
    call.attr("upper", lambda: 0)
    return x


def clip(call: Call) -> Shape:
    """Clip takes its bounds as scalars, or as attributes."""
    x = call.put(0, Want(shape=call.want))
    for index in (1, 2):
        if call.has(index):
            call.put(index, Want(shape=(), strict=True))
    low = call.attr("min", lambda: call.rng.choice((-1.0, 0.0, 0.5)))
    call.attr("max", lambda: (low if low is not None and low > -1e30 else 0.0) + call.rng.choice((0.0, 1.0, 6.0)))
    return x.shape


def dropout(call: Call) -> Shape:
    """Dropout in inference mostly; its ratio and mode are scalars."""
    x = call.put(0, Want(shape=call.want))
    if call.has(1):
        call.put(1, Want(content=np.asarray(call.rng.choice((0.0, 0.5)))))
    if call.has(2):
        call.put(2, Want(content=np.asarray(call.rng.random() < 0.2)))
    return x.shape


PLANS: dict[str, Callable[[Call], Shape | None]] = {
    "Clip": clip, "Dropout": dropout, "Mod": modulo, "PRelu": prelu, "Trilu": trilu,
}  # fmt: skip
