"""Readers of calibration data as ONNX Runtime's quantizer takes them: `get_next()` gives dicts until it gives None.

Samples are needed more than once: to calibrate, to verify, to search. A reader that has `rewind()` is rewound before
each time but the first. Any other can be read once only, as most are: what it gives goes into a temporary file on the
way, and comes from there the next time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from graphopt.errors import DataError, GraphoptError

__all__ = ["is_reader", "samples_of_reader"]

Sample = dict[str, "np.ndarray[Any, Any]"]


def is_reader(source: object) -> bool:
    """Whether an object is such a reader."""
    return callable(getattr(source, "get_next", None))


def samples_of_reader(reader: Any) -> Any:
    """A function that returns an iterator over all samples of the reader, each time it is called."""
    return _Rewound(reader) if callable(getattr(reader, "rewind", None)) else _Recorded(reader)


class _Rewound:
    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._used = False

    def __call__(self) -> Iterator[Any]:
        if self._used:
            _ask(self._reader.rewind, "rewind")
        self._used = True
        while (item := _ask(self._reader.get_next, "get_next")) is not None:
            yield item


class _Recorded:
    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the data
        self._places: list[tuple[int, list[str]]] = []
        self._end = 0

    def __call__(self) -> Iterator[Any]:
        count = 0
        while count < len(self._places) or self._record():
            yield self._read(*self._places[count])
            count += 1

    def _record(self) -> bool:
        """Whether there was another sample; it is the last in the file now."""
        item = _ask(self._reader.get_next, "get_next")
        if item is None:
            return False
        if not isinstance(item, Mapping):
            what = f"get_next() returned {type(item).__name__}, not a dict of arrays or None"
            raise DataError(what, where=f"sample {len(self._places)}")
        self._file.seek(self._end)
        for name, array in item.items():
            try:
                np.save(self._file, np.asarray(array), allow_pickle=False)
            except ValueError:
                hint = "give the reader a rewind(), and it need not be recorded"
                raise DataError(f"the array for {name!r} cannot be recorded", where=_name(self), hint=hint) from None
        self._places.append((self._end, [str(name) for name in item]))
        self._end = self._file.tell()
        return True

    def _read(self, start: int, names: list[str]) -> Sample:
        self._file.seek(start)
        return {name: np.load(self._file, allow_pickle=False) for name in names}


def _ask(method: Any, name: str) -> Any:
    try:
        return method()
    except GraphoptError:
        raise
    except Exception as error:
        raise DataError(f"{name}() raised {type(error).__name__}: {error}", where=_name(method)) from error


def _name(found: Any) -> str:
    owner = getattr(found, "__self__", getattr(found, "_reader", found))
    return type(owner).__name__
