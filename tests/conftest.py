"""What all tests share: none of them depends on a clock."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.quant import goals, verdict
from graphopt.runtime.latency import Latency
from graphopt.runtime.speedup import Speedup


@pytest.fixture(autouse=True)
def _quantization_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of the tests are too small to be faster in integers, which they are quantized to all the same."""

    def twice(*_: Any, **__: Any) -> Speedup:
        return Speedup(Latency(2e-3, 2e-3, 2e-3, 20), Latency(1e-3, 1e-3, 1e-3, 20), 2.0, 2.0, 2.0)

    monkeypatch.setattr(verdict, "speedup", twice)
    monkeypatch.setattr(goals, "openvino_speedup", twice)
