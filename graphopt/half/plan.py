"""Which nodes of a model may compute in half precision, by their operators and by the numbers they meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as oir

from graphopt.ir.value import bodies_of

if TYPE_CHECKING:
    from graphopt.ir.facts import Facts
    from graphopt.ir.model import Model
    from graphopt.quant.statistics import TensorStatistics

HALVES = {"float16": oir.DataType.FLOAT16, "bfloat16": oir.DataType.BFLOAT16}
_FLOAT = oir.DataType.FLOAT
_LARGEST = {oir.DataType.FLOAT16: 65504.0, oir.DataType.BFLOAT16: 2.0**127 * (2 - 2.0**-7)}
_HEADROOM = 2.0  # what calibration saw is not the most that will come
_KEPT = frozenset(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike", "Constant"])
_QUANTIZERS = frozenset(["QuantizeLinear", "DequantizeLinear"])
_QUANTIZERS_HALF = 19  # the first opset whose quantizers take float16 and bfloat16
# 127 times such an error is at most half a step, so that a weight keeps its integers.
_STEPS = 255  # from the zero point of 8 bits, at most
_SCALE_ERROR = {oir.DataType.FLOAT16: 2.0**-9, oir.DataType.BFLOAT16: 2.0**-8}
# Sums over many elements, in which a runtime may accumulate in the operands' own precision.
_TOO_LONG = frozenset(["CumSum", "ReduceProd", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"])


@dataclass(frozen=True)
class Place:
    """A node that can compute in half precision: which of its inputs and outputs are to be half."""

    node: oir.Node
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def half_places(
    model: Model, half: oir.DataType, skip: Sequence[oir.Node], *, quantizers: bool = False
) -> tuple[list[Place], dict[oir.Node, str]]:
    """The nodes of the main graph that can compute in half precision, and why the other float ones cannot.

    `quantizers`: QuantizeLinear and DequantizeLinear among them, with scales in half precision.
    """
    left_out = set(skip)
    places: list[Place] = []
    refused: dict[oir.Node, str] = {}
    for node in model.ir.graph:
        floats = [v for v in (*node.inputs, *node.outputs) if v is not None and model.facts.dtype(v) == _FLOAT]
        between = quantizers and node.op_type in _QUANTIZERS
        if not floats or (node.op_type in _KEPT and not between):
            continue
        if node in left_out:
            refused[node] = "it was left out"
            continue
        found = (_scales_reason(model, node, half) if between else None) or _place(model.facts, node, half)
        if isinstance(found, str):
            refused[node] = found
        else:
            places.append(found)
    return places, refused


def _scales_reason(model: Model, node: oir.Node, half: oir.DataType) -> str | None:
    """Why Q or DQ cannot have its scales in half precision: they would not be the same numbers any more."""
    scale = node.inputs[1]
    if model.opset() < _QUANTIZERS_HALF:
        return f"its scales are float32 before opset {_QUANTIZERS_HALF}"
    array = None if scale is None else model.facts.array(scale)
    if array is None:
        return "its scales are computed at run time"
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(half.numpy()).astype(np.float32)
    if not np.isfinite(rounded).all() or (np.abs(rounded - array) > _SCALE_ERROR[half] * array).any():
        return f"its scales are beyond {half.name.lower()}"
    if float(array.max(initial=0.0)) * _STEPS * _HEADROOM > _LARGEST[half]:
        return f"its integers stand for numbers beyond {half.name.lower()}"
    return None


def _place(facts: Facts, node: oir.Node, half: oir.DataType) -> Place | str:
    """Where a node can be half, or why it cannot."""
    schema = facts.schema(node)
    if schema is None or node.domain != "":
        return "its operator is not a standard one"
    if bodies_of(node):
        return "it has a body"
    if node.op_type in _TOO_LONG:
        return "it adds up many numbers"
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    wanted = f"tensor({half.name.lower()})"

    def formals(kind: str, count: int) -> list[str]:
        given = [f.type_str for f in getattr(schema, kind)]
        return [given[min(i, len(given) - 1)] for i in range(count)]

    def halved(kind: str, values: Sequence[oir.Value | None]) -> tuple[list[int], bool]:
        found, fits = [], True
        for i, (value, formal) in enumerate(zip(values, formals(kind, len(values)), strict=True)):
            if value is None or facts.dtype(value) != _FLOAT:
                continue
            if formal in allowed and wanted in allowed[formal]:
                found.append(i)
            elif formal in allowed:
                fits = False
        return found, fits

    (inputs, fits_in), (outputs, fits_out) = halved("inputs", node.inputs), halved("outputs", node.outputs)
    if not fits_in or not fits_out:
        return f"its operator does not take {half.name.lower()} at this opset"
    if not inputs:
        return "it makes float32 of something else"
    tied = {formals("inputs", len(node.inputs))[i] for i in inputs}
    outputs = [i for i in outputs if formals("outputs", len(node.outputs))[i] in tied]
    return Place(node, tuple(inputs), tuple(outputs))


def out_of_range(
    model: Model, places: Sequence[Place], half: oir.DataType, seen: Mapping[str, TensorStatistics]
) -> dict[oir.Node, str]:
    """Nodes whose operands or results do not fit into half precision, with the number that does not."""
    largest = _LARGEST[half]
    found: dict[oir.Node, str] = {}
    for place in places:
        values = [place.node.inputs[i] for i in place.inputs] + [place.node.outputs[i] for i in place.outputs]
        for value in values:
            assert value is not None
            most = _magnitude(model, value, seen)
            if not math.isfinite(most) or most * _HEADROOM > largest:
                found[place.node] = f"{value.name!r} reaches {most:.3g}"
                break
    return found


def _magnitude(model: Model, value: oir.Value, seen: Mapping[str, TensorStatistics]) -> float:
    array = model.facts.array(value)
    if array is None and value.is_initializer() and value.const_value is not None:
        array = value.const_value.numpy()
    if array is not None:
        finite = np.abs(array[np.isfinite(array)])
        return float(finite.max(initial=0.0)) / _HEADROOM  # a constant is what it is; infinities stay infinite
    statistics = seen.get(value.name or "")
    if statistics is None or not statistics.count:
        return 0.0
    return max(abs(statistics.minimum), abs(statistics.maximum))
