"""Mistakes in a rule are errors at once, or name the rule and the node where it fails."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt import (
    RuleError,
    Tensor,
    op,
    rule,
)
from tests.unit.engine import drive, model, ops


class TestErrors:
    def test_signatures_must_agree(self) -> None:
        with pytest.raises(RuleError, match=r"different parameters: .* has \(x, v\), bad .* has \(x, w\)"):

            @rule(lambda x, v: x * v)
            def bad(x: Tensor, w: Tensor) -> Tensor:
                """Bad."""
                return x

    def test_unknown_operator(self) -> None:
        with pytest.raises(RuleError, match="there is no operator 'Gelo'") as caught:
            rule(lambda x: op.Gelo(x))(lambda x: x)
        assert "did you mean 'Gelu'?" in str(caught.value)

    def test_unknown_attribute(self) -> None:
        with pytest.raises(RuleError, match="Softmax has no attribute 'axes'"):
            rule(lambda x: op.Softmax(x, axes=1))(lambda x: x)

    def test_unused_variable(self) -> None:
        with pytest.raises(RuleError, match="the pattern never uses its parameter 'z'"):
            rule(lambda x, z: op.Neg(x))(lambda x, z: x)

    def test_disconnected_outputs(self) -> None:
        with pytest.raises(RuleError, match="the outputs of the pattern are not connected"):
            rule(lambda x, z: (op.Neg(x), op.Abs(z)))(lambda x, z: (x, z))

    def test_a_bare_variable(self) -> None:
        with pytest.raises(RuleError, match="not of a bare variable or number"):
            rule(lambda x: x)(lambda x: x)

    def test_branching_in_a_pattern(self) -> None:
        with pytest.raises(RuleError, match="a pattern is traced once; write alternatives with"):
            rule(lambda x: op.Neg(x) if x else x)(lambda x: x)

    def test_facts_in_a_pattern(self) -> None:
        with pytest.raises(RuleError, match=r"\.rank is a fact of a matched value"):
            rule(lambda x: op.Neg(x) if x.rank else x)(lambda x: x)

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (lambda x: 1 / 0, "raised ZeroDivisionError"),
            (lambda x: "x" * x.rank, "returned 'x', which is no tensor expression"),
            (lambda x: (x,) * (x.rank + 1), "returned 2 values for a pattern with 1 output"),
        ],
    )
    def test_a_replacement_that_fails_names_rule_and_node(self, body: Any, text: str) -> None:
        def broken(x: Tensor) -> Any:
            return body(x)

        r: Any = rule(lambda x: op.Neg(op.Neg(x)))(broken)
        m = model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Neg(a) }")
        with pytest.raises(RuleError, match=text) as caught:
            drive(m, r)
        assert "test_rule_errors.py:" in str(caught.value)
        assert "rule 'broken'" in str(caught.value)
        assert "at node \"Neg of 'y'\"" in str(caught.value)
        assert ops(m) == ["Neg", "Neg"]
