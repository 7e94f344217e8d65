"""Types that are found without onnx's own inference are those that it finds."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.schemas import Inconsistent
from tests.unit.engine import model

INTS = {
    "to": [6, 4], "rest": [-1, 4], "copy": [0, 4], "odd": [5, -1], "much": [7, 4], "two": [-1, -1], "flat": [0, -1],
    "heads": [0, 0, 2, 2], "halves": [0, -1, 2], "thirds": [0, 0, 3, -1], "beyond": [4, 6, 1, 0], "kept": [0, 0, -1],
    "lost": [0, 0], "last": [-1, 0],
}  # fmt: skip


@pytest.mark.parametrize("body", [
    "y = MatMul(x, w)", "y = MatMul(b, w)", "y = MatMul(b, r)", "y = MatMul(w, x)", "y = MatMul(w, v)",
    "y = Transpose(b)", "y = Transpose <perm=[1,0,2]> (b)", "y = Transpose <perm=[1,1,2]> (b)",
    "y = LayerNormalization <axis=-1> (b, v)", "y = LayerNormalization <axis=4> (b, v)",
    "y = LayerNormalization (b, v, h)",
    *(f"y = Reshape(x, {name})" for name in INTS), *(f"y = Reshape(b, {name})" for name in INTS),
    "s = Shape(b) y = Reshape(b, s)", "y = Reshape(w, to)", "y = Reshape(x, v)",
])  # fmt: skip
def test_the_same_types_as_by_the_full_inference(body: str) -> None:
    text = f"g (float[4,6] x, float[B,S,4] b, float[B,4,S] r, float[6,4] w, float[4] v, float16[4] h) => (float y) {{ {body} }}"
    found = model(text, **{name: np.array(sizes, np.int64) for name, sizes in INTS.items()})
    facts = found.facts
    node = list(found.ir.graph)[-1]

    def types(*, quick: bool) -> object:
        try:
            return [(fact.dtype, tuple(map(str, fact.shape or ("?",)))) for fact in facts.outputs(node, quick=quick)]
        except Inconsistent:
            return "refused"

    assert types(quick=True) == types(quick=False)
