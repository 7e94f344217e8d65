"""Samples from the user: files, folders of files or of images, or Python; checked, and streamed in batches.

Files are read a batch at a time, from inside a .npz too. Nothing in them is executed: pickled objects are
refused. (`FILE.py:FUNCTION` is the user's own code, and is.) The first axis is understood from the shapes: see `Split`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import DataError
from graphopt.runtime.arrays import numpy_dtype
from graphopt.verify.columns import Column, columns_of_array, columns_of_npy, columns_of_npz
from graphopt.verify.images import SUFFIXES, column_of_images
from graphopt.verify.reader import is_reader, samples_of_reader
from graphopt.verify.recipe import Prepared, Recipe
from graphopt.verify.script import is_function, samples_of
from graphopt.verify.split import Split, Wanted

__all__ = ["Inputs", "load_data"]

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
Inputs = Mapping[str, tuple[Any, Sequence[Any] | None]]
"""Each input's dtype (ONNX's or numpy's) and shape: numbers, names or None; None where the rank is open."""

_KINDS = "give a .npz or .npy file, a folder of them, or from Python a list of dicts of arrays"
_UNPREPARED = "say how they become inputs: --preprocess resize=256,crop=224,scale=1/255,layout=nchw,rgb"


def load_data(spec: Any, inputs: Inputs, *, batch: int = 32) -> Iterable[Sample]:
    """The samples in `spec`: dicts with an array for each input, to iterate over as often as needed.

    `spec`: a path (.npz with an array for each input, .npy for a model of one input, or a folder of such
    files), `FILE.py:FUNCTION`, a dict of arrays, an array, an iterable of dicts, a function that returns one, or a
    reader of ONNX Runtime's quantizer; `Prepared` with the path of images. Where the model's first dimension is
    dynamic, rows come `batch` at a time. Arrays that no input asks for (labels, say) are left alone.

    Raises DataError here for what can be seen at once (missing names, dtypes, shapes) and while iterating for
    the rest (NaN and infinities, and all of that for iterables).
    """
    if not inputs:
        raise DataError("the model has no inputs to give data to")
    wanted = {name: (_numpy_dtype(dtype), _plain(shape)) for name, (dtype, shape) in inputs.items()}
    recipe = None
    if isinstance(spec, Prepared):
        spec, recipe = spec.data, spec.recipe
    if isinstance(spec, str | Path):
        if is_function(str(spec)):
            return _Stream(samples_of(str(spec)), wanted, batch)
        return _from_path(Path(spec), wanted, batch, recipe)
    if recipe is not None:
        hint = "give the path of an image, or of a folder of them"
        raise DataError("only images in files are preprocessed", hint=hint)
    if is_reader(spec):
        return _Stream(samples_of_reader(spec), wanted, batch)
    if isinstance(spec, np.ndarray):
        return _Checked([_lone_array(spec, wanted, batch)])
    if isinstance(spec, Mapping):
        columns = [column for name in spec for column in columns_of_array(str(name), np.asarray(spec[name]))]
        return _Checked([Split(columns, wanted, batch, "data")])
    if callable(spec):
        return _Stream(spec, wanted, batch)
    if isinstance(spec, Iterator):
        hint = "give a list, or a function that returns a fresh iterator"
        raise DataError("the data is an iterator, which can be read only once", hint=hint)
    if isinstance(spec, Iterable):
        return _Stream(lambda: spec, wanted, batch)
    raise DataError(f"data cannot be read from {type(spec).__name__}", hint=_KINDS)


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    return numpy_dtype(int(dtype)) if isinstance(dtype, int) else np.dtype(dtype)


def _plain(shape: Sequence[Any] | None) -> tuple[int | str | None, ...] | None:
    if shape is None:
        return None
    return tuple(dim if dim is None or isinstance(dim, int) else str(dim) for dim in shape)


class _Checked:
    """Samples of sources whose names, dtypes and shapes are already known to fit."""

    def __init__(self, parts: list[Split]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Sample]:
        for part in self._parts:
            yield from part


class _Stream:
    """Samples from Python: each item a dict of arrays that fit the inputs as they are."""

    def __init__(self, source: Callable[..., Any], inputs: Wanted, batch: int) -> None:
        self._source = source
        self._inputs = inputs
        self._batch = batch

    def __iter__(self) -> Iterator[Sample]:
        count = 0
        found = self._source()
        if not isinstance(found, Iterable):
            raise DataError(f"the function returned {type(found).__name__}, not samples", hint=_KINDS)
        for item in found:
            where = f"sample {count}"
            if isinstance(item, Mapping):
                columns = [c for name in item for c in columns_of_array(str(name), np.asarray(item[name]))]
                yield from Split(columns, self._inputs, self._batch, where)
            elif isinstance(item, np.ndarray):
                yield from _lone_array(item, self._inputs, self._batch, where)
            else:
                raise DataError(f"is {type(item).__name__}, not a dict of arrays", where=where, hint=_KINDS)
            count += 1
        if count == 0:
            raise DataError("the data has no samples")


def _from_path(path: Path, inputs: Wanted, batch: int, recipe: Recipe | None) -> Iterable[Sample]:
    if not path.exists():
        raise DataError("no such file", where=str(path), hint=_KINDS)
    if not path.is_dir() and not path.is_file():
        raise DataError("is not a regular file", where=str(path), hint=_KINDS)
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    arrays = [file for file in files if file.suffix in (".npz", ".npy")]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if arrays and images:
        raise DataError("both arrays and images are in this folder", where=str(path), hint="part them")
    if images:
        return _Checked([_from_images(images, path, inputs, batch, recipe)])
    if recipe is not None:
        raise DataError("there is no image to preprocess", where=str(path), hint="leave --preprocess out")
    if not arrays and path.is_dir():
        raise DataError("no .npz or .npy file and no image is in this folder", where=str(path), hint=_KINDS)
    if not arrays:
        raise DataError(f"cannot read data of kind {path.suffix or 'unknown'!r}", where=str(path), hint=_KINDS)
    return _Checked([_from_file(file, inputs, batch) for file in arrays])


def _from_images(images: list[Path], path: Path, inputs: Wanted, batch: int, recipe: Recipe | None) -> Split:
    if recipe is None:
        raise DataError("images are no arrays yet", where=str(path), hint=_UNPREPARED)
    name = _only_input(inputs, str(path))
    return Split([column_of_images(images, recipe, name, inputs[name][0])], inputs, batch, str(path))


def _from_file(path: Path, inputs: Wanted, batch: int) -> Split:
    if path.suffix == ".npz":
        return Split(columns_of_npz(path), inputs, batch, str(path))
    return Split(columns_of_npy(path, _only_input(inputs, str(path))), inputs, batch, str(path))


def _lone_array(array: Array, inputs: Wanted, batch: int, where: str = "data") -> Split:
    columns: list[Column] = columns_of_array(_only_input(inputs, where), array)
    return Split(columns, inputs, batch, where)


def _only_input(inputs: Wanted, where: str) -> str:
    if len(inputs) > 1:
        hint = f"give a .npz file or a dict with an array for each: {', '.join(sorted(inputs))}"
        raise DataError(f"one array, but the model has {len(inputs)} inputs", where=where, hint=hint)
    return next(iter(inputs))
