"""The executor: one child process for all that could crash, hang or eat the machine's memory.

ONNX Runtime dies of SIGFPE on an integer division by zero, a Loop can run for ever, and an output shape can
ask for exabytes. None of that may take the compiler down: here it becomes ExecutorDied, ExecutorTimeout or
another GraphoptError, and the next call finds a fresh process.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from graphopt.errors import GraphoptError
from graphopt.runtime.frames import Expired, read_frame, write_frame

__all__ = ["Executor", "ExecutorDied", "ExecutorError", "ExecutorTimeout", "executor"]

_STARTUP = 120.0  # seconds for a cold import of ONNX Runtime on a slow disk
_ROOT = Path(__file__).resolve().parents[2]


class ExecutorError(GraphoptError):
    """Something that was run in the child process did not come to a result."""


class ExecutorDied(ExecutorError):
    """The child process was killed by what it ran."""


class ExecutorTimeout(ExecutorError):
    """What the child process ran did not finish within its time."""


class Executor:
    """Calls functions in a child process that is started when first needed and restarted when it was lost.

    Safe to use from several threads; calls are carried out one after another.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._ready = False
        self._generation = 0

    @property
    def generation(self) -> int:
        """Counts the processes that were started; what an earlier one held (open sessions) is gone."""
        return self._generation

    @property
    def pid(self) -> int | None:
        """The process id of the child, None when there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def warm(self) -> None:
        """Start the child process without waiting for it."""
        if self._lock.acquire(blocking=False):  # otherwise somebody is using it already
            try:
                self._running()
            finally:
                self._lock.release()

    def call(
        self,
        function: str,
        *args: Any,
        timeout: float | None = None,
        memory: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `function` ("module:name") in the child process and return what it returns.

        `timeout` in seconds, not counting the start of the process; `memory` in bytes: how much
        more than it holds now the process may take meanwhile. Raises ExecutorDied, ExecutorTimeout, the
        GraphoptError that the function raised, or ExecutorError for any other exception in it.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            reader = process.stdout.fileno()
            doing = function.partition(":")[2].replace("_", " ").strip()
            try:
                if not self._ready:
                    read_frame(reader, time.monotonic() + _STARTUP)
                    self._ready = True
                deadline = None if timeout is None else time.monotonic() + timeout
                write_frame(process.stdin.fileno(), (function, args, kwargs, memory))
                reply = read_frame(reader, deadline)
            except (EOFError, BrokenPipeError):
                raise self._obituary(process, doing) from None
            except Expired:
                self._kill()
                seconds = f"{timeout:g}" if timeout is not None and self._ready else f"{_STARTUP:g}"
                raise ExecutorTimeout(
                    f"stopped after {seconds} s without a result",
                    where=doing,
                    hint="allow more time, or use a smaller input",
                ) from None
            except BaseException:  # also Ctrl-C: the reply would be taken for that of the next call
                self._kill()
                raise
        return _result(reply)

    def close(self) -> None:
        """End the child process; the next call starts another."""
        with self._lock:
            process = self._process
            if process is None:
                return
            assert process.stdin is not None
            process.stdin.close()  # the child ends at the end of its input
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                pass
            self._kill()

    def forget(self) -> None:
        """Let go of a child process that belongs to the process this one was forked from."""
        process, self._process = self._process, None
        self._lock = threading.RLock()  # another thread of the parent may have held it
        if process is not None:
            process.returncode = 0  # not ours to wait for
            _close_pipes(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "graphopt.runtime.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=_environment(),
        )
        self._ready = False
        self._generation += 1
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _obituary(self, process: subprocess.Popen[bytes], doing: str) -> ExecutorDied:
        code = process.wait()
        said = self._last_words()
        self._kill()
        end = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if -code == signal.SIGFPE:
            hint = "an integer was divided by zero, or the smallest integer by -1"
        elif -code == signal.SIGKILL:
            hint = "the system may have run out of memory"
        else:
            hint = said or "it said nothing before"
        return ExecutorDied(f"the process that runs models {end}", where=doing, hint=hint)

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


def executor() -> Executor:
    """The executor that the whole program shares."""
    return _shared


def _result(reply: tuple[Any, ...]) -> Any:
    kind, *rest = reply
    if kind == "ok":
        return rest[0]
    if kind == "error":
        raise rest[0]
    name, message, trace = rest
    if name == "MemoryError":
        raise ExecutorError("this needs more memory than it may take", hint="use a smaller input")
    error = ExecutorError(f"{name}: {message}" if message else name)
    error.add_note(trace)
    raise error


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    # Run from a checkout: the child must find the same one. Installed: it will, and site-packages on this
    # path would stand before the standard library.
    if not {"site-packages", "dist-packages"} & set(_ROOT.parts):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
    return environment


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


_shared = Executor()
atexit.register(_shared.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget)
