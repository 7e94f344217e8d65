"""Why a rule does not match, for tests of explanations."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import Rule, Tensor, op, rule
from graphopt.rules.explain import Miss, Prober, roots
from tests.unit.engine import model

F = np.float32


def miss(r: Rule[Any], found: Any, root: str | None = None) -> Miss:
    """What is said of the root of that name, or of the last one."""
    nodes = list(roots(r, found))
    node = nodes[-1] if root is None else next(n for n in nodes if n.name == root)
    result = Prober(r, found).miss(node)
    assert result is not None, "the rule matches"
    return result


def reason(r: Rule[Any], text: str, opset: int = 20, **constants: Any) -> str:
    return miss(r, model(text, opset, **constants)).reason


@rule(lambda x: 0.5 * op.Tanh(x))
def half_tanh(x: Tensor) -> Tensor:
    """Half of tanh."""
    return x


BODY = "[n_tanh] t = Tanh(x) [n_mul] y = Mul(t, c)"
