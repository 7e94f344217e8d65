"""Calibration in a file, for as many runs and targets as one likes: an .npz of plain numbers, no pickled objects.

What is watched for a file is more than one placement needs: all float values of the main graph and of bodies, with
statistics by channel where a weighted operator reads or writes. It fits a model with the same inputs and outputs, in
which values of the same names have the same shapes; weights do not count.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from graphopt.errors import DataError, UsageError
from graphopt.ir.files import Replacement
from graphopt.quant.calibrate import Calibration, Feeds
from graphopt.quant.channels import ChannelStatistics
from graphopt.quant.collect import Watch
from graphopt.quant.statistics import BINS, TensorStatistics
from graphopt.quant.within import graphs_of, in_order

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.ir.value import Value

__all__ = ["everything", "load_calibration", "obtain", "save_calibration"]

_FORMAT = 1
_HINT = "remove it, and it is written anew from the data"
_REAL = ("minimum", "maximum", "total", "squares", "low_sum", "high_sum")
_WHOLE = ("count", "nan", "inf", "batches", "exponent", "base")
_CHANNEL = ("minimum", "maximum", "total", "squares", "count")
_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}

_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)

Array = np.ndarray[Any, Any]


def everything(model: Model) -> list[Watch]:
    """What any placement could want to know of a model: its float values, by channel around weighted operators."""
    channels: dict[str, dict[int, None]] = {}
    for node in in_order(model):
        axis = _WEIGHTED.get(node.op) if node.is_standard else None
        for value in (*node.inputs[:1], *node.outputs[:1]):
            if axis is not None and value is not None and not value.is_const:
                channels.setdefault(value.name, {})[axis] = None
    found = []
    for value in _floats(model):
        found.append(Watch(value.name))
        found += [Watch(value.name, axis) for axis in channels.get(value.name, ())]
    return found


def obtain(
    model: Model,
    watches: Sequence[Watch | str],
    data: Iterable[Feeds] | None,
    path: Path | None,
    run: Callable[[Sequence[Watch | str]], Calibration],
) -> Calibration:
    """What `run` finds out about the watches; with a `path`, from that file, or with everything else into it.

    Raises what `run`, `load_calibration` and `save_calibration` raise; `UsageError` before the run if there is no
    folder for the file, and `DataError` if it holds guesses although there is `data`.
    """
    if path is None:
        return run(watches)
    if path.exists():
        found = load_calibration(path, model, watches)
        if found.synthetic and data is not None:
            raise DataError("holds the ranges of made-up inputs, and there is data now", where=str(path), hint=_HINT)
        return found
    if not path.parent.is_dir():
        hint = f"mkdir -p {path.parent}"
        raise UsageError("the folder of the calibration does not exist", where=str(path), hint=hint)
    found = run([*watches, *everything(model)])
    save_calibration(found, model, path)
    return found


def save_calibration(calibration: Calibration, model: Model, path: Path) -> None:
    """Write the statistics to `path`, whole or not at all. Raises `UsageError` if it cannot be written."""
    names = list(calibration.statistics)
    shapes = {value.name: _shape(value) for value in _floats(model)}
    kept = [calibration.statistics[name] for name in names]
    about = {
        "format": _FORMAT,
        "interface": _interface(model),
        "batches": calibration.batches,
        "synthetic": calibration.synthetic,
        "warnings": list(calibration.warnings),
        "values": [[name, shapes.get(name)] for name in names],
        "channels": list(calibration.along),
        "grams": list(calibration.products),
        "missing": dict(calibration.missing),
    }
    arrays: dict[str, Array] = {
        "about": np.array(json.dumps(about)),
        "real": np.array([[getattr(s, field) for field in _REAL] for s in kept], np.float64).reshape(-1, len(_REAL)),
        "whole": np.array([[getattr(s, field) for field in _WHOLE] for s in kept], np.int64).reshape(-1, len(_WHOLE)),
        "bins": np.array([s.bins for s in kept], np.int64).reshape(-1, BINS),
    }
    for number, statistics in enumerate(calibration.along.values()):
        for field in _CHANNEL:
            arrays[f"channel_{number}_{field}"] = getattr(statistics, field)
    for number, matrix in enumerate(calibration.products.values()):
        arrays[f"gram_{number}"] = matrix
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast(Any, arrays))
    with Replacement(path) as file:
        file.write(buffer.getbuffer())
        file.commit()


def load_calibration(path: Path, model: Model, watches: Iterable[Watch | str]) -> Calibration:
    """The statistics in `path`, which have at least what is watched.

    Raises `DataError` for a file that is damaged, not one of these, of another model, or without a value that is asked
    for.
    """
    about, arrays = _read(path)
    for kind, ours in _interface(model).items():
        ports = about["interface"][kind]
        if [name for name, _ in ports] != [name for name, _ in ours] or not all(
            _agree(a[1], b[1]) for a, b in zip(ports, ours, strict=True)
        ):
            what = f"is the calibration of another model: its {kind} are {_listed(ports)}, and here {_listed(ours)}"
            raise DataError(what, where=str(path), hint="give another file to --calibration")
    calibration = _calibration(about, arrays)
    shapes = {value.name: _shape(value) for value in _floats(model)}
    shapes |= {value.name: _shape(value) for value in model.main.inputs}
    theirs = dict(about["values"])
    for watch in watches:
        watch = Watch(watch) if isinstance(watch, str) else watch
        if watch.name in calibration.missing:
            continue
        if watch.name not in calibration.statistics:
            what = f"has no statistics of {watch.name!r}, which is in this model"
            raise DataError(what, where=str(path), hint=f"it is of another model, or of other passes: {_HINT}")
        if not _agree(theirs[watch.name], shapes.get(watch.name)):
            was, here = theirs[watch.name], shapes[watch.name]
            what = f"is the calibration of another model: {watch.name!r} is {was} there, and {here} here"
            raise DataError(what, where=str(path), hint="give another file to --calibration")
        for axis, found in ((watch.channels, calibration.along), (watch.gram, calibration.products)):
            if axis is not None and (watch.name, axis) not in found:
                what = f"has nothing about the channels of {watch.name!r} along axis {axis}"
                raise DataError(what, where=str(path), hint=_HINT)
    return calibration


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != _FORMAT:
            what = f"is of format {about['format']}, and this graphopt reads {_FORMAT}"
            raise DataError(what, where=str(path), hint=_HINT)
        _check(about, arrays)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except _DAMAGE:
        raise DataError("is damaged, or no calibration of graphopt's", where=str(path), hint=_HINT) from None
    return about, arrays


def _check(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Raises what `_read` takes for damage if the arrays do not belong together."""
    count = len(about["values"])
    wanted: list[tuple[str, str, tuple[int, ...]]] = [
        ("real", "f", (count, len(_REAL))), ("whole", "i", (count, len(_WHOLE))), ("bins", "i", (count, BINS))
    ]  # fmt: skip
    for number in range(len(about["channels"])):
        size = arrays[f"channel_{number}_count"].shape[0]
        wanted += [(f"channel_{number}_{f}", "i" if f == "count" else "f", (size,)) for f in _CHANNEL]
    for number in range(len(about["grams"])):
        size = arrays[f"gram_{number}"].shape[0]
        wanted.append((f"gram_{number}", "f", (size, size)))
    for name, kind, shape in wanted:
        if arrays[name].dtype.kind != kind or arrays[name].shape != shape:
            raise ValueError(name)
    if (arrays["bins"] < 0).any() or (arrays["whole"][:, :4] < 0).any() or np.isnan(arrays["real"]).any():
        raise ValueError("counts")
    if abs(arrays["whole"][:, 4]).max(initial=0) > 2048:
        raise ValueError("exponent")
    for kind in ("inputs", "outputs"):
        _listed(about["interface"][kind])


