"""Operators on constants: exact, bounded in memory and time, in this process.

Used while a rule's replacement is built, where a child process per expression would be too slow. Whatever is
not known to be exact, bounded and safe raises: `Undefined` where ONNX leaves the result open (an integer
divided by zero, a float beyond the integer's range), `Unsupported` where there is no such kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.arithmetic import ARITHMETIC, NARROW, is_float
from graphopt.ir.cast import cast, cast_like
from graphopt.ir.kernel import DEFAULT_BUDGET, Array, Call, Undefined, Unsupported
from graphopt.ir.movement import MOVEMENT, SHAPE_ONLY, Kernel
from graphopt.ir.reference import by_reference

__all__ = ["DEFAULT_BUDGET", "Undefined", "Unsupported", "evaluate", "has_kernel"]

_KERNELS: dict[str, Kernel] = {**MOVEMENT, **SHAPE_ONLY, **ARITHMETIC, "Cast": cast, "CastLike": cast_like}
_FIRST_OPSET = 7  # before it, broadcasting was an attribute


def has_kernel(op_type: str, domain: str = "") -> bool:
    """Whether `op_type` is computed here directly, that is, without the reference implementation."""
    return domain == "" and op_type in _KERNELS


def evaluate(
    op_type: str,
    domain: str,
    version: int,
    inputs: Sequence[Array | None],
    attrs: Mapping[str, Any],
    n_outputs: int = 1,
    *,
    budget: int = DEFAULT_BUDGET,
    wide: bool = False,
) -> tuple[Array, ...]:
    """The outputs of one operator on arrays, with the dtypes that ONNX prescribes.

    `version` is the opset of `domain`; optional inputs that are left out are None; attributes are Python
    values and arrays. `budget`: bytes that the outputs may have, checked from shapes before anything is
    allocated. `wide`: float16 and bfloat16 are computed in float32, float32 in float64, and the results
    stay so, for the caller to round once at the end of an expression.

    Results may be views of the inputs. Raises `Undefined` or `Unsupported`, and never anything else for
    an operator call that is well typed.
    """
    arrays = [None if x is None else np.asarray(x) for x in inputs]
    attrs = {name: value.numpy() if hasattr(value, "numpy") else value for name, value in attrs.items()}
    if wide:
        arrays, attrs = _widened(op_type, arrays, attrs)
    call = Call(op_type, version, arrays, attrs, budget, n_outputs)
    if domain != "":
        raise Unsupported(f"{domain}.{op_type} is no standard operator")
    if version < _FIRST_OPSET:
        raise Unsupported(f"{op_type} of opset {version}")
    kernel = _KERNELS.get(op_type)
    with np.errstate(all="ignore"):
        try:
            # NumPy makes scalars of arrays without axes.
            return tuple(np.asarray(result) for result in (kernel(call) if kernel else by_reference(call)))
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
            raise Unsupported(f"{op_type} failed: {error}") from error


def _widened(
    op: str, arrays: Sequence[Array | None], attrs: Mapping[str, Any]
) -> tuple[list[Array | None], dict[str, Any]]:
    floats = [x.dtype for x in arrays if x is not None and is_float(x.dtype)]
    target = max((wider(d) for d in floats), key=lambda d: d.itemsize, default=np.dtype(np.float32))
    widened = [x if x is None or not is_float(x.dtype) else x.astype(target, copy=False) for x in arrays]
    attrs = dict(attrs)
    if op == "Cast" and floats:
        wanted = int(attrs["to"])
        if wanted in _FLOATS:
            attrs["to"] = 11 if target.itemsize == 8 else 1
    elif op == "Cast" and int(attrs["to"]) in _FLOATS:
        attrs["to"] = 1 if int(attrs["to"]) in _NARROW_CODES else 11
    elif op == "ConstantOfShape" and "value" in attrs and is_float(np.asarray(attrs["value"]).dtype):
        attrs["value"] = np.asarray(attrs["value"]).astype(wider(np.asarray(attrs["value"]).dtype))
    return widened, attrs


_FLOATS = frozenset({1, 10, 11, 16})
_NARROW_CODES = frozenset({10, 16})


def wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The floating-point dtype to compute in so that rounding to `dtype` at the end is all that is lost."""
    return np.dtype(np.float32 if dtype in NARROW else np.float64)
