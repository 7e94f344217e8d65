"""onnx's backend tests through -O3: a sample of them, and all in the slow run."""

from __future__ import annotations

import pytest

from tests.backend.cases import Case, cases
from tests.backend.check import check

# Range of tensors with an axis, which ONNX Runtime takes only as long as it cannot see their shapes.
NOT_VALID = ("test_affine_grid_",)
EACH = 23
PARTS = 8


def _wrong(some: list[Case]) -> list[str]:
    known = [case for case in some if not case.name.startswith(NOT_VALID)]
    answers = [(case.name, answer) for case in known for answer in check(case)]
    assert any(answer.kind == "same" for _, answer in answers)
    return [f"{name}, {answer.form}: {answer.why}" for name, answer in answers if answer.kind == "wrong"]


def test_a_sample() -> None:
    assert _wrong(cases()[::EACH]) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_all(part: int) -> None:
    assert _wrong(cases()[part::PARTS]) == []


def test_there_are_many() -> None:
    assert len(cases()) > 1000
    assert {"test_relu", "test_loop11", "test_if", "test_ai_onnx_ml_binarizer"} <= {case.name for case in cases()}
