"""The optimizers that are compared, each as a function from file to file.

`python -m tests.bench.tools TOOL` reads lines of `INPUT<tab>OUTPUT` and answers each with a line of JSON: the seconds
it took, or the error. Imports, and one small model, come before the first answer, so that what is imported or
compiled at the first use is not measured for anybody.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Optimize = Callable[[str, str], None]
SMALL = Path(__file__).parents[2] / "fixtures" / "models" / "vit.onnx"


def graphopt(passes: str, verify: bool = False, target: str = "onnx") -> Optimize:
    import graphopt_passes.fuse
    import graphopt_passes.presets  # noqa: F401 - imports are not measured, for nobody

    import graphopt as g

    g.load, g.optimize  # noqa: B018 - the engine is loaded at the first use

    def run(source: str, output: str) -> None:
        g.optimize(source, passes, verify=verify, target=target).save(output)

    return run


def onnxsim() -> Optimize:
    import onnx
    import onnxsim as tool

    def run(source: str, output: str) -> None:
        model, ok = tool.simplify(onnx.load(source), check_n=0)
        assert ok
        onnx.save(model, output)

    return run


def onnxslim() -> Optimize:
    import onnxslim as tool

    def run(source: str, output: str) -> None:
        tool.slim(source, output)

    return run


def onnxscript() -> Optimize:
    import onnx_ir
    from onnxscript import optimizer

    def run(source: str, output: str) -> None:
        model = onnx_ir.load(source)
        optimizer.optimize(model)
        onnx_ir.save(model, output)

    return run


def ort(level: str) -> Optimize:
    import onnxruntime as tool

    def run(source: str, output: str) -> None:
        options = tool.SessionOptions()
        options.graph_optimization_level = getattr(tool.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = output
        options.log_severity_level = 4
        tool.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


TOOLS: dict[str, Callable[[], Optimize]] = {
    "graphopt": lambda: graphopt("fuse"),
    "graphopt-verified": lambda: graphopt("fuse", verify=True),
    "graphopt-O1": lambda: graphopt("O1"),
    "graphopt-O2": lambda: graphopt("O2"),
    "graphopt-O3": lambda: graphopt("O3"),
    "graphopt-O2-ort": lambda: graphopt("O2", target="ort-cpu"),
    "graphopt-O3-ort": lambda: graphopt("O3", target="ort-cpu"),
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxscript": onnxscript,
    "ort-basic": lambda: ort("BASIC"),
    "ort-extended": lambda: ort("EXTENDED"),
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some of them print, also in C++
    run = TOOLS[sys.argv[1]]()
    with tempfile.TemporaryDirectory() as folder:
        run(str(SMALL), str(Path(folder) / "small.onnx"))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        source, output = line.rstrip("\n").split("\t")
        start = time.perf_counter()
        try:
            run(source, output)
            answer: dict[str, object] = {"seconds": time.perf_counter() - start}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
