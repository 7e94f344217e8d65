"""Older models get the opset that quantization needs: onnx converts them, and the result has to compute the same.

Q/DQ pairs exist from opset 10 on, one scale for each channel of a weight from 13 on, and 4-bit and 16-bit integers
and blocks from 21 on. What a model cannot be converted to is declined with the reason, and it is quantized as well
as its own opset allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

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

__all__ = ["HALF_OPSETS", "LIFT", "lift_opset"]

HALF_OPSETS = {"float32": 0, "float16": 19, "bfloat16": 22}
"""The first whose Q, DQ and convolutions take that precision."""

LIFT = "quant.opset"
_TIMEOUT = 300.0  # seconds for the conversion


def lift_opset(
    model: Model,
    edit: Editor,
    target: Target,
    version: int,
    *,
    data: Iterable[Mapping[str, Any]] | None = None,
    decline: Decliner | None = None,
) -> str | None:
    """Convert `model` in place to `version` of the standard operators, if its own is older; a note on what came of it.

    The converted model must compute what the model computes, on the first of `data` or on made-up inputs. Where the
    target does not take the version, the converter fails, or the results differ or cannot be compared, nothing is
    changed and `decline` is told why.
    """
    old = model.opset()
    if not 0 < old < version:
        return None
    try:
        if not target.takes("", version):
            raise Decline(f"the target does not take opset {version}")
        if edit.replace_all(LIFT, lambda ir: _converted(ir, model, version, data)) is None:
            return None
    except Decline as declined:
        reason = f"opset {old} stays, though {version} is better: {declined.reason}"
        if decline is not None:
            decline(LIFT, None, reason)
        return reason
    return f"opset {old} became {version}, which quantization needs"


def _converted(
    ir: oir.Model, model: Model, version: int, data: Iterable[Mapping[str, Any]] | None
) -> oir.Model:
    try:
        made = OPSET.run(ir, timeout=_TIMEOUT, version=version)
    except ToolError as error:
        raise Decline(error.what) from None
    first = None if data is None else [dict(feeds) for feeds in itertools.islice(data, 1)]
    found = verify(ir, made, data=first, facts=model.facts)
    if found.status == "failed":
        raise Decline(f"the converted model computes something else: {found.reason}")
    if found.status == "skipped":
        raise Decline(f"it cannot be checked that the converted model computes the same: {found.reason}")
    return made
