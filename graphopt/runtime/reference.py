"""The second executor: onnx's reference evaluator. Slow and plain; it settles disputes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.runtime import arrays, session
from graphopt.runtime.package import Package

__all__ = ["run_reference"]

Arrays = dict[str, np.ndarray[Any, Any]]


def run_reference(package: Package, samples: list[Arrays]) -> list[Arrays]:
    """Runs in the child: the outputs for each sample; raises ModelRefused or RunFailed.

    Weights enter as inputs of the graph, so the evaluator does not copy them either.
    """
    from onnx.reference import ReferenceEvaluator

    proto = onnx.ModelProto.FromString(package.proto)
    weights: Arrays = {}
    for weight, memory in zip(package.weights, session.read_weights(package.weights), strict=True):
        if weight.packed:
            raise session.ModelRefused("the reference evaluator is not given types that share a byte")
        weights[weight.name] = memory.view(arrays.numpy_dtype(weight.dtype)).reshape(weight.shape)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.dtype, weight.shape))
    small = [initializer for initializer in proto.graph.initializer if initializer.name not in weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(small)
    try:
        evaluator = ReferenceEvaluator(proto)
    except Exception as error:
        raise session.ModelRefused(_said(error)) from None
    try:
        with np.errstate(all="ignore"):
            return [_run(evaluator, {**weights, **feeds}) for feeds in samples]
    except Exception as error:
        raise session.RunFailed(_said(error)) from None


def _run(evaluator: Any, feeds: Arrays) -> Arrays:
    found = evaluator.run(None, feeds)
    named = zip(evaluator.output_names, found, strict=True)
    return {key: array for name, value in named for key, array in arrays.flatten(name, value).items()}


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