def _calibration(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Calibration:
    statistics = {}
    for number, (name, _) in enumerate(about["values"]):
        statistics[str(name)] = found = TensorStatistics()
        for field, real in zip(_REAL, arrays["real"][number], strict=True):
            setattr(found, field, float(real))
        for field, whole in zip(_WHOLE, arrays["whole"][number], strict=True):
            setattr(found, field, int(whole))
        found.bins = arrays["bins"][number]
    along = {}
    for number, (name, axis) in enumerate(about["channels"]):
        along[str(name), int(axis)] = channels = ChannelStatistics(int(axis))
        for field in _CHANNEL:
            setattr(channels, field, arrays[f"channel_{number}_{field}"])
    products = {(str(name), int(axis)): arrays[f"gram_{n}"] for n, (name, axis) in enumerate(about["grams"])}
    warnings = tuple(map(str, about["warnings"]))
    missing = {str(name): str(reason) for name, reason in dict(about.get("missing", {})).items()}
    batches, synthetic = int(about["batches"]), bool(about["synthetic"])
    return Calibration(statistics, batches, synthetic, warnings, along, products, missing)


def _floats(model: Model) -> Iterator[Value]:
    inputs = [value for graph in graphs_of(model) for value in graph.inputs]
    for value in (*inputs, *(output for node in in_order(model) for output in node.outputs)):
        constant = value.is_const or value.is_initializer
        if value.name and value.dtype is not None and value.dtype.name == "FLOAT" and not constant:
            yield value


def _interface(model: Model) -> dict[str, list[list[Any]]]:
    inputs = [value for value in model.main.inputs if not value.is_initializer]
    return {kind: [[v.name, _shape(v)] for v in values] for kind, values in
            (("inputs", inputs), ("outputs", model.main.outputs))}  # fmt: skip


def _shape(value: Value) -> list[int | None] | None:
    """The shape without its symbols, whose names passes may change."""
    shape: Sequence[Any] | None = value.shape
    return None if shape is None else [dim if isinstance(dim, int) else None for dim in shape]


def _agree(a: Sequence[int | None] | None, b: Sequence[int | None] | None) -> bool:
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def _listed(ports: Iterable[Sequence[Any]]) -> str:
    return ", ".join(f"{name!r} {shape}" for name, shape in ports) or "none"
