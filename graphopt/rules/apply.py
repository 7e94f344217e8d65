"""Applying a matched rule: the contracts that no rule author has to think of, then the commit."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as oir

from graphopt.errors import GraphoptError, RuleError
from graphopt.ir.draft import Change, Decline
from graphopt.ir.edit import Editor, StopRewriting
from graphopt.ir.value import Node, Value
from graphopt.rules.expr import Tensor, outputs_of
from graphopt.rules.leaf import Leaf
from graphopt.rules.lower import Lowering
from graphopt.rules.match import Match
from graphopt.rules.rule import Accuracy, Rule
from graphopt.rules.state import Listed

FAN_OUT = "an interior value has other readers"
_COST = {"Identity": 0.5, "Constant": 0.0}
_COST_DEFAULT = 1.0


class ReplacementError(RuleError):
    """A replacement raised, or returned something else than its pattern asks for; the model is as it was.

    `reason` says what it did, `place` at which node of which model; `where` is the line of the rules file.
    """

    reason = ""
    place = ""


class _WrongResultError(Exception):
    """What a replacement returned cannot take the place of what its pattern matches."""


def apply(rule: Rule[Any], match: Match, editor: Editor, by: str, domains: frozenset[str] | None) -> Change:
    """Replace a match. Raises `Decline` with the reason if a contract or a `require` is not met, and
    `ReplacementError`, with the model as it was, if the replacement raises or returns something wrong.

    Of the four contracts, the attributes' is part of matching; here are fan-out (interior values die
    with the match), opset and domain (while lowering), and type (at the commit). A rule must also
    leave a cheaper graph, unless it is bounded or applied once only, so that rewriting ends.
    """
    model = editor.model
    if rule.single_use:
        _check_fan_out(match)
    root = Node(model, match.nodes[0])
    rewrite = editor.begin(by, match.nodes[0], match.nodes)
    try:
        results = _call(rule, match, editor)
        places = [(x, Value(model, old)) for old, x in zip(match.outputs, results, strict=True)]
        stem = root.name if match.nodes[0].name else rule.name
        lowering = Lowering(rewrite, model, domains, stem, places, exact=rule.accuracy is Accuracy.EXACT)
        for x, like in places:
            rewrite.replace(like, lowering.value(x, like))
        if not (rule.bounded or rule.once) and _cost(lowering.added) >= _cost(_dying(match)):
            raise Decline("the replacement would not be cheaper")
    except (Decline, StopRewriting):
        rewrite.rollback()
        raise
    except (Exception, SystemExit) as error:
        rewrite.rollback()
        raise _replacement_error(rule, by, root, error) from error
    return rewrite.commit()


def _call(rule: Rule[Any], match: Match, editor: Editor) -> tuple[Tensor, ...]:
    declared = rule.constants
    arguments = [_argument(match.env.get(p), editor, p in declared) for p in rule.parameters]
    results = outputs_of(rule.function(*arguments))
    if len(results) != len(match.outputs):
        returned, wanted = _count(len(results), "value"), _count(len(match.outputs), "output")
        raise _WrongResultError(f"returned {returned} for a pattern with {wanted}")
    for x in results:
        if not isinstance(x, Tensor):
            raise _WrongResultError(f"returned {_brief(x)}, which is no tensor expression")
    return results


def _argument(bound: Any, editor: Editor, declared: bool) -> Any:
    kind = type(bound)  # isinstance is slow on classes that implement a Protocol
    if kind is oir.Value:
        return Leaf(Value(editor.model, bound), declared=declared)
    if bound is None or kind is int:
        return bound
    if kind is Listed:
        return [_argument(item, editor, declared) for item in bound]
    if issubclass(kind, oir.Value):
        return Leaf(Value(editor.model, bound), declared=declared)
    if issubclass(kind, oir.Node):
        return Node(editor.model, bound)
    return bound


def _check_fan_out(match: Match) -> None:
    for _ in escaping(match):
        raise Decline(FAN_OUT)


def escaping(match: Match) -> Iterator[oir.Value]:
    """The interior values of a match that nodes outside of it read, too, or that are graph outputs."""
    inner, outputs = set(match.nodes), set(match.outputs)
    for node in match.nodes:
        for value in node.outputs:
            if value in outputs:
                continue
            if value.is_graph_output() or any(use.node not in inner for use in value.uses()):
                yield value


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


def _replacement_error(rule: Rule[Any], by: str, root: Node, error: BaseException) -> ReplacementError:
    """Which rule did what, at which line of its file and at which node of which model."""
    if isinstance(error, _WrongResultError):
        reason = str(error)
    elif isinstance(error, GraphoptError):
        reason = f"raised {type(error).__name__}: {error.what}"
    else:
        text = " ".join(str(error).split())
        reason = f"raised {type(error).__name__}{': ' if text else ''}{text}"
    source = root._model.source
    place = f"at node {root.name!r}" + (f" of {source.path}" if source is not None and source.path else "")
    found = ReplacementError(
        f"rule {by!r} {reason}",
        where=_line(rule, error),
        hint=f"{place}; the model is as it was before this rewrite. --keep-going runs on without the rule",
    )
    found.reason, found.place = reason, place
    return found


def _line(rule: Rule[Any], error: BaseException) -> str:
    """`my_rules.py:12`: the last line of the rule's file that led to the error, or that of its definition."""
    code = getattr(rule.function, "__code__", None)
    if code is None:
        return rule.where
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename]
    file = Path(code.co_filename)
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file}:{lines[-1] if lines else code.co_firstlineno}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _brief(x: object) -> str:
    """A value in a message: what it says of itself, if that is short, else its type."""
    text = repr(x)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(x).__name__}"
