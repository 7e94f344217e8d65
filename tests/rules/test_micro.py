"""Every micro-model is optimized, at the boundary of a graph and inside of one, and computes the same then."""

from __future__ import annotations

import pytest

import graphopt
from tests.bench.micro import all_cases
from tests.bench.micro.case import Case, operators

CASES = all_cases()


@pytest.mark.parametrize("wrapped", [False, True], ids=["boundary", "interior"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c.row}-{c.name.replace(' ', '-')}" for c in CASES])
def test_fires_if_it_is_sound(case: Case, wrapped: bool) -> None:
    model = case.build(wrapped)
    result = graphopt.optimize(model, case.level, target=case.target)  # raises if the outputs differ
    assert result.verification is not None
    assert case.fired(result.model) != bool(case.unsound), dict(operators(result.model))
