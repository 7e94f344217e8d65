"""No trap catches the optimizer, at any level: -O1 must keep every bit, the others what their accuracy says."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.rules.rule import Accuracy
from tests.traps.fall import placed, wrong
from tests.traps.read import Trap, traps

LEVELS = {"O1": Accuracy.EXACT, "O2": Accuracy.CLOSE, "O3": Accuracy.FAST}
TRAPS = traps()


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_trap(trap: Trap) -> None:
    for where, model, feeds in placed(trap):
        for level, accuracy in LEVELS.items():
            for target in ("onnx", "ort-cpu") if level == "O3" else ("onnx",):
                result = graphopt.optimize(model, level, target=target, verify=False).model
                found = wrong(trap, model, result, feeds, accuracy)
                assert found is None, f"{trap.place}, {where}, -{level} -t {target}: {found}"


def test_there_are_enough() -> None:
    assert len(TRAPS) >= 120
    assert len({trap.name for trap in TRAPS}) == len(TRAPS)


def test_one_that_falls_is_seen() -> None:
    (trap,) = [t for t in TRAPS if t.name == "x + 0 makes +0 of -0"]
    fallen = graphopt.optimize(trap.model, "O1", verify=False).model
    del fallen.graph.node[0]
    fallen.graph.node[0].input[0] = "x"
    assert wrong(trap, trap.model, trap.model, trap.feeds, Accuracy.EXACT) is None
    found = wrong(trap, trap.model, fallen, trap.feeds, Accuracy.EXACT)
    assert found is not None and "y[0] is -inf, expected inf" in found
