"""Patterns compiled to closures that match by full backtracking.

Each closure takes a value, the state and a continuation: it binds what it can and calls the
continuation for the rest of the pattern; if that fails it undoes its bindings and tries the next
alternative or operand order. So an early choice never hides a match, and no pattern is cloned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.errors import RuleError
from graphopt.ir.facts import Facts
from graphopt.rules import outline
from graphopt.rules.expr import ANY, Alt, AttrVar, Literal, OpExpr, Out, Tensor, Var

COMMUTATIVE = frozenset(
    ["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Sum", "Max", "Min", "Mean"]
)
_MAX_STEPS = 4096  # of one root: a pattern that backtracks longer is given up

Next = Callable[[], bool]
Matcher = Callable[[Any, "State", Next], bool]


class State:
    """Bindings of one attempt."""

    __slots__ = ("env", "facts", "graph", "nodes", "outputs", "steps")

    def __init__(self, facts: Facts, graph: Any) -> None:
        self.facts = facts
        self.graph = graph
        self.env: dict[str, Any] = {}
        self.nodes: dict[OpExpr, oir.Node] = {}
        self.outputs: list[oir.Value] = []
        self.steps = 0


@dataclass(frozen=True, slots=True)
class Match:
    """What a pattern bound: parameters to values, nodes or attributes; the nodes, root first; the outputs."""

    env: dict[str, Any]
    nodes: tuple[oir.Node, ...]
    outputs: tuple[oir.Value, ...]


class Pattern:
    """One compiled left side.

    `roots`: (domain, operator) pairs that the first output may come from. `children`: operators that
    must be among the producers of the root's inputs. `size` counts operators, `operands` their inputs,
    `depth` the longest chain.
    """

    def __init__(self, outputs: tuple[Out | Alt, ...], place: str) -> None:
        self.outputs = outputs
        self.roots = frozenset(outline.roots(outputs[0]))
        self.children = tuple(n for _, n in _makers(outputs[0].node)) if isinstance(outputs[0], Out) else ()
        self.depth = max(outline.depth(o) for o in outputs)
        self.size = max(outline.size(o) for o in outputs)
        self.operands = sum(outline.operands(o) for o in outputs)
        self._root = _value(outputs[0])
        self._further = _further(outputs, place)

    def possible(self, known: Set[str]) -> bool:
        """Whether a graph that has only these operators can have a match."""
        return all(outline.possible(o, known) for o in self.outputs)

    def match(self, facts: Facts, root: oir.Value) -> Match | None:
        """The first match whose first output is `root`, else None."""
        producer = root.producer()
        assert producer is not None
        state = State(facts, producer.graph)
        state.outputs.append(root)
        result: list[Match] = []

        def done() -> bool:
            result.append(Match(dict(state.env), tuple(state.nodes.values()), tuple(state.outputs)))
            return True

        def further(i: int) -> bool:
            return done() if i == len(self._further) else self._further[i](state, lambda: further(i + 1))

        self._root(root, state, lambda: further(0))
        return result[0] if result else None


def _further(outputs: tuple[Out | Alt, ...], place: str) -> list[Callable[[State, Next], bool]]:
    """Finders of the second and later outputs, each reached forward from what is already bound."""
    finders: list[Callable[[State, Next], bool]] = []
    known = {id(outputs[0])}
    bound = _bound_by(outputs[0])
    for output in outputs[1:]:
        if not isinstance(output, Out):
            raise RuleError("further outputs of a pattern cannot be alternatives", where=place)
        if any(isinstance(o, Out) and o.node is output.node for o in outputs if id(o) in known):
            finders.append(_sibling(output))
        else:
            leaf = next((i for i in output.node.inputs if isinstance(i, Var) and i.label in bound), None)
            if leaf is None:
                raise RuleError("the outputs of the pattern are not connected", where=place,
                                hint="each further output must read a variable that the ones before it bind")
            finders.append(_forward(output, leaf.label))
        known.add(id(output))
        bound |= _bound_by(output)
    return finders


def _bound_by(x: Tensor | None) -> set[str]:
    """Labels of the variables that are bound whenever `x` has matched."""
    if isinstance(x, Var):
        return set() if x.optional else {x.label}
    if isinstance(x, Alt):
        return set.intersection(*(_bound_by(o) for o in x.options))
    if isinstance(x, Out):
        return set().union(*(_bound_by(i) for i in x.node.inputs))
    return set()


def _sibling(output: Out) -> Callable[[State, Next], bool]:
    def find(state: State, then: Next) -> bool:
        node = state.nodes[output.node]
        if output.index >= len(node.outputs):
            return False
        state.outputs.append(node.outputs[output.index])
        return then() or bool(state.outputs.pop() is None)

    return find


def _forward(output: Out, label: str) -> Callable[[State, Next], bool]:
    match, names = _value(output), frozenset(output.node.ops)

    def find(state: State, then: Next) -> bool:
        start = state.env.get(label)
        if not isinstance(start, oir.Value):
            return False
        for use in start.uses():
            node = use.node
            if node.op_type not in names or node.graph is not state.graph or output.index >= len(node.outputs):
                continue
            value = node.outputs[output.index]
            if value in state.outputs:
                continue
            state.outputs.append(value)
            if match(value, state, then):
                return True
            state.outputs.pop()
        return False

    return find


# -- closures -------------------------------------------------------------------------------------


def _value(x: Tensor) -> Matcher:
    if isinstance(x, Var):
        return _variable(x)
    if isinstance(x, Literal):
        return _literal(x)
    if isinstance(x, Alt):
        return _alternatives(x)
    assert isinstance(x, Out), f"no pattern: {x!r}"
    return _operator(x.node, x.index)


def _alternatives(x: Alt) -> Matcher:
    options = [(frozenset(o.node.ops) if isinstance(o, Out) else None, _value(o)) for o in x.options]
    by_operator: dict[str | None, list[Matcher]] = {}

    def match(v: Any, state: State, then: Next) -> bool:
        node = None if v is None else v.producer()
        name = None if node is None else node.op_type
        if name not in by_operator:
            by_operator[name] = [m for names, m in options if names is None or name in names]
        return any(m(v, state, then) for m in by_operator[name])

    return match


def _variable(x: Var) -> Matcher:
    label, const, optional = x.label, x.const, x.optional

    def match(v: Any, state: State, then: Next) -> bool:
        if v is None:
            if not optional:
                return False
        elif const and state.facts.const(v) is None:
            return False
        env = state.env
        if label in env:
            return env[label] is v and then()
        env[label] = v
        if then():
            return True
        del env[label]
        return False

    return match


def _literal(x: Literal) -> Matcher:
    content, rtol = x.content, x.rtol
    rounded: dict[np.dtype[Any], bytes | None] = {}

    def equals(splat: Any) -> bool:
        if rtol is not None:
            return bool(abs(float(splat) - content) <= rtol * abs(content))
        dtype = splat.dtype
        if dtype not in rounded:
            rounded[dtype] = _as_bytes(content, dtype)
        return bool(rounded[dtype] == splat.tobytes())

    def match(v: Any, state: State, then: Next) -> bool:
        splat = None if v is None else state.facts.splat(v)
        return splat is not None and equals(splat) and then()

    return match


def _as_bytes(content: Any, dtype: np.dtype[Any]) -> bytes | None:
    """The number rounded to `dtype`, as bytes; None if an integer type cannot hold it."""
    if dtype.kind == "b" and not isinstance(content, bool):
        return None
    try:
        if dtype.kind in "iu":
            return np.array(int(content), dtype=dtype).tobytes() if content == int(content) else None
        with np.errstate(all="ignore"):
            return np.asarray(content).astype(dtype).tobytes()
    except (OverflowError, ValueError, TypeError):
        return None


def _operator(expr: OpExpr, index: int) -> Matcher:
    names, domain, capture = frozenset(expr.ops), expr.domain, expr.capture
    inputs = [None if i is None else _value(i) for i in expr.inputs]
    count = len(inputs)
    attrs = _attributes(expr)
    swap = count == 2 and names <= COMMUTATIVE
    makers = _makers(expr)
    permutations = ((0, 1), (1, 0)) if swap else (tuple(range(count)),)
    orders = [(order, [(order[i], names) for i, names in makers]) for order in permutations]
    exact_arity = swap and not names.isdisjoint({"Sum", "Max", "Min", "Mean"})

    def operands(node: oir.Node, order: tuple[int, ...], state: State, i: int, then: Next) -> bool:
        if i == count:
            return then()
        position, pattern = order[i], inputs[i]
        v = node.inputs[position] if position < len(node.inputs) else None
        if pattern is None:
            return v is None and operands(node, order, state, i + 1, then)
        return pattern(v, state, lambda: operands(node, order, state, i + 1, then))

    def match(v: Any, state: State, then: Next) -> bool:
        if v is None:
            return False
        node = v.producer()
        if node is None or node.op_type not in names or node.domain != domain or node.graph is not state.graph:
            return False
        if v.index() != index:
            return False
        bound = state.nodes.get(expr)
        if bound is not None:
            return bound is node and then()
        state.steps += 1
        if state.steps > _MAX_STEPS or node in state.nodes.values():
            return False
        if len(node.inputs) > count and any(x is not None for x in node.inputs[count:]):
            return False
        possible = [order for order, wanted in orders if _made_by(node.inputs, wanted)]
        if not possible or (exact_arity and len(node.inputs) != count):
            return False
        if domain == "" and state.facts.schema(node) is None:
            return False  # a local function that has the name of an operator
        captured = attrs(node, state)
        if captured is None:
            return False
        state.nodes[expr] = node
        state.env.update(captured)
        if capture:
            state.env[capture] = node
        if any(operands(node, order, state, 0, then) for order in possible):
            return True
        del state.nodes[expr]
        for label in captured:
            del state.env[label]
        if capture:
            del state.env[capture]
        return False

    return match


def _makers(expr: OpExpr) -> list[tuple[int, frozenset[str]]]:
    """For each operand that must come from an operator: its place, and the names that the operator may have."""
    found: list[tuple[int, frozenset[str]]] = []
    for i, operand in enumerate(expr.inputs):
        options = operand.options if isinstance(operand, Alt) else (operand,)
        if all(isinstance(o, Out) for o in options):
            found.append((i, frozenset(name for _, name in outline.roots(operand))))
    return found


def _made_by(inputs: Sequence[oir.Value | None], wanted: list[tuple[int, frozenset[str]]]) -> bool:
    """Whether the inputs at these places come from operators of these names: a look ahead that saves most attempts."""
    for position, names in wanted:
        value = inputs[position] if position < len(inputs) else None
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type not in names:
            return False
    return True


def _attributes(expr: OpExpr) -> Callable[[oir.Node, State], dict[str, Any] | None]:
    """The attribute contract: mentioned ones must agree; others must have their schema default, or `...`."""
    wanted = [(name, value) for name, value in expr.attrs.items() if value is not ANY]
    mentioned = frozenset(expr.attrs)
    more = expr.more

    def match(node: oir.Node, state: State) -> dict[str, Any] | None:
        captured: dict[str, Any] = {}
        facts = state.facts
        for name, value in wanted:
            attr = node.attributes.get(name)
            if attr is not None and attr.is_ref():
                return None
            got = attr.value if attr is not None else facts.default_attr(node, name)
            if not isinstance(value, AttrVar):
                if not same_attribute(value, got):
                    return None
            elif value.label in state.env:
                if not same_attribute(state.env[value.label], got):
                    return None
            else:
                captured[value.label] = got
        if not more:
            for name, attr in node.attributes.items():
                if name in mentioned:
                    continue
                default = None if attr.is_ref() else facts.default_attr(node, name)
                if default is None or not same_attribute(default, attr.value):
                    return None
        return captured

    return match


def same_attribute(a: Any, b: Any) -> bool:
    """Whether two attribute values are the same; floats are compared as the float32 they are stored in."""
    if isinstance(a, float) and isinstance(b, int | float):
        return bool(np.float32(a) == np.float32(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_attribute(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, oir.TensorProtocol) or isinstance(b, oir.TensorProtocol):
        return a is b
    return bool(a == b) and isinstance(a, str) == isinstance(b, str)
