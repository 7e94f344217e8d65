"""Local functions put in place of their calls."""

from __future__ import annotations

import onnx_ir as oir

from graphopt.interop.clone import clone


def inline_functions(model: oir.Model) -> oir.Model:
    """A copy of `model` whose local functions stand where they were called; it shares the weights."""
    from onnx_ir.passes.common import InlinePass

    copy = clone(model)
    InlinePass()(copy)
    return copy
