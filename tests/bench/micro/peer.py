"""One tool over many small models, in a process of its own: `python -m tests.bench.micro.peer TOOL FOLDER`.

Each `FOLDER/*.onnx` becomes `FOLDER/TOOL/*.onnx`; where the tool raises, a file with the error stands there instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx

Tool = Callable[[Path, Path], None]


def onnxsim() -> Tool:
    import onnxsim as tool

    def run(source: Path, output: Path) -> None:
        model, _ = tool.simplify(onnx.load(source), check_n=0)
        onnx.save(model, output)

    return run


def onnxslim() -> Tool:
    import onnxslim as tool

    def run(source: Path, output: Path) -> None:
        onnx.save(tool.slim(onnx.load(source)), output)

    return run


def onnxscript() -> Tool:
    import onnx_ir
    from onnxscript import optimizer

    def run(source: Path, output: Path) -> None:
        model = onnx_ir.load(source)
        optimizer.optimize(model)
        onnx_ir.save(model, output)

    return run


def ort(level: str) -> Tool:
    import onnxruntime

    def run(source: Path, output: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(output)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


PEERS: dict[str, Callable[[], Tool]] = {
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxscript": onnxscript,
    "ort-basic": lambda: ort("BASIC"),
    "ort-extended": lambda: ort("EXTENDED"),
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    run = PEERS[name]()
    (folder / name).mkdir(exist_ok=True)
    for source in sorted(folder.glob("*.onnx")):
        try:
            run(source, folder / name / source.name)
        except Exception as error:
            (folder / name / source.name).with_suffix(".error").write_text(str(error))


if __name__ == "__main__":
    main()
