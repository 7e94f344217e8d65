"""Expressions as people write them: `product(x, 0.5, 1 + erf)`, with names for what stands in several places."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from graphopt.rules.expr import ANY, Alt, AttrVar, Literal, Many, OpExpr, Out, Tensor, outputs_of
from graphopt.rules.language import product, total
from graphopt.rules.parameters import variables

_SYMBOLS = {"Add": ("+", 1), "Sub": ("-", 1), "Mul": ("*", 2), "Div": ("/", 2), "MatMul": ("@", 2), "Pow": ("**", 4)}
_LARGE = 5  # operators
_CHOICE, _NEGATION, _ATOM = 0, 3, 5  # how tightly what is no symbol binds
_ASSOCIATIONS = {"Mul": product, "Add": total}


@dataclass(frozen=True)
class Written:
    """Expressions as text, one for each output; `where`: the names that they use, in an order that explains them."""

    outputs: tuple[str, ...]
    where: tuple[tuple[str, str], ...]


@dataclass(eq=False)
class _Part:
    """An expression on its way to text: how to write it, of which parts, and how tightly it binds."""

    parts: tuple[_Part, ...]
    write: Callable[[Callable[[_Part, int], str]], str]
    tightness: int = _ATOM
    name: str | None = None
    label: str | None = None  # the parameter that captures its node
    size: int = 0  # operators in it
    uses: int = 0
    by_author: bool = False  # whether `name` is what the author called it

    @property
    def deserves_a_name(self) -> bool:
        """What stands in several places, what is captured, and what is large and has a name already."""
        return self.uses > 1 or self.label is not None or (self.by_author and self.size >= _LARGE)


def written(outputs: Iterable[Tensor], names: Mapping[int, str], taken: Sequence[str]) -> Written:
    """Text for expressions. `names`: what the author called them, by id; `taken`: names that mean something else."""
    reader = _Reader(names)
    roots = [reader.part(x) for x in outputs]
    every = _every(roots)
    for part in every:
        for inner in part.parts:
            inner.uses += 1
    shared = {part: "" for part in every if part.size and part not in roots and part.deserves_a_name}
    used = set(taken)
    for part in shared:
        shared[part] = part.label or _fresh(part.name or "part", used)

    def write(part: _Part, least: int = _CHOICE) -> str:
        if part in shared:
            return shared[part]
        return _enclosed(part, least)

    def _enclosed(part: _Part, least: int) -> str:
        text = part.write(write)
        if part.label and part not in shared:
            text = f"{part.label}: {text}"
        return f"({text})" if part.tightness < least else text

    return Written(tuple(write(r) for r in roots), tuple((name, _enclosed(p, _CHOICE)) for p, name in shared.items()))


def traced(function: Callable[..., Any]) -> tuple[tuple[Tensor, ...], dict[int, str]]:
    """What a pattern returns, and what its author calls the expressions in it: its local variables, by id.

    The names hold as long as the outputs do.
    """
    found: dict[int, tuple[Tensor, str]] = {}  # with the tensor itself, so that no other gets its id
    file, given = function.__code__.co_filename, variables(function)
    labels = {v.label for v in given}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "return" and code.co_filename == file:
            arguments = code.co_varnames[: code.co_argcount]
            for name, value in frame.f_locals.items():
                if isinstance(value, Tensor) and not (name in arguments and (id(value) in found or name in labels)):
                    found[id(value)] = value, name

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        outputs = outputs_of(function(*given))
    finally:
        sys.setprofile(before)
    alive = {id(x) for x in _inner(outputs)}
    return outputs, {key: name for key, (_, name) in found.items() if key in alive}


def _inner(outputs: Iterable[Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    pending = list(outputs)
    while pending:
        x = pending.pop()
        if id(x) in found:
            continue
        found[id(x)] = x
        if isinstance(x, Alt):
            pending.extend(x.options)
        elif isinstance(x, Out):
            pending.extend(i.element if isinstance(i, Many) else i for i in x.node.inputs if i is not None)
    return list(found.values())


def _every(roots: Iterable[_Part]) -> list[_Part]:
    """All parts, each once, before what they are made of."""
    order: dict[_Part, None] = {}

    def visit(part: _Part) -> None:
        if part not in order:
            for inner in part.parts:
                visit(inner)
            order[part] = None

    for root in roots:
        visit(root)
    return list(reversed(order))


def _fresh(name: str, used: set[str]) -> str:
    number, made = 1, name
    while made in used:
        number += 1
        made = f"{name}{number}"
    used.add(made)
    return made


class _Reader:
    """Makes parts of expressions, one for each, however often it is used."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._known: dict[int, _Part] = {}
        self._calls: dict[OpExpr, _Part] = {}  # an operator may be there more than once, for each of its outputs

    def part(self, x: Any) -> _Part:
        found = self._known.get(id(x))
        if found is None:
            found = self._known[id(x)] = self._made(x)
            if id(x) in self._names:
                found.name, found.by_author = self._names[id(x)], True
        return found

    def _made(self, x: Any) -> _Part:
        if isinstance(x, Alt):
            return self._choice(x)
        if isinstance(x, Out):
            return self._operator(x)
        if isinstance(x, Many):
            return self._list(x)
        return _atom("_" if x is None else content(x) if isinstance(x, Literal) else repr(x))

    def _choice(self, x: Alt) -> _Part:
        options: list[_Part] = []
        i = 0
        while i < len(x.options):
            known = _associated(x.options[i:])
            if known is None:
                options.append(self.part(x.options[i]))
                i += 1
            else:
                name, operands, count = known
                options.append(_call(name, [self.part(o) for o in operands], {}))
                i += count
        if len(options) == 1:
            return options[0]
        return _Part(tuple(options), lambda write: " | ".join(write(o, _CHOICE + 1) for o in options), _CHOICE,
                     size=sum(o.size for o in options))

    def _list(self, many: Many) -> _Part:
        element = self.part(many.element)
        return _Part((element,), lambda write: f"*{write(element, _ATOM)}", size=element.size)

    def _operator(self, x: Out) -> _Part:
        node = x.node
        operands = [self.part(i) for i in node.inputs]
        plain = not node.domain and len(node.ops) == 1 and not (node.attrs or node.more or node.capture)
        if plain and node.ops[0] in _SYMBOLS and len(operands) == 2:
            return _infix(*_SYMBOLS[node.ops[0]], operands)
        if plain and node.ops[0] == "Neg" and len(operands) == 1:
            (inner,) = operands
            return _Part((inner,), lambda write: f"-{write(inner, _NEGATION + 1)}", _NEGATION, size=inner.size + 1)
        call = self._calls.get(node)
        if call is None:
            call = self._calls[node] = _call(_operators(node), operands, node.attrs, node.more)
            call.name, call.label = node.ops[0].lower(), node.capture
        if node.outputs == 1:
            return call
        return _Part((call,), lambda write: f"{write(call, _ATOM)}[{x.index}]", size=call.size)


