"""What is known of a value of a model in the making, and the numbers that tensors hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]

F16, F32, F64, BF16 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16
I8, I16, I32, I64 = TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64
U8, U16, U32, U64 = TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64
BOOL, STRING = TensorProto.BOOL, TensorProto.STRING

FLOATS = (F32, F64, F16, BF16)
SIGNED = (I64, I32, I8, I16)
UNSIGNED = (U8, U16, U32, U64)
INTEGERS = (*SIGNED, *UNSIGNED)
NUMBERS = (*FLOATS, *INTEGERS)

_SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1e30, -1e30, 1.0, 80.0, -80.0, 0.5, 65504.0)
_WORDS = ("", "a", "ab", "ä", "zz")


@dataclass(frozen=True, eq=False)
class Val:
    """A value. `shape` with the sizes of the inputs that the model is made with, None if they depend on numbers;
    `content` where it is known without running the model; `const`: an initializer or a Constant."""

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    content: Array | None = None
    const: bool = False

    @property
    def rank(self) -> int:
        return -1 if self.shape is None else len(self.shape)

    @property
    def size(self) -> int:
        return -1 if self.shape is None else int(np.prod(self.shape, dtype=np.int64))

    @property
    def dims(self) -> tuple[int, ...]:
        if self.shape is None:
            raise ValueError(f"the shape of {self.name} is not known")
        return self.shape


def numpy_of(dtype: int) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(dtype)


def numbers(rng: Random, shape: Sequence[int], dtype: int, special: bool = False) -> Array:
    """Random contents: mostly small and whole, so that sums are exact whatever their order, at times special ones."""
    source = np.random.default_rng(rng.getrandbits(32))
    target = numpy_of(dtype)
    if dtype == STRING:
        return np.array([rng.choice(_WORDS) for _ in range(int(np.prod(shape)))], object).reshape(tuple(shape))
    if dtype == BOOL:
        return np.asarray(source.random(shape) < 0.5)
    if dtype in FLOATS:
        whole = rng.random() < 0.6
        made = np.asarray(source.integers(-4, 5, shape) if whole else source.standard_normal(shape) * 1.5)
        made = made.astype(target)
        extremes: Sequence[Any] = _SPECIAL
    else:
        made = np.asarray(source.integers(0 if dtype in UNSIGNED else -4, 6, shape)).astype(target)
        limits = np.iinfo(target)
        extremes = (limits.min, limits.max, 0, limits.max // 2 + 1)
    if special and made.size and rng.random() < 0.6:
        flat = made.reshape(-1)
        with np.errstate(all="ignore"):
            for number in rng.sample(extremes, min(made.size, rng.randint(1, 4))):
                flat[rng.randrange(made.size)] = number
    return made
