"""What there is to know of a rule without a model: its equation, its operators, and where it applies."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from onnx import defs

from graphopt.ir.schemas import lookup
from graphopt.rules import outline
from graphopt.rules.again import expression
from graphopt.rules.expr import ANY, Alt, AttrVar, NodeVar, OpExpr, Out, Tensor, Var, inputs_of
from graphopt.rules.infix import Written, traced, written
from graphopt.rules.language import Domain
from graphopt.rules.parameters import variables
from graphopt.rules.rule import Accuracy, Rule
from graphopt.targets.target import list_targets, load_target

MEANING = {
    Accuracy.EXACT: "every bit of the result stays, for every input",
    Accuracy.CLOSE: "rounding may change, within the dtype's tolerance; NaN and infinities stay",
    Accuracy.FAST: "as close, for finite inputs only: -O3",
    Accuracy.APPROX: "lossy: judged by a metric",
}
_NOTATION = {  # sign: how to find it, and what it means
    "a | b": (r" \| ", "either of them"),
    "product(…)": (r"\bproduct\(", "all multiplied, in any order and association"),
    "total(…)": (r"\btotal\(", "all added, in any order and association"),
    "any(A, B)(…)": (r"\bany\(", "one of these operators"),
    "n: A(…)": (r"\w: ", "n is that node"),
    "*xs": (r"[(\s]\*[\w(]", "one operand or more"),
    "_": (r"\b_\b", "an operand that is left out"),
    "A(…, …)": (r"…\)", "whatever other attributes it has"),
    "→ …": (r"→  …", "what it becomes depends on what is matched: see the code"),
}
_WIDE = 76
LEVELS = {Accuracy.EXACT: "-O1", Accuracy.CLOSE: "-O2", Accuracy.FAST: "-O3"}

Operator = tuple[str, str]  # domain, name


@dataclass(frozen=True)
class Equation:
    """One left side, and what it becomes; `right` is None if that depends on what was matched.

    Each is one text for each output. `where`: the names that both sides use besides the parameters.
    """

    left: tuple[str, ...]
    right: tuple[str, ...] | None
    where: tuple[tuple[str, str], ...]


def equations(rule: Rule[Any]) -> list[Equation]:
    """The left sides of a rule, each with the right side if that is the same whatever is matched."""
    found = []
    for source in rule.sources:
        outputs, names = traced(source)
        left = written(outputs, names, rule.parameters)
        right = _right(rule, source, [*rule.parameters, *(name for name, _ in left.where)])
        where = (*left.where, *(right.where if right is not None else ()))
        found.append(Equation(left.outputs, None if right is None else right.outputs, where))
    return found


def equation_lines(rule: Rule[Any]) -> list[str]:
    """The equations as lines of text, with the names that they use; `→ …` where the code decides on the right side."""
    lines = []
    for equation in equations(rule):
        left = _tuple(equation.left)
        right = "…" if equation.right is None else _tuple(equation.right)
        lines += [f"{left}  →  {right}"] if len(left) + len(right) < _WIDE else [left, f"  →  {right}"]
        words = ["where", *["     "] * len(equation.where)]
        lines += [f"  {word} {name} = {text}" for word, (name, text) in zip(words, equation.where, strict=False)]
    return lines


def _tuple(outputs: tuple[str, ...]) -> str:
    return ", ".join(outputs)


def notation(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The signs in these equations, as far as they occur, and what they mean."""
    text = "\n".join(lines)
    return [(sign, meaning) for sign, (found, meaning) in _NOTATION.items() if re.search(found, text)]


def _right(rule: Rule[Any], source: Callable[..., Any], taken: list[str]) -> Written | None:
    outputs = expression(rule.function, source)
    if outputs is None:
        return None
    text = written(outputs, {}, taken)
    given = variables(source)
    for i, variable in enumerate(given):
        if _may_be_left_out(rule, variable) and _with_none(rule, given, i, taken) != text:
            return None
    return text


