"""One measurement in a process of its own: `python -m tests.bench.child TOOL INPUT OUTPUT`, JSON on stdout.

Imports are done before the clock starts. The peak counts the process and its children together,
sampled every 5 ms, as resident memory without what is shared between them being told apart.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

import psutil


class Peak:
    """The most resident memory, in bytes, of this process and its children while it is watched."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._sample()

    def _sample(self) -> None:
        total = 0
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.bytes = max(self.bytes, total)


def graphopt(passes: str, verify: bool) -> Callable[[str, str], None]:
    import graphopt_passes.fuse
    import graphopt_passes.presets  # noqa: F401 - imports are not measured, for nobody

    import graphopt as g

    g.load, g.optimize  # noqa: B018 - the engine is loaded at the first use

    def run(source: str, output: str) -> None:
        g.optimize(source, passes, verify=verify).save(output)

    return run


def onnxsim() -> Callable[[str, str], None]:
    import onnx
    import onnxsim as tool

    def run(source: str, output: str) -> None:
        model, ok = tool.simplify(onnx.load(source), check_n=0)
        assert ok
        onnx.save(model, output)

    return run


def onnxslim() -> Callable[[str, str], None]:
    import onnxslim as tool

    def run(source: str, output: str) -> None:
        tool.slim(source, output)

    return run


def onnxscript() -> Callable[[str, str], None]:
    import onnx_ir
    from onnxscript import optimizer

    def run(source: str, output: str) -> None:
        model = onnx_ir.load(source)
        optimizer.optimize(model)
        onnx_ir.save(model, output)

    return run


TOOLS: dict[str, Callable[[], Callable[[str, str], None]]] = {
    "graphopt": lambda: graphopt("fuse", verify=False),
    "graphopt-verified": lambda: graphopt("fuse", verify=True),
    "graphopt-O2": lambda: graphopt("O2", verify=False),
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxscript": onnxscript,
}


def main() -> None:
    tool, source, output = sys.argv[1:]
    run = TOOLS[tool]()
    with Peak() as peak:
        start = time.perf_counter()
        run(source, output)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak.bytes}))


if __name__ == "__main__":
    main()
