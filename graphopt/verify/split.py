"""From the columns of one source to samples that fit the model's inputs.

For each input, its column is one of
  rows     same rank, and the first axis holds more rows than the model takes at once, or is dynamic there;
  samples  one axis more than the input: the first one counts samples;
  whole    exactly the input: the same array for each sample.
Inputs that are not whole must agree on the number of samples. Where all of them are dynamic, `batch` rows make a
sample; where only some are, one row does. Where dynamic inputs of different symbols have different numbers of rows,
such as the nodes and the edges of a graph, the source is one sample.
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
        self._inputs = inputs
        self._columns = _by_name(columns, inputs)
        self._index: set[str] = set()  # inputs whose column has an axis more
        self._steps: dict[str, int | None] = {}  # rows that make a sample; 0: all of them; None: as many as you like
        for name, (dtype, shape) in inputs.items():
            if name not in self._columns:
                hint = nearest(name, self._columns) if self._columns else "there is no array at all"
                raise DataError(f"no array for the input {name!r}", where=where, hint=hint)
            self._check_dtype(name, dtype)
            self._steps[name] = self._step(name, shape)
        self._batch = 1 if any(self._steps.values()) else batch
        self.count = self._agree()

    def __iter__(self) -> Iterator[dict[str, Array]]:
        whole = {name: self._columns[name].whole() for name, step in self._steps.items() if step == 0}
        parts = {
            name: self._columns[name].blocks(self._batch if step is None else step)
            for name, step in self._steps.items()
            if step != 0
        }
        for number in range(self.count):
            yield {
                name: self._array(name, whole[name] if name in whole else next(parts[name]), number)
                for name in self._steps
            }

    def _array(self, name: str, array: Array, number: int) -> Array:
        if name in self._index:
            array = array[0]
        if array.dtype.kind == "V":  # how numpy saves bfloat16 and float8
            array = array.view(self._inputs[name][0])
        self._check_values(name, array, number)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def _step(self, name: str, shape: Shape) -> int | None:
        actual = self._columns[name].shape
        if shape is None or actual == shape == ():
            return 0
        if len(actual) == len(shape) + 1 and _fits(actual[1:], shape):
            self._index.add(name)
            return 1
        if len(actual) != len(shape) or not _fits(actual[1:], shape[1:]):
            raise self._misfit(name, shape)
        first = shape[0]
        if not isinstance(first, int):
            return None
        if actual[0] == first:
            return 0
        if first < 1 or actual[0] % first:
            raise self._misfit(name, shape)
        return first

    def _agree(self) -> int:
        """The number of samples, in which all inputs must agree."""
        rows = {name: self._columns[name].shape[0] // (step or 1) for name, step in self._steps.items() if step != 0}
        if len(set(rows.values())) > 1 and self._free(rows):
            self._steps, rows = dict.fromkeys(self._steps, 0), {}
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{name!r} {count}" for name, count in rows.items())
            raise DataError(f"the inputs have different numbers of samples: {told}", where=self._where)
        count = -(-next(iter(rows.values()), self._batch) // self._batch)
        if count == 0:
            raise DataError("there are no samples in it", where=self._where)
        return count

    def _free(self, rows: Mapping[str, int]) -> bool:
        """Whether inputs with other numbers of rows have other dynamic sizes there, so that they need not agree."""
        counts: dict[str, int] = {}
        for name, count in rows.items():
            first = (self._inputs[name][1] or (None,))[0]
            if self._steps[name] is not None or (isinstance(first, str) and counts.setdefault(first, count) != count):
                return False
        return True

    def _check_dtype(self, name: str, dtype: np.dtype[Any]) -> None:
        actual = self._columns[name].dtype.newbyteorder("=")
        if actual == dtype or (actual.kind == "V" == dtype.kind and actual.itemsize == dtype.itemsize):
            return
        hint = f"convert it first: array.astype({dtype.name!r})" if (actual.name, dtype.name) in _CASTS else None
        what = f"the array for {name!r} is {actual.name}, but the input takes {dtype.name}"
        raise DataError(what, where=self._where, hint=hint)

    def _check_values(self, name: str, array: Array, number: int) -> None:
        if array.dtype.kind not in "fcV":
            return
        finite = np.isfinite(array)
        if finite.all():
            return
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        value = "NaN" if np.isnan(array[place]) else "an infinity"
        what = f"the array for {name!r} has {value} at {list(place)} of sample {number}"
        raise DataError(what, where=self._where)

    def _misfit(self, name: str, shape: tuple[int | str | None, ...]) -> DataError:
        wanted = "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
        what = f"the array for {name!r} has shape {list(self._columns[name].shape)}, but the input takes {wanted}"
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