def _with_none(rule: Rule[Any], given: list[Any], index: int, taken: list[str]) -> Written | None:
    """The right side if one parameter were None."""
    try:
        made: Any = rule.function(*[None if i == index else v for i, v in enumerate(given)])
        return written(made if isinstance(made, tuple) else (made,), {}, taken)
    except Exception:  # a replacement may do anything with None
        return None


def _may_be_left_out(rule: Rule[Any], variable: Any) -> bool:
    """Whether a replacement may get None for a parameter: an optional operand, or one that only some branches bind."""
    if isinstance(variable, Var) and variable.optional:
        return True
    return not all(_binds(p.outputs, variable.label) for p in rule.patterns)


def _binds(outputs: Iterable[Tensor], label: str) -> bool:
    return any(_always_has(x, label) for x in outputs)


def _always_has(x: Tensor, label: str) -> bool:
    if isinstance(x, Alt):
        return all(_always_has(o, label) for o in x.options)
    if isinstance(x, Out):
        own = x.node.capture == label or any(isinstance(a, AttrVar) and a.label == label for a in x.node.attrs.values())
        return own or any(_always_has(i, label) for i in inputs_of(x.node))
    return isinstance(x, Var) and x.label == label


def parameters(rule: Rule[Any]) -> list[tuple[str, str]]:
    """What each parameter stands for: `a tensor`, `a constant, or left out`, `an attribute (float)`, `a node`."""
    found = []
    lists = {label for p in rule.patterns for label in _lists(p.outputs)}
    for variable in variables(rule.sources[0]):
        if isinstance(variable, NodeVar):
            what = "the node"
        elif isinstance(variable, AttrVar):
            what = f"an attribute ({variable.kind})" if variable.kind else "an attribute"
        else:
            what = "a constant" if variable.const else "a tensor"
        if variable.label in lists:
            what = f"a list, of which each is {what}"
        elif _may_be_left_out(rule, variable):
            what += ", or left out"
        found.append((variable.label, what))
    return found


def _lists(outputs: Iterable[Tensor]) -> Iterator[str]:
    for x in outline.subexpressions(*outputs):
        if isinstance(x, Out) and x.node.inputs and hasattr(x.node.inputs[-1], "labels"):
            yield from x.node.inputs[-1].labels


# -- opsets and domains ----------------------------------------------------------------------------


def left_opsets(rule: Rule[Any]) -> list[int]:
    """The opsets at which a left side may match, by the operators, operands and attributes that it needs."""
    newest = defs.onnx_opset_version()
    sides = [p.outputs for p in rule.patterns]
    return [v for v in range(1, newest + 1) if any(all(_exists(x, v) for x in side) for side in sides)]


def _exists(x: Tensor | None, version: int) -> bool:
    if isinstance(x, Alt):
        return any(_exists(o, version) for o in x.options)
    if not isinstance(x, Out):
        return True
    node = x.node
    here = node.domain != "" or any(_takes(name, node, version) for name in node.ops)
    return here and all(_exists(i, version) for i in inputs_of(node))


def _takes(name: str, node: OpExpr, version: int) -> bool:
    schema = lookup("", name, version)
    if schema is None:
        return False
    operands = [not (isinstance(i, Var) and i.optional) and i is not None for i in node.inputs]
    needed = max((i + 1 for i, there in enumerate(operands) if there), default=0)
    fixed = {k for k, v in node.attrs.items() if v is not None and v is not ANY and not isinstance(v, AttrVar)}
    return needed <= schema.max_input and fixed <= schema.attributes.keys()


def opset_range(versions: list[int]) -> str:
    """`any`, `from 9 on`, `up to 12`, `7 to 12`; ranges with gaps one after the other."""
    newest = defs.onnx_opset_version()
    spans: list[list[int]] = []
    for v in versions:
        if spans and spans[-1][1] == v - 1:
            spans[-1][1] = v
        else:
            spans.append([v, v])
    return ", ".join(_span(first, last, newest) for first, last in spans) or "none"


def _span(first: int, last: int, newest: int) -> str:
    if last == newest:
        return "any" if first == 1 else f"from {first} on"
    return f"up to {last}" if first == 1 else f"{first}" if first == last else f"{first} to {last}"


