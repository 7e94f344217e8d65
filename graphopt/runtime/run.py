"""Running models from the parent's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from graphopt.runtime.executor import Executor, executor
from graphopt.runtime.package import Package
from graphopt.runtime.session import Options

__all__ = ["TIMEOUT", "Session", "open_session", "release_weights", "run_model"]

TIMEOUT = 300.0
"""Seconds that one run may take unless the caller says otherwise."""

Arrays = dict[str, np.ndarray[Any, Any]]


class Session:
    """A model that stays loaded in the child process; close it, or use it as a context manager.

    Opened again by itself when the process was lost in between (a crash or a timeout in another call).
    """

    def __init__(
        self, package: Package, options: Options, *, timeout: float, memory: int | None, executor: Executor
    ) -> None:
        self._package = package
        self._options = options
        self._timeout = timeout
        self._memory = memory
        self._executor = executor
        self._generation = -1
        self._number = 0
        self._open()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], fetch: Sequence[str] | None = None) -> Arrays:
        """The outputs by name (all of them, or those in `fetch`); raises ExecutorError."""
        if self._executor.pid is None or self._executor.generation != self._generation:
            self._open()
        found: Arrays = self._call("run", self._number, dict(feeds), None if fetch is None else list(fetch))
        return found

    def close(self) -> None:
        """Free the session; its weights stay loaded until another package or `release_weights`."""
        if self._executor.generation == self._generation and self._executor.pid is not None:
            self._call("unload", self._number)
        self._generation = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._number = self._call("load", self._package, self._options)
        self._generation = self._executor.generation

    def _call(self, name: str, *args: Any) -> Any:
        function = f"graphopt.runtime.session:{name}"
        return self._executor.call(function, *args, timeout=self._timeout, memory=self._memory)


def open_session(
    package: Package,
    *,
    optimized: bool = False,
    repeated: bool = False,
    threads: int = 0,
    timeout: float = TIMEOUT,
    memory: int | None = None,
) -> Session:
    """Load a model into the child process; raises ModelRefused.

    `optimized`: with ONNX Runtime's own optimizations. `repeated`: it will be run many times, so weights are
    packed for speed. `timeout` in seconds for each step, `memory` in bytes for what each step may add.
    """
    options = Options(optimized=optimized, repeated=repeated, threads=threads)
    return Session(package, options, timeout=timeout, memory=memory, executor=executor())


def run_model(
    package: Package,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    optimized: bool = False,
    fetch: Sequence[str] | None = None,
    timeout: float = TIMEOUT,
    memory: int | None = None,
) -> Arrays:
    """Load a model, run it once, and return its outputs by name; raises ExecutorError.

    An output that is a sequence comes as `name[0]`, `name[1]`, ...; a map as `name.keys` and `name.values`.
    """
    found: Arrays = executor().call(
        "graphopt.runtime.session:run_once",
        package,
        dict(feeds),
        Options(optimized=optimized),
        None if fetch is None else list(fetch),
        timeout=timeout,
        memory=memory,
    )
    return found


def release_weights() -> None:
    """Free the weights that the child process keeps for the next package, if there is a child process."""
    if executor().pid is not None:
        executor().call("graphopt.runtime.session:release", timeout=TIMEOUT)
