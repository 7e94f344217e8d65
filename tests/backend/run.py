"""Runs in the child process: a model by ONNX Runtime without its optimizations, or by the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

Results = dict[str, Any] | str
"""Outputs by name, or why there are none."""


def by_runtime(model: bytes, inputs: dict[str, Any]) -> Results:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:
        return str(error)[:300]


def by_reference(model: bytes, inputs: dict[str, Any]) -> Results:
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(model))
            return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
