"""One measurement in a process of its own: `python -m tests.bench.child TOOL INPUT OUTPUT`, JSON on stdout.

Imports are done before the clock starts, and every tool has optimized one small model, so that what is
imported or compiled at the first use is not measured for anybody.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SMALL = Path(__file__).parents[2] / "fixtures" / "models" / "vit.onnx"


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
    with tempfile.TemporaryDirectory() as folder:
        run(str(SMALL), str(Path(folder) / "small.onnx"))
    start = time.perf_counter()
    run(source, output)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
