"""The quantizers that are compared, each as a function from file and samples to file.

`python -m tests.bench.quant.quantizers TOOL MODEL SAMPLES.npz OUTPUT` prints JSON: the seconds it took (`made`) without imports,
and the peak resident bytes of its process and of the children that it waited for. All get the same batches: single
samples where the model's batch is fixed, else 32 at a time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx

Batches = list[dict[str, Any]]
Quantize = Callable[[str, Batches, str], None]
ROWS = 32


def batches_of(model: str, samples: str) -> Batches:
    """The batches in a file of arrays whose first axis counts samples."""
    inputs = {i.name: i for i in onnx.load(model, load_external_data=False).graph.input}
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files if name in inputs}
    fixed = [d.dim_value for i in inputs.values() if (d := i.type.tensor_type.shape.dim[0]).HasField("dim_value")]
    rows = min(fixed, default=ROWS)
    count = min(len(a) for a in arrays.values())
    if fixed:
        count -= count % rows
    return [{n: a[i : min(i + rows, count)] for n, a in arrays.items()} for i in range(0, count, rows)]


class Reader:
    """Batches for ONNX Runtime's calibrators."""

    def __init__(self, batches: Batches) -> None:
        self._left: Iterator[dict[str, Any]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def graphopt(passes: str, target: str = "ort-cpu", **options: Any) -> Quantize:
    import graphopt_passes.presets
    import graphopt_passes.quant  # noqa: F401 - imports are not measured, for nobody

    import graphopt as g
    from graphopt.quant import goals

    g.load, g.optimize  # noqa: B018 - the engine is loaded at the first use
    untimed = mock.patch.object(goals._Work, "verdict", lambda *_: goals.unmeasured("not asked here"))

    def run(model: str, batches: Batches, output: str) -> None:
        with untimed:  # the others do not time what they make, either
            g.optimize(model, passes, target=target, data=batches, verify=False, **options).save(output)

    return run


def ort(*, best: bool, transformer: bool = False) -> Quantize:
    """`quantize_static` with its defaults, or with what is fastest on x86: U8S8, a scale per channel, after
    `quant_pre_process`; for transformers only the weighted operators, without Q behind MatMul.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def run(model: str, batches: Batches, output: str) -> None:
        options: dict[str, Any] = {}
        if best:
            options = {"activation_type": q.QuantType.QUInt8, "weight_type": q.QuantType.QInt8, "per_channel": True}
        if transformer:
            options["op_types_to_quantize"] = ["Conv", "Gemm", "MatMul"]
            options["extra_options"] = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
        with tempfile.TemporaryDirectory() as folder:
            source = model
            if best:
                source = str(Path(folder) / "prepared.onnx")
                try:
                    quant_pre_process(model, source)
                except Exception:  # where it cannot follow the shapes
                    quant_pre_process(model, source, skip_symbolic_shape=True)
            try:
                q.quantize_static(source, output, Reader(batches), **options)
            except ValueError:  # 1.31 stumbles over some biases of weights with a scale per channel
                q.quantize_static(source, output, Reader(batches), **{**options, "per_channel": False})

    return run


def onnxsim(*, full: bool) -> Quantize:
    import onnxsim as tool

    def run(model: str, batches: Batches, output: str) -> None:
        simplified, _ = tool.simplify(onnx.load(model), check_n=0)
        onnx.save(tool.quantize_static(simplified, batches, full_graph=full), output)

    return run


def nncf(*, transformer: bool = False) -> Quantize:
    import nncf as tool

    def run(model: str, batches: Batches, output: str) -> None:
        kind = tool.ModelType.TRANSFORMER if transformer else None
        data = tool.Dataset(batches)
        onnx.save(tool.quantize(onnx.load(model), data, model_type=kind, subset_size=len(batches)), output)

    return run


TOOLS: dict[str, Callable[[], Quantize]] = {
    "float": lambda: graphopt("fuse"),
    "graphopt": lambda: graphopt("fuse,quant", force=True),
    "ort-default": lambda: ort(best=False),
    "ort-best": lambda: ort(best=True),
    "ort-best-transformer": lambda: ort(best=True, transformer=True),
    "onnxsim": lambda: onnxsim(full=False),
    "onnxsim-full": lambda: onnxsim(full=True),
    "nncf": nncf,
    "nncf-transformer": lambda: nncf(transformer=True),
}


def main() -> None:
    tool, model, samples, output = sys.argv[1:]
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some of them print, also in C++
    run = TOOLS[tool]()
    batches = batches_of(model, samples)
    start = time.perf_counter()
    run(model, batches, output)
    seconds = time.perf_counter() - start
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    print(json.dumps({"made": seconds, "peak": peak}), file=answer, flush=True)


if __name__ == "__main__":
    main()
