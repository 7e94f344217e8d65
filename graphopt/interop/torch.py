"""torch's `ONNXProgram`: an `onnx_ir.Model` together with the program that it was exported from."""

from __future__ import annotations

from typing import Any

import onnx_ir as oir


def with_model(program: Any, model: oir.Model) -> Any:
    """A new `ONNXProgram` like `program` around another model. torch itself is not imported."""
    return type(program)(model, program.exported_program)
