"""What is computed while folding makes shapes known that were not: of a reduction whose axes were computed."""

from __future__ import annotations

import numpy as np

import graphopt
from tests.rules.helpers import build


def test_axes_that_were_computed() -> None:
    model = build(
        "(float[N,3,8] x) => (float[N,3,8] y)",
        "a = Reshape(i, one) q = Mul(x, x) m = ReduceMean(q, a) v = Add(m, eps) r = Sqrt(v) s = Reciprocal(r) y = Mul(x, s)",
        opset=23, i=np.array([-1]), one=np.array([1]), eps=1e-6,
    )  # fmt: skip
    result = graphopt.optimize(model, "O2", verify=False, as_="proto").model
    assert [node.op_type for node in result.graph.node] == ["RMSNormalization"]