def _atom(text: str) -> _Part:
    return _Part((), lambda _: text, _NEGATION if text.startswith("-") else _ATOM)


def _infix(symbol: str, tightness: int, operands: Sequence[_Part]) -> _Part:
    left, right = operands
    least = (tightness + 1, tightness) if symbol == "**" else (tightness, tightness + 1)

    def write(inner: Callable[[_Part, int], str]) -> str:
        return f"{inner(left, least[0])} {symbol} {inner(right, least[1])}"

    return _Part((left, right), write, tightness, size=left.size + right.size + 1)


def _call(name: str, operands: Sequence[_Part], attrs: Mapping[str, Any], more: bool = False) -> _Part:
    def write(inner: Callable[[_Part, int], str]) -> str:
        given = [inner(o, _CHOICE) for o in operands]
        given += [f"{key}={_attribute(value)}" for key, value in attrs.items()]
        return f"{name}({', '.join([*given, '…'] if more else given)})"

    return _Part(tuple(operands), write, size=1 + sum(o.size for o in operands))


def _operators(node: OpExpr) -> str:
    prefix = f"{node.domain}." if node.domain else ""
    if len(node.ops) == 1:
        return prefix + node.ops[0]
    return f"any({', '.join(prefix + name for name in node.ops)})"


def _attribute(value: Any) -> str:
    if value is ANY:
        return "any"
    return value.label if isinstance(value, AttrVar) else _number(value)


def content(x: Literal) -> str:
    """A literal: a number to six digits, a list, or the type of an array that is too long for one."""
    text = _number(x.content)
    return text if x.rtol is None else f"approx({text}, rtol={x.rtol:g})"


def _number(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if any(c in text for c in ".en") else f"{text}.0"
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= 8 else f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_number, value))}]"
    return value if isinstance(value, str) and value.endswith("]") else repr(value)


def _associated(options: Sequence[Tensor]) -> tuple[str, list[Any], int] | None:
    """The operands of `product` or `total` if the options begin with all its associations, and how many those are."""
    first = options[0]
    name = first.node.ops[0] if isinstance(first, Out) and len(first.node.ops) == 1 else ""
    if name not in _ASSOCIATIONS:
        return None
    whole = _ASSOCIATIONS[name]
    best = None
    for count in range(3, len(options).bit_length() + 2):
        trees = 2 ** (count - 1) - 1
        operands = _operands(first, count) if trees <= len(options) else None
        if operands is not None and _same(whole(*operands), Alt(options[:trees])):
            best = whole.__name__, operands, trees
    return best


def _operands(tree: Any, count: int) -> list[Any] | None:
    """The operands of the first association: one on the left, all others on the right."""
    if count == 1:
        return [tree]
    if isinstance(tree, Alt):
        tree = tree.options[0]
    if not isinstance(tree, Out) or len(tree.node.inputs) != 2:
        return None
    left, right = tree.node.inputs
    others = _operands(right, count - 1)
    return None if others is None else [left, *others]


def _same(made: Any, x: Any) -> bool:
    """Whether two trees are alike down to the very same operands."""
    if made is x:
        return True
    if isinstance(made, Alt) and isinstance(x, Alt):
        return len(made.options) == len(x.options) and all(map(_same, made.options, x.options))
    if isinstance(made, Out) and isinstance(x, Out):
        a, b = made.node, x.node
        alike = (a.domain, a.ops, a.attrs, len(a.inputs)) == (b.domain, b.ops, b.attrs, len(b.inputs))
        return alike and all(map(_same, a.inputs, b.inputs))
    return False


