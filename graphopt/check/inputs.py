"""Inputs for a golden case: ordinary ones, of more than one size where sizes are open, and special values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as oir

from graphopt.interop.convert import to_ir
from graphopt.ir.model import Model
from graphopt.verify.feeds import plans, synthesize

__all__ = ["inputs_for"]

Arrays = dict[str, np.ndarray[Any, Any]]

_SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-6, -3.0, 1e4)
_PLANS = 2


def inputs_for(model: onnx.ModelProto, given: Mapping[str, np.ndarray[Any, Any]], *, special: bool) -> list[Arrays]:
    """Sets of inputs for a model; all of them with what is `given`.

    `special`: one set more, with zeros of both signs, infinities and NaN. Raises `DataError` for an input for which
    nothing can be made up.
    """
    loaded = Model(*to_ir(model))
    values: dict[str, oir.Value] = {str(v.name): v for v in loaded.ir.graph.inputs}
    if all(name in given or name in loaded.ir.graph.initializers for name in values):
        return [dict(given)]
    found: list[Arrays] = []
    for seed, plan in enumerate(plans(loaded.ir)[:_PLANS]):
        made = synthesize(loaded.ir, loaded.facts, seed=seed, plan=plan)
        found.append({**made, **given})
    if special:
        found.append({name: array if name in given else _specials(array) for name, array in found[0].items()})
    return found


def _specials(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same with special values at its beginning; integers as they are."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return array
    copy = array.copy()
    flat = copy.reshape(-1)
    with np.errstate(over="ignore"):
        flat[: len(_SPECIAL)] = np.array(_SPECIAL[: len(flat)], np.float32).astype(array.dtype)
    return copy
