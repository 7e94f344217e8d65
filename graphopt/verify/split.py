"""From the columns of one source to samples that fit the model's inputs.

For each input, its column is one of
  rows     same rank, and the first axis holds more rows than the model takes at once, or is dynamic there;
  samples  one axis more than the input: the first one counts samples;
  whole    exactly the input: the same array for each sample.
The first input in the model's order that is not whole says how many samples there are; the others must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import DataError, nearest
from graphopt.verify.columns import Column

__all__ = ["Split", "Wanted"]

Array = np.ndarray[Any, Any]
Shape = tuple[int | str | None, ...] | None
Wanted = Mapping[str, tuple[np.dtype[Any], Shape]]
"""Each input's dtype and shape."""

_CASTS = {("float64", "float32"), ("float32", "float16"), ("int32", "int64"), ("int64", "int32")}


class Split:
    """The samples of one source; raises DataError at once for names, dtypes and shapes that do not fit."""

    def __init__(
        self,
        columns: Sequence[Column],
        inputs: Wanted,
        batch: int,
        where: str,
    ) -> None:
        self._where = where
        found = _by_name(columns, inputs)
        self._steps: dict[str, tuple[Column, int]] = {}  # rows of the column that make a sample; 0: all of it
        self._index: set[str] = set()  # inputs whose column has an axis more
        counts: dict[str, int] = {}
        for name, (dtype, shape) in inputs.items():
            if name not in found:
                hint = nearest(name, found) if found else "there is no array at all"
                raise DataError(f"no array for the input {name!r}", where=where, hint=hint)
            column = found[name]
            self._check_dtype(name, column, dtype)
            step = self._step(name, column, shape, batch)
            self._steps[name] = column, step
            if step:
                counts[name] = column.shape[0] if name in self._index else -(-column.shape[0] // step)
        self._agree(counts)
        self.count = next(iter(counts.values()), 1)
        if self.count == 0:
            raise DataError("there are no samples in it", where=where)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        whole = {name: column.whole() for name, (column, step) in self._steps.items() if not step}
        parts = {name: column.blocks(step) for name, (column, step) in self._steps.items() if step}
        for number in range(self.count):
            sample = {}
            for name in self._steps:
                array = whole[name] if name in whole else next(parts[name])
                if name in self._index:
                    array = array[0]
                self._check_values(name, array, number)
                sample[name] = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
            yield sample

    def _step(self, name: str, column: Column, shape: Shape, batch: int) -> int:
        """Rows to take for a sample, 0 for the whole array."""
        actual = column.shape
        if shape is None:
            return 0
        if len(actual) == len(shape) + 1 and _fits(actual[1:], shape):
            self._index.add(name)
            return 1
        if len(actual) != len(shape) or not shape or not _fits(actual[1:], shape[1:]):
            raise self._misfit(name, actual, shape)
        first = shape[0]
        if not isinstance(first, int):
            return batch
        if actual[0] == first:
            return 0
        if first < 1 or actual[0] % first:
            raise self._misfit(name, actual, shape)
        return first

    def _agree(self, counts: dict[str, int]) -> None:
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise DataError(f"the inputs have different numbers of samples: {told}", where=self._where)

    def _check_dtype(self, name: str, column: Column, dtype: np.dtype[Any]) -> None:
        actual = column.dtype.newbyteorder("=") if column.dtype.kind != "V" else dtype
        if actual == dtype:
            return
        hint = (
            f"convert it first: array.astype({dtype.name!r})" if (actual.name, dtype.name) in _CASTS else None
        )
        what = f"the array for {name!r} is {actual.name}, but the input takes {dtype.name}"
        raise DataError(what, where=self._where, hint=hint)

    def _check_values(self, name: str, array: Array, number: int) -> None:
        if array.dtype.kind not in "fc":
            return
        finite = np.isfinite(array)
        if finite.all():
            return
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        value = "NaN" if np.isnan(array[place]) else "an infinity"
        what = f"the array for {name!r} has {value} at {list(place)} of sample {number}"
        raise DataError(what, where=self._where)

    def _misfit(self, name: str, actual: tuple[int, ...], shape: tuple[int | str | None, ...]) -> DataError:
        wanted = "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
        what = f"the array for {name!r} has shape {list(actual)}, but the input takes {wanted}"
        return DataError(what, where=self._where, hint="one more axis in front is taken to count samples")


def _by_name(columns: Sequence[Column], inputs: Wanted) -> dict[str, Column]:
    """Columns by name; `arr_0`, `arr_1`, ... (numpy.savez without names) go by position."""
    found = {column.name: column for column in columns}
    if set(found) == {f"arr_{index}" for index in range(len(inputs))}:
        return {name: found[f"arr_{index}"] for index, name in enumerate(inputs)}
    return found


def _fits(actual: tuple[int, ...], shape: tuple[int | str | None, ...]) -> bool:
    if len(actual) != len(shape):
        return False
    bound: dict[str, int] = {}
    for size, dim in zip(actual, shape, strict=True):
        if isinstance(dim, int) and size != dim:
            return False
        if isinstance(dim, str) and bound.setdefault(dim, size) != size:
            return False
    return True
