"""Kernels of operators that compute, exact where ONNX is exact; float16 and bfloat16 round once at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir.kernel import Array, Call, Undefined, Unsupported
from graphopt.ir.movement import INT64, Kernel, broadcast_shape

NARROW = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})
BOOL = np.dtype(np.bool_)
_MAX_WORK = 1 << 32


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in NARROW


def is_int(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu"


def _numbers(call: Call, *, bools: bool = False) -> list[Array]:
    """All inputs, of one dtype that is computed with; their broadcast fits the budget."""
    arrays = [call.input(i) for i in range(len(call.inputs))]
    dtype = arrays[0].dtype
    if any(a.dtype != dtype for a in arrays):
        raise Undefined(f"{call.op} of {' and '.join(str(a.dtype) for a in arrays)}")
    if not (is_float(dtype) or is_int(dtype) or (bools and dtype == BOOL)):
        raise Unsupported(f"{call.op} of {dtype}")
    call.allocate(broadcast_shape(call, [a.shape for a in arrays]), np.dtype(np.float64))
    return arrays


def _elementwise(function: Callable[..., Any], *, floats_only: bool = False) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        arrays = _numbers(call)
        dtype = arrays[0].dtype
        if floats_only and not is_float(dtype):
            raise Undefined(f"{call.op} of {dtype}")
        if dtype in NARROW:
            arrays = [a.astype(np.float32) for a in arrays]
        return (np.asarray(function(*arrays)).astype(dtype),)

    return kernel


def _comparison(function: Callable[..., Any], *, bools: bool = False) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        return (np.asarray(function(*_numbers(call, bools=bools)), BOOL),)

    return kernel


def _logical(function: Callable[..., Any]) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        arrays = _numbers(call, bools=True)
        if arrays[0].dtype != BOOL:
            raise Undefined(f"{call.op} of {arrays[0].dtype}")
        return (np.asarray(function(*arrays), BOOL),)

    return kernel


def _fold(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def total(first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return total


def _check_divisor(call: Call, a: Array, b: Array) -> None:
    if (b == 0).any():
        raise Undefined(f"{call.op} of integers by zero")
    if a.dtype.kind == "i" and (b == -1).any() and (a == np.iinfo(a.dtype).min).any():
        raise Undefined(f"{call.op} of the smallest {a.dtype} by -1")


def div(call: Call) -> tuple[Array, ...]:
    a, b = _numbers(call)
    if is_float(a.dtype):
        return _elementwise(np.true_divide)(call)
    _check_divisor(call, a, b)
    down = np.floor_divide(a, b)
    # NumPy rounds down, ONNX toward zero: they differ where the quotient is negative and not exact.
    inexact = (down * b != a) & ((a < 0) != (b < 0))
    return (np.asarray(down + inexact.astype(a.dtype), a.dtype),)


def mod(call: Call) -> tuple[Array, ...]:
    a, b = _numbers(call)
    fmod = bool(call.attrs.get("fmod", 0))
    if is_float(a.dtype):
        if not fmod:
            raise Undefined("Mod of floating-point numbers without fmod")
        return _elementwise(np.fmod)(call)
    _check_divisor(call, a, b)
    if fmod and not all((np.abs(x.astype(np.float64)) < 2.0**53).all() for x in (a, b)):
        raise Undefined("Mod with fmod of integers beyond 2⁵³, which some runtimes compute in doubles")
    return (np.asarray(np.fmod(a, b) if fmod else np.mod(a, b), a.dtype),)


def abs_(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    if x.dtype.kind == "i" and (x == np.iinfo(x.dtype).min).any():
        raise Undefined(f"Abs of the smallest {x.dtype}")
    return _elementwise(np.abs)(call)


def sign(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    if is_float(x.dtype) and np.isnan(x.astype(np.float32)).any():
        raise Undefined("Sign of NaN")
    return _elementwise(np.sign)(call)


def pow_(call: Call) -> tuple[Array, ...]:
    base, exponent = call.input(0), call.input(1)
    for x in (base, exponent):
        if not (is_float(x.dtype) or is_int(x.dtype)):
            raise Unsupported(f"Pow of {x.dtype}")
    call.allocate(broadcast_shape(call, [base.shape, exponent.shape]), np.dtype(np.float64))
    if is_float(base.dtype):
        wide = np.float32 if base.dtype in NARROW and exponent.dtype in NARROW else np.float64
        if base.dtype == exponent.dtype and base.dtype not in NARROW:
            return (np.asarray(np.power(base, exponent)),)
        return (np.asarray(np.power(base.astype(wide), exponent.astype(wide))).astype(base.dtype),)
    result = np.asarray(np.power(base.astype(np.float64), exponent.astype(np.float64)))
    limits = np.iinfo(base.dtype)
    bound = min(limits.max, 2**53)
    if not ((result >= max(limits.min, -bound)) & (result <= bound)).all():
        raise Undefined(f"Pow beyond what {base.dtype} holds exactly")
    return (result.astype(base.dtype),)


def round_(call: Call) -> tuple[Array, ...]:
    return _elementwise(np.rint, floats_only=True)(call)


def mean(call: Call) -> tuple[Array, ...]:
    return _elementwise(lambda *xs: _fold(np.add)(*xs) / np.float64(len(xs)), floats_only=True)(call)


def range_(call: Call) -> tuple[Array, ...]:
    start, limit, delta = (call.input(i) for i in range(3))
    if not start.dtype == limit.dtype == delta.dtype or not start.size == limit.size == delta.size == 1:
        raise Undefined("Range needs three single numbers of one dtype")
    dtype = start.dtype
    if is_int(dtype):
        first, last, step = int(start.item()), int(limit.item()), int(delta.item())
        if step == 0:
            raise Undefined("Range in steps of 0")
        count = max(0, -((first - last) // step))
        call.allocate([count], INT64)
        return (np.asarray(first + np.arange(count, dtype=INT64) * step).astype(dtype),)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise Unsupported(f"Range of {dtype}")
    values = [float(start.item()), float(limit.item()), float(delta.item())]
    if not all(map(math.isfinite, values)) or values[2] == 0:
        raise Undefined("Range in steps of 0, or of numbers that are not finite")
    span = (values[1] - values[0]) / values[2]
    if abs(span - round(span)) < 1e-6 * max(1.0, abs(span)) and span != round(span):
        raise Undefined("Range whose length depends on rounding")
    count = max(0, math.ceil(span))
    call.allocate([count], dtype)
    return (np.asarray(start.reshape(()) + np.arange(count).astype(dtype) * delta.reshape(()), dtype),)


def matmul(call: Call) -> tuple[Array, ...]:
    a, b = _pair(call)
    if a.ndim == 0 or b.ndim == 0:
        raise Undefined("MatMul of a scalar")
    rows, columns = a.shape[:-1][-1:], b.shape[-1:] if b.ndim > 1 else ()
    inner = a.shape[-1]
    if inner != b.shape[-2 if b.ndim > 1 else 0]:
        raise Undefined(f"MatMul cannot multiply {list(a.shape)} by {list(b.shape)}")
    outer = broadcast_shape(call, [a.shape[:-2], b.shape[:-2]])
    shape = call.allocate([*outer, *rows, *columns], a.dtype, 2)
    call.work(math.prod(shape) * inner * (1 if is_float(a.dtype) else 32), _MAX_WORK)
    if a.dtype in NARROW:
        return (np.asarray(np.matmul(a.astype(np.float32), b.astype(np.float32))).astype(a.dtype),)
    return (np.asarray(np.matmul(a, b)),)


def gemm(call: Call) -> tuple[Array, ...]:
    a, b = _pair(call)
    c = call.optional(2)
    if a.ndim != 2 or b.ndim != 2:
        raise Undefined("Gemm of what is no matrix")
    a = a.T if call.attrs.get("transA", 0) else a
    b = b.T if call.attrs.get("transB", 0) else b
    alpha, beta = float(call.attrs.get("alpha", 1.0)), float(call.attrs.get("beta", 1.0))
    dtype = a.dtype
    if is_int(dtype) and not (alpha == 1.0 and beta in (0.0, 1.0)):
        raise Undefined(f"Gemm of {dtype} with alpha {alpha} and beta {beta}")
    shape = (a.shape[0], b.shape[1])
    if c is not None and (c.dtype != dtype or broadcast_shape(call, [shape, c.shape]) != list(shape)):
        raise Undefined(f"Gemm cannot add {c.dtype} {list(c.shape)} to {dtype} {list(shape)}")
    wide = np.dtype(np.float32) if dtype in NARROW else dtype
    result = matmul(Call("MatMul", call.version, [a.astype(wide), b.astype(wide)], {}, call.budget))[0]
    if alpha != 1.0:
        result = result * np.asarray(alpha, wide)
    if c is not None and beta != 0.0:
        result = result + (c.astype(wide) if beta == 1.0 else c.astype(wide) * np.asarray(beta, wide))
    return (np.asarray(result).astype(dtype),)


def _pair(call: Call) -> tuple[Array, Array]:
    a, b = call.input(0), call.input(1)
    if a.dtype != b.dtype:
        raise Undefined(f"{call.op} of {a.dtype} and {b.dtype}")
    if not (is_float(a.dtype) or is_int(a.dtype)):
        raise Unsupported(f"{call.op} of {a.dtype}")
    return a, b


def _reduction(function: Callable[..., Any], *, since: int = 18, of_none: bool = True) -> Kernel:
    """A reduction whose axes are an input from opset `since` on; `of_none`: no elements have a result."""

    def kernel(call: Call) -> tuple[Array, ...]:
        x = call.input(0)
        axes = call.ints(1, "axes", since)
        if not axes:
            if call.attrs.get("noop_with_empty_axes", 0):
                return (x,)
            axes = list(range(x.ndim))
        axes = call.axes(axes, x.ndim)
        if not (is_float(x.dtype) or is_int(x.dtype)):
            raise Unsupported(f"{call.op} of {x.dtype}")
        if not of_none and any(x.shape[i] == 0 for i in axes):
            raise Undefined(f"{call.op} of no elements")
        call.allocate(x.shape, np.dtype(np.float64))
        wide = x.astype(np.float32) if x.dtype in NARROW else x
        keep = bool(call.attrs.get("keepdims", 1))
        result = function(wide, axis=tuple(axes), keepdims=keep) if axes else wide
        return (np.asarray(result).astype(x.dtype),)

    return kernel


def _accumulated(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, **how: Any) -> Any:
        # Runtimes accumulate integers in doubles or wrap around: the same only below 2⁵³.
        if is_int(x.dtype) and not (function(np.abs(x.astype(np.float64)), **how) < 2.0**53).all():
            raise Undefined("a sum or product of integers beyond 2⁵³")
        return function(x, dtype=x.dtype, **how)

    return reduce


def _mean(x: Array, **how: Any) -> Any:
    if not is_float(x.dtype):
        raise Undefined(f"ReduceMean of {x.dtype}")
    return np.mean(x, dtype=x.dtype, **how)


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, **how: Any) -> Any:
        if is_float(x.dtype) and np.isnan(x).any():
            raise Undefined("the largest or smallest of numbers with a NaN among them")
        return function(x, **how)

    return reduce


ARITHMETIC: dict[str, Kernel] = {
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": div,
    "Mod": mod,
    "Neg": _elementwise(np.negative),
    "Abs": abs_,
    "Sqrt": _elementwise(np.sqrt, floats_only=True),
    "Reciprocal": _elementwise(lambda x: np.true_divide(x.dtype.type(1), x), floats_only=True),
    "Exp": _elementwise(np.exp, floats_only=True),
    "Log": _elementwise(np.log, floats_only=True),
    "Pow": pow_,
    "Min": _elementwise(_fold(np.minimum)),
    "Max": _elementwise(_fold(np.maximum)),
    "Relu": _elementwise(lambda x: np.where(x < 0, x.dtype.type(0), x)),  # keeps NaN and -0
    "Sum": _elementwise(_fold(np.add), floats_only=True),
    "Mean": mean,
    "Floor": _elementwise(np.floor, floats_only=True),
    "Ceil": _elementwise(np.ceil, floats_only=True),
    "Round": round_,
    "Sign": sign,
    "Not": _logical(np.logical_not),
    "And": _logical(np.logical_and),
    "Or": _logical(np.logical_or),
    "Xor": _logical(np.logical_xor),
    "Equal": _comparison(np.equal, bools=True),
    "Less": _comparison(np.less),
    "Greater": _comparison(np.greater),
    "LessOrEqual": _comparison(np.less_equal),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "Range": range_,
    "ReduceSum": _reduction(_accumulated(np.sum), since=13),
    "ReduceProd": _reduction(_accumulated(np.prod)),
    "ReduceMean": _reduction(_mean, of_none=False),
    "ReduceMax": _reduction(_extreme(np.max), of_none=False),
    "ReduceMin": _reduction(_extreme(np.min), of_none=False),
    "MatMul": matmul,
    "Gemm": gemm,
}
