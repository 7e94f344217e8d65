"""Other people's optimizers: programs that read a model file and write another, run in a process of their own.

They may crash, hang, or take all memory; here that is an error that names them, and the model is as it was. The
process of a tool serves its next run, too, for some take seconds to be imported; it ends after a run that failed, and
after one with a large model, whose memory it would keep.
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as oir

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.load import read_model
from graphopt.ir.save import write_model
from graphopt.runtime.executor import Executor, ExecutorDied, ExecutorError, ExecutorTimeout

_LARGE = 1 << 28  # bytes of weights from which on they go to a file of their own: messages hold no more than 2 GB


class ToolError(GraphoptError):
    """Another optimizer failed, crashed, took too long, or wrote something that is no model."""


@dataclass(frozen=True)
class Tool:
    """A function that optimizes a model file, and the package that it needs.

    `function`, written "module:name", is called in a process of its own with the path of a model, the path at which to
    write the result, and the options of the run; it may raise anything. Its module has to be installed. `package` is
    the module that it imports, `install` what brings it, as in `pip install`.
    """

    name: str
    function: str
    package: str
    install: str

    def require(self) -> None:
        """Raise `UsageError` if the package is not installed; nothing is imported."""
        require_package(self.name, self.package, self.install)

    @property
    def version(self) -> str:
        """The package with its version, as in `onnxsim 0.8.1`."""
        return _version(self.package)

    def run(self, model: oir.Model, *, timeout: float = 600.0, **options: Any) -> oir.Model:
        """What the tool makes of a model, which is not changed.

        `timeout` in seconds. Both models lie in files meanwhile, in a folder of temporary files that needs room for
        them; the weights of the result stay in its file, which exists as long as they are needed. Raises
        `ToolError` that names the tool if it raises, crashes, runs out of time, or writes no valid model.
        """
        self.require()
        large = model_bytes(model) >= _LARGE
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            source, target = Path(folder, "model.onnx"), Path(folder, "result.onnx")
            write_model(model, source, external=large or None)
            self._call(source, target, timeout, options, keep=not large)
            if not target.is_file():
                raise self._failed("wrote no model")
            try:
                return read_model(target)[0]
            except GraphoptError as error:
                raise self._failed(f"wrote a model that cannot be read: {error.what}") from error

    def _call(self, source: Path, target: Path, timeout: float, options: dict[str, Any], *, keep: bool) -> None:
        process = _process(self.function)
        done = False
        try:
            process.call(self.function, str(source), str(target), timeout=timeout, **options)
            done = True
        except ExecutorTimeout:
            raise self._failed(f"was stopped after {timeout:g} s without a result", "allow more: timeout=") from None
        except ExecutorDied as error:
            end = error.what.removeprefix("the process that runs models ")
            raise self._failed(f"crashed: its process {end}") from error
        except ExecutorError as error:
            raise self._failed(f"failed: {' '.join(error.what.split())}") from error
        finally:
            if not (done and keep):
                process.close()

    def _failed(self, what: str, hint: str | None = None) -> ToolError:
        rest = "leave the pass out, or report it to the authors of the tool"
        return ToolError(f"{self.version} {what}", where=f"pass {self.name!r}",
                             hint=f"{hint}, or leave the pass out" if hint else rest)


def require_package(name: str, package: str, install: str) -> None:
    """Raise `UsageError` if the pass `name` cannot import `package`, which `pip install` of `install` brings."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"the pass {name!r} needs the package {package!r}, which is not installed",
            hint=f"pip install '{install}'",
        )


def model_bytes(model: oir.Model) -> int:
    """Bytes of the initializers of the main graph."""
    values = model.graph.initializers.values()
    return sum(int(v.const_value.nbytes) for v in values if v.const_value is not None)


@functools.cache
def _process(function: str) -> Executor:
    """The process of one tool: nothing that a tool does to its process reaches another."""
    del function  # the key
    process = Executor()
    atexit.register(process.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=process.forget)
    return process


@functools.cache
def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
