"""Is a difference no more than what the original does by itself when its inputs change in their last digits?

Rounding, comparing, and dividing small differences turn the last digit into another number altogether. Where the
original jumps that way, a result that jumps there as well is not the worse for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.check.execute import Ran, run_groups
from graphopt.check.finding import Example
from graphopt.check.judge import tolerance
from graphopt.rules.rule import Accuracy
from graphopt.runtime.executor import ExecutorError
from graphopt.runtime.trial import Outcomes

Array = np.ndarray[Any, Any]

_DRAWS = 10
_STEP = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 1e-13}
_FACTOR = 8.0


def is_noise(example: Example, ran: Ran, accuracy: Accuracy) -> bool:
    """Whether each element that differs also differs as much between runs of the original on shaken inputs."""
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(_DRAWS):
        feeds = {name: _shaken(array, rng) for name, array in example.feeds.items()}
        groups.append(([_shaken_constants(example.model, rng)], feeds))
    try:
        found = run_groups(groups)
    except ExecutorError:
        return False
    others = [_first(outcomes[0]) for outcomes in found]
    before, after = _first(ran[0]), _first(ran[1])
    others = [o for o in others if o is not None]
    if before is None or after is None or not others:
        return False
    return all(_explained(array, after.get(name), [o.get(name) for o in others], accuracy) for name, array in before.items())


def _first(outcomes: Outcomes) -> dict[str, Array] | None:
    return next((o.arrays for o in outcomes.values() if o.arrays is not None), None)


def _explained(a: Array, b: Array | None, others: list[Array | None], accuracy: Accuracy) -> bool:
    if b is None or a.shape != b.shape or a.dtype != b.dtype or any(o is None or o.shape != a.shape for o in others):
        return False
    if a.dtype.kind in "OSU":
        return np.array_equal(a, b)
    gap = _gap(a, b)
    spread = np.max([_gap(a, o) for o in others if o is not None], axis=0)
    wide = np.abs(a.astype(np.float64))
    finite = wide[np.isfinite(wide)]
    scale = np.where(np.isfinite(wide), wide, 0) + (float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0)
    allowed = np.maximum(tolerance(a.dtype, accuracy) * scale, _FACTOR * spread)
    if accuracy >= Accuracy.FAST:
        gap = np.where(np.isfinite(wide), gap, 0)
    return bool(np.all(gap <= allowed))


def _gap(a: Array, b: Array) -> Array:
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        gap = np.abs(x - y)
    same = (x == y) | (np.isnan(x) & np.isnan(y)) | (np.isinf(x) & np.isinf(y))  # one over a zero of either sign
    return np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))


def _shaken(array: Array, rng: np.random.Generator) -> Array:
    step = _STEP.get(array.dtype.name)
    if step is None or not array.size:
        return array
    with np.errstate(all="ignore"):
        factor = 1 + step * rng.uniform(-1, 1, array.shape)
        signs = np.where(array.astype(np.float64) == 0, rng.choice((-1.0, 1.0), array.shape), 1.0)  # of zeros
        return np.asarray(array.astype(np.float64) * factor * signs).astype(array.dtype)


def _shaken_constants(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.name in _STEP:
            tensor.CopyFrom(numpy_helper.from_array(_shaken(array, rng), tensor.name))
    return copy
