"""A peer in a process of its own that takes one model after the other; started anew when it dies or hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class Worker:
    """One of `tests.bench.tools`. `timeout`: seconds for one model."""

    def __init__(self, tool: str, timeout: float = 300) -> None:
        self.tool = tool
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def optimize(self, source: Path, output: Path) -> dict[str, Any]:
        """`seconds` that the tool took for a model, or the `error` that it ended with."""
        output.unlink(missing_ok=True)
        if self._process is None:
            self._process = self._start()
        answer = self._ask(f"{source}\t{output}\n")
        if answer is None:
            self._process.kill()
            code = self._process.wait()
            self._process = None
            return {"error": f"it died or took longer than {self.timeout:.0f} s (exit {code})"}
        return answer

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.tools", self.tool], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{self.tool} cannot be run here")
        return process

    def _ask(self, line: str) -> dict[str, Any] | None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(self.timeout, process.kill)
        timer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        finally:
            timer.cancel()
        return json.loads(reply) if reply else None
