"""Older models get the opset that quantization needs: onnx converts them, and the result has to compute the same.

Q/DQ pairs exist from opset 10 on, one scale for each channel of a weight from 13 on, and 4-bit and 16-bit integers
and blocks from 21 on. What a model cannot be converted to is declined with the reason, and it is quantized as well
as its own opset allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as oir

from graphopt.engine.tools import ToolError
from graphopt.interop.opset import OPSET
from graphopt.ir.draft import Decline
from graphopt.verify.validate import verify

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor
    from graphopt.ir.model import Model
    from graphopt.quant.insert import Decliner
    from graphopt.targets.target import Target

__all__ = ["LIFT", "lift_opset"]

LIFT = "quant.opset"
_TIMEOUT = 300.0  # seconds for the conversion


def lift_opset(
    model: Model, edit: Editor, target: Target, version: int, *, decline: Decliner | None = None
) -> str | None:
    """Convert `model` in place to `version` of the standard operators, if its own is older; a note on what came of it.

    The converted model must compute what the model computes, on made-up inputs. Where the target does not take the
    version, the converter fails, or the results differ, nothing is changed and `decline` is told why.
    """
    old = model.opset()
    if not 0 < old < version:
        return None
    try:
        if not target.takes("", version):
            raise Decline(f"the target does not take opset {version}")
        if edit.replace_all(LIFT, lambda ir: _converted(ir, model, version)) is None:
            return None
    except Decline as declined:
        reason = f"opset {old} stays, though {version} is better: {declined.reason}"
        if decline is not None:
            decline(LIFT, None, reason)
        return reason
    return f"opset {old} became {version}, which quantization needs"


def _converted(ir: oir.Model, model: Model, version: int) -> oir.Model:
    try:
        made = OPSET.run(ir, timeout=_TIMEOUT, version=version)
    except ToolError as error:
        raise Decline(error.what) from None
    found = verify(ir, made, facts=model.facts)
    if found.status == "failed":
        raise Decline(f"the converted model computes something else: {found.reason}")
    return made
