"""Columns: one named array of the user's data, of which rows can be read without reading the rest."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphopt.errors import DataError

__all__ = ["Column", "columns_of_array", "columns_of_npy", "columns_of_npz"]

Array = np.ndarray[Any, Any]

_OBJECTS = "Python objects are not read from files, because that can run code: save plain arrays"


@dataclass(frozen=True)
class Column:
    """A named array whose rows (along the first axis) can be read in order, `rows` at a time."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    array: Array | None = None
    path: Path | None = None
    member: str | None = None

    def whole(self) -> Array:
        """The array itself."""
        if self.array is not None:
            return self.array
        with self._open() as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    def blocks(self, rows: int) -> Iterator[Array]:
        """The array in blocks of `rows` rows, the last one possibly shorter."""
        if self.array is not None:
            for start in range(0, self.shape[0], rows):
                yield self.array[start : start + rows]
            return
        with self._open() as file:
            _, fortran, _ = _header(file)
            if fortran or self.dtype.hasobject:
                array = self.whole()
                yield from (array[start : start + rows] for start in range(0, self.shape[0], rows))
                return
            row = self.dtype.itemsize * math.prod(self.shape[1:])
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = file.read(count * row)
                if len(data) < count * row:
                    raise DataError(f"the array {self.name!r} ends too early", where=str(self.path))
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def _open(self) -> IO[bytes]:
        assert self.path is not None
        if self.member is None:
            return self.path.open("rb")
        return zipfile.ZipFile(self.path).open(self.member)


def columns_of_array(name: str, array: Array) -> list[Column]:
    """An array in memory as a column."""
    if array.dtype.kind == "U":
        array = array.astype(object)  # ONNX strings
    return [Column(name, array.dtype, array.shape, array)]


def columns_of_npy(path: Path, name: str) -> list[Column]:
    """A .npy file as a column with the given name."""
    with path.open("rb") as file:
        return [_column(file, name, path, None)]


def columns_of_npz(path: Path) -> list[Column]:
    """The arrays of a .npz file; only their headers are read here."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = []
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        found.append(_column(file, member.removesuffix(".npy"), path, member))
            return found
    except zipfile.BadZipFile:
        raise DataError("is not a .npz file", where=str(path), hint="write it with numpy.savez") from None


def _column(file: IO[bytes], name: str, path: Path, member: str | None) -> Column:
    try:
        shape, _, dtype = _header(file)
    except ValueError as error:
        raise DataError(f"the array {name!r} cannot be read: {error}", where=str(path)) from None
    if dtype.hasobject:
        raise DataError(f"the array {name!r} holds Python objects", where=str(path), hint=_OBJECTS)
    column = Column(name, dtype, shape, None, path, member)
    if dtype.kind == "U":  # ONNX strings are Python objects in numpy
        return columns_of_array(name, column.whole())[0]
    return column


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return tuple(shape), bool(fortran), dtype
