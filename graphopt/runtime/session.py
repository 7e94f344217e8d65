"""Sessions of ONNX Runtime. Runs in the child process only.

Weights lie once in aligned memory that all sessions share. With optimizations off, a session refers to that
memory and copies nothing: each weight is declared as external data of a placeholder file and supplied under
its name (`add_initializer`), so ONNX Runtime never opens the file. With optimizations on, constants must be
readable while the graph is rewritten, so they are injected, which copies them.

Measured on a 432 MB transformer: 0.06 s and no memory to open a session that way, against 0.4 s and 430 MB
with injection. Prepacking of weights is left out unless the session is for many runs: it costs 0.5 s and
330 MB here, and saves 0.06 s per run.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime import arrays
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.package import PLACEHOLDER, Package, Weight
from graphopt.runtime.weights import Bytes, Store

__all__ = [
    "ModelRefused",
    "Options",
    "RunFailed",
    "build",
    "load",
    "read_weights",
    "release",
    "run",
    "run_once",
    "unload",
]

# It removes a Relu in front of a QuantizeLinear whose zero point is 0, taking float8 for uint8 (ONNX Runtime 1.31.1).
_NOT_FOR_FLOAT8 = ["ReluQuantRewrite"]

Arrays = dict[str, np.ndarray[Any, Any]]


class ModelRefused(ExecutorError):
    """The runtime does not load the model; the message is the runtime's own."""


class RunFailed(ExecutorError):
    """The runtime loaded the model, but not these inputs through it."""


@dataclass(frozen=True)
class Options:
    """How to open a session.

    `optimized`: with all of the runtime's own optimizations; otherwise none. `repeated`: for many runs, so
    that preparation pays. `threads`: 0 leaves the number to the runtime. `spin`: its threads wait busily for the next
    run, as they do in use; otherwise they would only take the processor from the caller. `dump`: where to write the
    optimized model.
    """

    optimized: bool = False
    repeated: bool = False
    threads: int = 0
    spin: bool = False
    dump: str | None = None


class Open:
    """An ONNX Runtime session, with the memory that it refers to."""

    def __init__(self, session: Any, package: Package, memory: list[Any], folder: Any) -> None:
        self.session = session
        self._inputs = {port.name: port.dtype for port in package.inputs}
        self.outputs = [output.name for output in session.get_outputs()]
        self._memory = memory
        self._folder = folder  # the placeholder file may be mapped as long as the session lives
        types = [*self._inputs.values(), *(port.dtype for port in package.outputs)]
        self._values = any(map(arrays.needs_values, types)) or _exotic(session)

    def run(self, feeds: Arrays, fetch: list[str] | None = None) -> Arrays:
        """Run once; raises RunFailed."""
        names = self.outputs if fetch is None else fetch
        feeds = {name: np.asarray(array) for name, array in feeds.items()}
        try:
            if self._values:
                values = {name: arrays.to_value(array, self._dtype(name)) for name, array in feeds.items()}
                found = [arrays.to_numpy(value) for value in self.session.run_with_ort_values(names, values)]
            else:
                found = self.session.run(names, feeds)
        except MemoryError:
            raise RunFailed("the model asks for more memory than it may take") from None
        except Exception as error:
            raise RunFailed(_said(error)) from None
        return {
            key: array
            for name, value in zip(names, found, strict=True)
            for key, array in arrays.flatten(name, value).items()
        }

    def _dtype(self, name: str) -> int:
        dtype = self._inputs.get(name)
        if dtype is None:
            raise TypeError(f"the type of input {name!r} is not known")
        return dtype


def build(package: Package, options: Options) -> Open:
    """Open a session; raises ModelRefused."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    if not options.spin:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Between runs they sleep: other sessions of this process may be timed then.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.optimized else levels.ORT_DISABLE_ALL
    if package.float8:  # they would become QLinearConv and the like, which take integers only
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.intra_op_num_threads = options.threads
    settings.enable_cpu_mem_arena = settings.enable_mem_pattern = options.repeated
    if not options.repeated:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.dump is not None:
        settings.optimized_model_filepath = options.dump
        entry = "session.optimized_model_external_initializers_"
        settings.add_session_config_entry(entry + "file_name", Path(options.dump).name + ".data")
        settings.add_session_config_entry(entry + "min_size_in_bytes", "1024")
    folder = tempfile.TemporaryDirectory(prefix="graphopt-")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder.name)
    data = _store.load(package.weights)
    _lay_out(Path(folder.name) / PLACEHOLDER, package.weights, data)
    values = [
        _value(weight, memory)
        for weight, memory in zip(package.weights, data, strict=True)
        if not weight.packed
    ]
    names = [weight.name for weight in package.weights if not weight.packed]
    if options.optimized:
        settings.add_external_initializers(names, values)
    else:
        for name, value in zip(names, values, strict=True):
            settings.add_initializer(name, value)
    try:
        session = ort.InferenceSession(
            package.proto,
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_NOT_FOR_FLOAT8 if package.float8 else None,
        )
    except MemoryError:
        raise ModelRefused("the model asks for more memory than it may take") from None
    except Exception as error:
        raise ModelRefused(_said(error)) from None
    return Open(session, package, [*data, *values], folder)


def load(package: Package, options: Options) -> int:
    """Open a session that stays open, and return its number."""
    number = next(_numbers)
    _open[number] = build(package, options)
    return number


def run(number: int, feeds: Arrays, fetch: list[str] | None = None) -> Arrays:
    """Run an open session."""
    return _open[number].run(feeds, fetch)


def unload(number: int) -> None:
    """Close an open session; its weights stay for the next package that has them too."""
    _open.pop(number, None)


def run_once(package: Package, feeds: Arrays, options: Options, fetch: list[str] | None = None) -> Arrays:
    """Open a session, run it once, and close it."""
    return build(package, options).run(feeds, fetch)


def release() -> None:
    """Let go of all weights that no open session uses."""
    _store.clear()


def read_weights(weights: Iterable[Weight]) -> list[Bytes]:
    """The bytes of weights, from the same store."""
    return _store.load(weights)


def _lay_out(path: Path, weights: tuple[Weight, ...], data: list[Bytes]) -> None:
    """Make the placeholder file: a hole, but for what no OrtValue can hold (several elements in a byte)."""
    with path.open("wb") as file:
        offset = 0
        for weight, memory in zip(weights, data, strict=True):
            if weight.packed:
                file.seek(offset)
                file.write(memory.data)
            offset += -(-weight.length // 4096) * 4096
        file.truncate(offset)


def _value(weight: Weight, memory: Bytes) -> Any:
    array = memory.view(arrays.numpy_dtype(weight.dtype)).reshape(weight.shape)
    return arrays.to_value(array, weight.dtype)


def _exotic(session: Any) -> bool:
    """Whether an output that the model declares without a type turned out to need values."""
    return any(word in output.type for output in session.get_outputs() for word in ("bfloat16", "float8"))


def _said(error: Exception) -> str:
    """ONNX Runtime's message without its decoration: `[ONNXRuntimeError] : 1 : FAIL : ...`."""
    text = str(error).strip()
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return " ".join(text.split()) or type(error).__name__


_store = Store()
_open: dict[int, Open] = {}
_numbers = itertools.count(1)
