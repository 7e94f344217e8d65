"""The child process: carries out calls, one at a time, and lives no longer than its parent.

Standard input brings requests, standard output takes replies. Both are moved to other descriptors at once, so
whatever a library prints goes to standard error, which the parent keeps in a file. A thread does nothing but
read requests: the moment the parent is gone it sees the end of the pipe and ends the process, even if a model
is running.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import threading
import traceback
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.runtime.frames import read_frame, write_frame
from graphopt.runtime.limits import allowance, limit

__all__ = ["main"]


def main() -> None:
    """Serve until the parent closes the pipe."""
    requests, replies = _claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends us if it must
    limit()
    inbox: queue.SimpleQueue[tuple[str, tuple[Any, ...], dict[str, Any], int | None]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    _preload()
    write_frame(replies, ("ready", os.getpid()))
    while True:
        _reply(replies, _carry_out(*inbox.get()))


def _claim_pipes() -> tuple[int, int]:
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, replies


def _listen(fd: int, inbox: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            inbox.put(read_frame(fd))
        except (EOFError, OSError):
            os._exit(0)


def _preload() -> None:
    """Import the runtime now, while the parent is still busy with the model."""
    try:
        importlib.import_module("graphopt.runtime.session")
        importlib.import_module("onnxruntime")
    except ImportError:
        pass  # the call that needs it will say so


def _carry_out(function: str, args: tuple[Any, ...], kwargs: dict[str, Any], memory: int | None) -> Any:
    module, _, name = function.partition(":")
    try:
        target = getattr(importlib.import_module(module), name)
        with allowance(memory):
            return "ok", target(*args, **kwargs)
    except GraphoptError as error:
        return "error", error
    except BaseException as error:
        return "failed", type(error).__name__, str(error), traceback.format_exc()


def _reply(fd: int, reply: Any) -> None:
    try:
        write_frame(fd, reply)
    except OSError:
        os._exit(0)  # nobody is left to read it
    except Exception as error:  # the value cannot be pickled
        write_frame(fd, ("failed", type(error).__name__, str(error), traceback.format_exc()))


if __name__ == "__main__":
    main()
