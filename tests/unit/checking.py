"""Models and rules for tests of the rule checker."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from graphopt import Tensor, op, rule

F = np.float32


def model(signature: str, body: str, opset: int = 18, more: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {signature} {more} {{ {body} }}')


ONE, TWO = F([1, 1]), F([1, 2])


NEG_NEG = model("(float[2] x) => (float[2] y)", "a = Neg (x) y = Neg (a)")


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x: Tensor) -> Tensor:
    """Right."""
    return x
