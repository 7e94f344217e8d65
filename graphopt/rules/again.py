"""Whether a replacement is matched by its own pattern whatever the operands are, so that rewriting would not end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.rules.attributes import same_attribute
from graphopt.rules.closures import COMMUTATIVE
from graphopt.rules.expr import ANY, Alt, AttrVar, Literal, Many, OpExpr, Out, Tensor, Var, outputs_of
from graphopt.rules.outline import subexpressions
from graphopt.rules.parameters import variables


def expression(function: Callable[..., Any], pattern: Callable[..., Any]) -> tuple[Any, ...] | None:
    """What a replacement returns for any operands; None if it asks for facts of those that were matched."""
    try:
        return outputs_of(function(*variables(pattern)))
    except (Exception, SystemExit):  # it may do anything with facts, which no variable has
        return None


def matches_again(patterns: Sequence[tuple[Tensor, ...]], outputs: tuple[Tensor, ...]) -> bool:
    """Whether one of the patterns, of one output each, certainly matches a part of the expression."""
    parts = [x for x in subexpressions(*outputs) if isinstance(x, Out) and not _folds(x)]
    return any(len(p) == 1 and any(_matches(p[0], part, {}) for part in parts) for p in patterns)


def operators(outputs: tuple[Tensor, ...]) -> int:
    """How many operators an expression certainly adds to a graph: constants are computed, and Identity is nothing."""
    made = {x.node for x in subexpressions(*outputs) if isinstance(x, Out) and not _folds(x)}
    return sum(expr.ops != ("Identity",) for expr in made)


def _matches(p: Any, x: Any, env: dict[str, Any]) -> bool:
    """Whether `x` matches, whatever its variables stand for; `env` may be left with bindings if not."""
    if isinstance(p, Alt):
        return any(_attempt(o, x, env) for o in p.options)
    if p is None or x is None:
        return p is None and x is None
    if isinstance(p, Var):
        return (not p.const or _folds(x)) and env.setdefault(p.label, x) is x
    if isinstance(p, Literal):
        return isinstance(x, Literal) and x.content == p.content
    if not (isinstance(p, Out) and isinstance(x, Out)) or _folds(x) or p.index != x.index:
        return False
    return _operators_match(p.node, x.node, env)


def _attempt(p: Any, x: Any, env: dict[str, Any]) -> bool:
    trial = dict(env)
    if not _matches(p, x, trial):
        return False
    env.update(trial)
    return True


def _operators_match(p: OpExpr, x: OpExpr, env: dict[str, Any]) -> bool:
    if p.domain != x.domain or not set(x.ops) <= set(p.ops) or not _attributes_match(p, x, env):
        return False
    if any(isinstance(i, Many) for i in (*p.inputs, *x.inputs)) or len(p.inputs) != len(x.inputs):
        return False
    orders = [x.inputs]
    if len(x.inputs) == 2 and set(p.ops) <= COMMUTATIVE:
        orders.append(x.inputs[::-1])
    for order in orders:
        trial = dict(env)
        if all(_matches(i, j, trial) for i, j in zip(p.inputs, order, strict=True)):
            env.update(trial)
            return True
    return False


def _attributes_match(p: OpExpr, x: OpExpr, env: dict[str, Any]) -> bool:
    if not p.more and not x.attrs.keys() <= p.attrs.keys():
        return False
    for name, wanted in p.attrs.items():
        if wanted is ANY:
            continue
        if name not in x.attrs:
            return False
        given = x.attrs[name]
        if isinstance(wanted, AttrVar):
            if env.setdefault(wanted.label, given) is not given:
                return False
        elif isinstance(given, AttrVar) or not same_attribute(wanted, given):
            return False
    return True


def _folds(x: Any) -> bool:
    """Whether an expression is a constant, as it is computed while the rule is applied."""
    if isinstance(x, Out):
        return x.node.domain == "" and all(_folds(i) for i in x.node.inputs if i is not None)
    return isinstance(x, Literal) or (isinstance(x, Var) and x.const)
