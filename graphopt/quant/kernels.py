"""Which heavy operators run on integers, read off the graph that the target's runtime compiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graphopt.errors import TargetError
from graphopt.quant.coverage import Coverage, coverage
from graphopt.quant.coverage_openvino import openvino_coverage
from graphopt.runtime.executor import ExecutorError

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["read_kernels"]

_READERS = {"onnxruntime": coverage, "openvino": openvino_coverage}


def read_kernels(model: Model, runtime: str | None, reasons: Mapping[str, str]) -> Coverage | str | None:
    """What `runtime` makes of `model`, or why that could not be read; None for a runtime whose graphs are not read."""
    read = _READERS.get(runtime or "")
    if read is None:
        return None
    try:
        return read(model, reasons)
    except (ExecutorError, TargetError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        return f"the kernels could not be read: {error.what}{hint}"
