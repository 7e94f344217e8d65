"""What it costs to make a rule: patterns of many alternatives, and when they are compiled."""

from __future__ import annotations

from graphopt import Tensor, op, rule
from graphopt.rules import closures, outline
from graphopt.rules.expr import Out, Var
from tests.unit.engine import drive, model, ops

DEPTH = 60


def nested(x: Tensor, depth: int) -> Tensor:
    """Two ways to write each of `depth` steps: 2 ** depth spellings of `depth` operators each."""
    for _ in range(depth):
        x = op.Relu(x) | op.Neg(x)
    return op.Exp(x)


def test_spellings_do_not_multiply() -> None:
    x = nested(Var("x", const=False, optional=False), DEPTH)
    assert isinstance(x, Out)
    compiler = closures.Compiler(None, outline.repeated(x))
    compiler(x)
    assert len(compiler._made) == 1 + 3 * DEPTH + 1  # the root; two operators and a choice for each step; x
    assert outline.depth(x) == outline.size(x) == outline.operands(x) == DEPTH + 1
    assert outline.possible(x, {"Exp", "Neg"})
    assert not outline.possible(x, {"Exp", "Abs"})
    assert list(outline.bound(x)) == [x.node, "x"]


def test_a_rule_of_very_many_spellings_fires() -> None:
    @rule(lambda x: nested(x, DEPTH))
    def chain(x: Tensor) -> Tensor:
        return op.Abs(x)

    steps = "".join(f"v{i + 1} = {'Relu' if i % 3 else 'Neg'} (v{i}) " for i in range(DEPTH))
    m = model(f"agraph (float[2] v0) => (float[2] y) {{ {steps} y = Exp (v{DEPTH}) }}")
    drive(m, chain)
    assert ops(m) == ["Abs"]


def test_a_pattern_is_compiled_when_a_graph_may_have_it() -> None:
    @rule(lambda x: op.Exp(op.Relu(x)))
    def unused(x: Tensor) -> Tensor:
        return op.Abs(x)

    pattern = unused.patterns[0]
    drive(model("agraph (float[2] v0) => (float[2] y) { y = Neg (v0) }"), unused)
    assert "_compiled" not in vars(pattern)
    drive(model("agraph (float[2] v0) => (float[2] y) { a = Relu (v0) y = Exp (a) }"), unused)
    assert "_compiled" in vars(pattern)


