"""Applying a matched rule: the contracts that no rule author has to think of, then the commit."""

from __future__ import annotations

from typing import Any

import onnx_ir as oir

from graphopt.errors import GraphoptError, RuleError
from graphopt.ir.draft import Change, Decline
from graphopt.ir.edit import Editor, StopRewriting
from graphopt.ir.value import Node, Value
from graphopt.rules.expr import Tensor
from graphopt.rules.leaf import Leaf
from graphopt.rules.lower import Lowering
from graphopt.rules.match import Match
from graphopt.rules.rule import Rule

_COST = {"Identity": 0.5, "Constant": 0.0}
_COST_DEFAULT = 1.0


def apply(rule: Rule[Any], match: Match, editor: Editor, by: str, domains: frozenset[str] | None) -> Change:
    """Replace a match. Raises `Decline` with the reason if a contract or a `require` is not met.

    Of the four contracts, the attributes' is part of matching; here are fan-out (interior values die
    with the match), opset and domain (while lowering), and type (at the commit). A rule must also
    leave a cheaper graph, unless it is bounded, so that rewriting ends.
    """
    model = editor.model
    if rule.single_use:
        _check_fan_out(match)
    root = Node(model, match.nodes[0])
    sources = [Node(model, n) for n in match.nodes]
    rewrite = editor.rewrite(by, at=root, sources=sources)
    try:
        results = _call(rule, match, editor)
        lowering = Lowering(rewrite, model, domains, root.name if match.nodes[0].name else rule.name)
        for old, x in zip(match.outputs, results, strict=True):
            like = Value(model, old)
            rewrite.replace(like, lowering.value(x, like))
        if not rule.bounded and _cost(lowering.added) >= _cost(_dying(match)):
            raise Decline("the replacement would not be cheaper")
    except StopRewriting:
        raise
    except Decline:
        rewrite.rollback()
        raise
    except GraphoptError:
        rewrite.rollback()
        raise
    except Exception as error:
        rewrite.rollback()
        raise RuleError(
            f"rule {rule.name!r} raised {type(error).__name__}: {error}",
            where=f"{rule.where}, at node {root.name!r}",
            hint="the model is as it was before this rewrite",
        ) from error
    return rewrite.commit()


def _call(rule: Rule[Any], match: Match, editor: Editor) -> tuple[Tensor, ...]:
    result = rule.function(*(_argument(match.env.get(p), editor) for p in rule.parameters))
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != len(match.outputs):
        raise TypeError(f"it returned {len(results)} values for a pattern with {len(match.outputs)} outputs")
    for x in results:
        if not isinstance(x, Tensor):
            raise TypeError(f"it returned {x!r}, which is no tensor expression")
    return results


def _argument(bound: Any, editor: Editor) -> Any:
    if isinstance(bound, oir.Value):
        return Leaf(Value(editor.model, bound))
    if isinstance(bound, oir.Node):
        return Node(editor.model, bound)
    return bound


def _check_fan_out(match: Match) -> None:
    inner, outputs = set(match.nodes), set(match.outputs)
    for node in match.nodes:
        for value in node.outputs:
            if value in outputs:
                continue
            if value.is_graph_output() or any(use.node not in inner for use in value.uses()):
                raise Decline("an interior value has other readers")


def _dying(match: Match) -> list[str]:
    """Operators of the match that die once its outputs are replaced."""
    outputs, dying = set(match.outputs), set()
    pending = list(match.nodes)
    while pending:
        survivors = []
        for node in pending:
            if all(v in outputs or (not v.is_graph_output() and all(u.node in dying for u in v.uses()))
                   for v in node.outputs):
                dying.add(node)
            else:
                survivors.append(node)
        if len(survivors) == len(pending):
            break
        pending = survivors
    return [n.op_type for n in dying]


def _cost(operators: list[str]) -> float:
    return sum(_COST.get(name, _COST_DEFAULT) for name in operators)