def since(operator: Operator) -> int | None:
    """The first opset that has a standard operator; None for those of other domains."""
    if operator[0]:
        return None
    return min((s.since_version for s in _history() if (s.domain, s.name) == operator), default=None)


@functools.cache
def _history() -> list[Any]:
    return list(defs.get_all_schemas_with_history())


def replacement_operators(rule: Rule[Any]) -> tuple[list[Operator], bool]:
    """The operators that a replacement makes, sorted, and whether it makes all of them whatever is matched.

    If that depends on what is matched, these are the operators that its code names.
    """
    whole = [expression(rule.function, s) for s in rule.sources]
    fixed = all(e.right is not None for e in equations(rule))
    if fixed:
        parts = [x.node for e in whole if e is not None for x in outline.subexpressions(*e) if isinstance(x, Out)]
        return sorted({(node.domain, node.ops[0]) for node in parts}), True
    return sorted(_named(rule.function)), False


def _named(function: Any) -> set[Operator]:
    """(domain, operator) for each `op.Name` in a function, and in the functions that it calls, by their code."""
    found: set[Operator] = set()
    pending, seen = [function], set()
    while pending:
        item = pending.pop()
        code, scope = getattr(item, "__code__", None), getattr(item, "__globals__", {})
        if code is None or code in seen:
            continue
        seen.add(code)
        before: Any = None
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                before = scope.get(step.argval)
                if isinstance(before, types.FunctionType):
                    pending.append(before)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(before, Domain) and step.argval != "any":
                found.add((before.domain, step.argval))
    return {(domain, name) for domain, name in found if domain or since((domain, name)) is not None}


def opset_text(rule: Rule[Any]) -> str:
    """`from 20 on: Gelu came with 20`; `any; where it makes LayerNormalization, from 17 on`."""
    left = left_opsets(rule)
    made, always = replacement_operators(rule)
    newer = sorted(((n, name) for domain, name in made if (n := since((domain, name)) or 0) > (left or [0])[0]))
    if not newer:
        return opset_range(left)
    if always:
        both = [v for v in left if v >= newer[-1][0]]
        return f"{opset_range(both)}: {newer[-1][1]} came with {newer[-1][0]}"
    return f"{opset_range(left)}; where it makes {' or '.join(f'{name}, from {n} on' for n, name in newer)}"


def target_text(rule: Rule[Any]) -> str:
    """`any`, or the targets that take the domains that the rule needs."""
    found, needed = takers(rule), domains(rule)
    return f"{', '.join(found) or 'none'}, for it makes operators of {', '.join(needed)}" if needed else "any"


def domains(rule: Rule[Any]) -> list[str]:
    """The domains of the operators that a replacement makes, but for the standard one."""
    return sorted({domain for domain, _ in replacement_operators(rule)[0] if domain})


def takers(rule: Rule[Any]) -> list[str]:
    """The built-in targets that take what the rule makes."""
    wanted = domains(rule)
    return [name for name in list_targets() if all(d in load_target(name).domains for d in wanted)]


# -- definition ------------------------------------------------------------------------------------


def source(rule: Rule[Any]) -> str:
    """The code of the replacement, its decorator and docstring included; empty where there is none to be had."""
    try:
        return textwrap.dedent(inspect.getsource(rule.function)).rstrip()
    except (OSError, TypeError):
        return ""


def place(rule: Rule[Any]) -> tuple[str, int]:
    """The file and the line where a replacement begins."""
    code = rule.function.__code__
    return code.co_filename, code.co_firstlineno


def sentence(rule: Rule[Any]) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join(rule.doc.split("\n\n")[0].split())


def traits(rule: Rule[Any]) -> list[str]:
    """What sets a rule apart from the usual, in words."""
    found = []
    if not rule.single_use:
        found.append("interior values may have other readers")
    if rule.bounded:
        found.append("may leave as many operators as it found")
    if rule.once:
        found.append("is never applied to what it made itself")
    return found
