"""OpenVINO, in a child process: which kernels it makes of a model, and how long they take.

The package is an extra. What stands in this module runs in the child, but for the functions without `_here` in their
names.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import TargetError
from graphopt.runtime.executor import Executor, ExecutorError
from graphopt.runtime.speedup import PairTimes, Speedup, race, summarise

if TYPE_CHECKING:
    import onnx_ir as oir

    from graphopt.ir.model import Model

__all__ = ["Layer", "layers", "openvino_speedup"]

_HERE = "graphopt.runtime.openvino"

Feeds = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Layer:
    """A layer of OpenVINO's runtime model: its type (`Convolution`), the precision that it computes in (`u8`), the
    kernel (`brgconv_avx512_amx_I8`), and the operators that were merged in it, by their names in the file.
    """

    type: str
    precision: str
    kernel: str
    originals: tuple[str, ...]


def layers(model: Model, *, timeout: float = 300.0) -> list[Layer]:
    """What OpenVINO's CPU plugin makes of `model`, in the order of execution.

    Raises `TargetError` without the package, `ExecutorError` if it refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-openvino-") as folder:
        found: list[Layer] = _call("layers_here", _written(model.ir, Path(folder), 0), timeout=timeout)
    return found


def openvino_speedup(
    before: oir.Model,
    after: oir.Model,
    feeds: Feeds,
    limits: Sequence[float] = (1.0,),
    *,
    seconds: float = 4.0,
    timeout: float = 600.0,
) -> Speedup:
    """As `speedup`, under OpenVINO: one thread, and float32 where a model is float. Raises what `layers` raises."""
    with tempfile.TemporaryDirectory(prefix="graphopt-openvino-") as folder:
        paths = [_written(model, Path(folder), i) for i, model in enumerate((before, after))]
        times: PairTimes = _call("time_here", paths, dict(feeds), tuple(limits), seconds, timeout=timeout)
    return summarise(*times)


def _written(model: oir.Model, folder: Path, number: int) -> str:
    from graphopt.ir.save import write_model

    path = folder / f"model{number}.onnx"
    write_model(model, path)
    return os.fspath(path)


def _call(function: str, *args: Any, timeout: float) -> Any:
    if find_spec("openvino") is None:
        raise TargetError("OpenVINO is not installed", hint='install it: pip install "graphopt[openvino]"')
    child = Executor()  # of its own: two runtimes in one process would share a crash
    try:
        return child.call(f"{_HERE}:{function}", *args, timeout=timeout)
    finally:
        child.close()


def _compile(path: str, threads: int) -> Any:
    import openvino

    # Processors with bf16 would compute floats in it, and int8 would be compared with that.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        return openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExecutorError(f"OpenVINO refuses the model: {lines[-1] if lines else 'it gives no reason'}") from None


def layers_here(path: str) -> list[Layer]:
    """The layers of the compiled model."""
    found = []
    for op in _compile(path, 0).get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        text = {key: info[key].astype(str) if key in info else "" for key in
                ("layerType", "runtimePrecision", "primitiveType", "originalLayersNames")}  # fmt: skip
        originals = tuple(name for name in text["originalLayersNames"].split(",") if name)
        found.append(Layer(text["layerType"], text["runtimePrecision"], text["primitiveType"], originals))
    return found


def time_here(
    paths: list[str], feeds: dict[str, np.ndarray[Any, Any]], limits: tuple[float, ...], seconds: float
) -> PairTimes:
    """The seconds of each run of two models, pair by pair."""
    requests = [_compile(path, 1).create_infer_request() for path in paths]
    for request in requests:  # the first runs allocate
        request.infer(feeds)
        request.infer(feeds)
    return race([functools.partial(request.infer, feeds) for request in requests], limits, seconds)
