"""Expressions compiled to closures that match by full backtracking.

Each closure takes a value, the state and a continuation: it binds what it can and calls the
continuation for the rest of the pattern; if that fails it undoes its bindings and tries the next
alternative or operand order. So an early choice never hides a match, and no pattern is cloned. Where
both orders of a commutative operator have to be tried, those that cannot fit whatever is bound are
left out first, and a continuation that failed once is not called again with the same bindings: the
cost grows with the different matches, not with the orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx_ir as oir

from graphopt.ir.facts import Facts
from graphopt.rules.attributes import attribute_contract
from graphopt.rules.expr import Alt, Literal, Many, OpExpr, Out, Tensor, Var
from graphopt.rules.outline import NUMBER, Repeated, Wanted, labels, makers, subexpressions
from graphopt.rules.state import Compiled, Listed, Next, Note, State, literal, variable

COMMUTATIVE = frozenset(
    ["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Sum", "Max", "Min", "Mean"]
)
_VARIADIC = frozenset(["Sum", "Max", "Min", "Mean"])
_MAX_STEPS = 4096  # of one root: a pattern that backtracks longer is given up


class Compiler:
    """Makes the closures of a pattern's expressions. `again`: what stands at several places of the pattern.

    An expression that stands at several places is compiled once: alternatives of alternatives would
    otherwise take time and memory that grow exponentially with their depth.
    """

    def __init__(self, note: Note | None, again: Repeated) -> None:
        self.note = note
        self.again = again
        self._made: dict[Any, tuple[Tensor, Compiled]] = {}  # with the expression, so that nothing else gets its id

    def __call__(self, x: Tensor) -> Compiled:
        """The closures of an expression."""
        key = (x.node, x.index) if isinstance(x, Out) else id(x)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = x, self._compile(x)
        return found[1]

    def _compile(self, x: Tensor) -> Compiled:
        if isinstance(x, Var):
            return variable(x, self.note)
        if isinstance(x, Literal):
            return literal(x, self.note)
        if isinstance(x, Alt):
            return _alternatives(x, self)
        assert isinstance(x, Out), f"no pattern: {x!r}"
        return _operator(x.node, x.index, self)


# -- alternatives and operators --------------------------------------------------------------------


def _alternatives(x: Alt, compiler: Compiler) -> Compiled:
    note = compiler.note
    options = [(frozenset(o.node.ops) if isinstance(o, Out) else None, compiler(o)) for o in x.options]
    by_operator: dict[str | None, list[Compiled]] = {}

    def chosen(v: Any) -> list[Compiled]:
        node = None if v is None else v.producer()
        name = None if node is None else node.op_type
        if name not in by_operator:
            # Somebody who wants to know why nothing fits is told of every alternative.
            by_operator[name] = [c for names, c in options if names is None or name in names or note is not None]
        return by_operator[name]

    def match(v: Any, state: State, then: Next) -> bool:
        place = None if note is None else state.place
        for option in chosen(v):
            if option.match(v, state, then):
                return True
            if note is not None:
                state.place = place
        return False

    def fits(v: Any, state: State) -> bool:
        return any(option.fits(v, state) for option in chosen(v))

    return Compiled(match, fits, leaf=all(c.leaf for _, c in options))


def orders(expr: OpExpr, *, constants: bool = False) -> list[tuple[tuple[int, ...], Wanted]]:
    """The orders in which operands may stand, each with the places that not everything can make: see `makers`."""
    count = len(expr.inputs)
    swap = count == 2 and frozenset(expr.ops) <= COMMUTATIVE and not isinstance(expr.inputs[-1], Many)
    permutations = ((0, 1), (1, 0)) if swap else (tuple(range(count)),)
    return [(order, [(order[i], names) for i, names in makers(expr, constants=constants)]) for order in permutations]


def operators_of(inputs: Iterable[oir.Value | None], facts: Facts | None = None) -> list[str | None]:
    """The names of the operators that make a node's inputs; None for other inputs.

    With `facts`, `NUMBER` for constants that are one number throughout.
    """
    found: list[str | None] = []
    for value in inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            found.append(producer.op_type)
        else:
            found.append(None if facts is None or value is None or facts.splat(value) is None else NUMBER)
    return found


def made_by(operators: Sequence[str | None], wanted: Wanted) -> bool:
    """Whether the inputs at these places come from operators of these names: a look ahead that saves most attempts."""
    count = len(operators)
    for position, names in wanted:  # noqa: SIM110 - a generator takes three times as long
        if position >= count or operators[position] not in names:
            return False
    return True


def _operator(expr: OpExpr, index: int, compiler: Compiler) -> Compiled:
    note, again = compiler.note, compiler.again
    names, domain, capture = frozenset(expr.ops), expr.domain, expr.capture
    many = expr.inputs[-1] if expr.inputs and isinstance(expr.inputs[-1], Many) else None
    fixed = expr.inputs[:-1] if many is not None else expr.inputs
    inputs = [None if i is None else compiler(i) for i in fixed]
    rest = None if many is None else _rest(many, compiler)
    count = len(inputs)
    attrs = attribute_contract(expr, note)
    all_orders = orders(expr)
    any_order = [order for order, _ in all_orders]
    makes = bool(makers(expr))
    leaves = all(i is None or i.leaf for i in inputs)
    settled = leaves and not all(isinstance(i, Var) and not i.const for i in fixed)  # at most one order will fit
    exact_arity = count == 2 and many is None and not names.isdisjoint(_VARIADIC)

    def candidate(v: Any, state: State) -> oir.Node | None:
        """The node that makes `v`, if it is one for this expression, its operands and attributes aside."""
        node: oir.Node | None = None if v is None else v.producer()
        if node is None or node.op_type not in names or node.domain != domain:
            if note is not None:
                note(state, v, "operator" if v is not None else "absent", expr)
            return None
        if node.graph is not state.graph or v.index() != index:
            if note is not None:
                note(state, v, "scope" if node.graph is not state.graph else "index", index)
            return None
        if many is None and len(node.inputs) > count and any(x is not None for x in node.inputs[count:]):
            if note is not None:
                note(state, v, "arity", (node, count))
            return None
        if exact_arity and len(node.inputs) != count:
            if note is not None:
                note(state, v, "arity", (node, count))
            return None
        return node

    def operands(node: oir.Node, order: tuple[int, ...], state: State, i: int, then: Next) -> bool:
        if i == count:
            return then() if rest is None else rest(node, count, state, then)
        position, pattern = order[i], inputs[i]
        v = node.inputs[position] if position < len(node.inputs) else None
        if note is not None:
            state.place = (node, position, i)
        if pattern is None:
            if v is not None and note is not None:
                note(state, v, "present", None)
            return v is None and operands(node, order, state, i + 1, then)
        return pattern.match(v, state, lambda: operands(node, order, state, i + 1, then))

    def order_fits(node: oir.Node, order: tuple[int, ...], state: State) -> bool:
        for i, pattern in enumerate(inputs):
            v = node.inputs[order[i]] if order[i] < len(node.inputs) else None
            if not (v is None if pattern is None else pattern.fits(v, state)):
                return False
        return True

    def possible_orders(node: oir.Node, state: State) -> list[tuple[int, ...]]:
        """The orders in which the operands may fit; none of a local function that has the name of an operator."""
        if note is not None:
            return any_order
        if len(any_order) == 1:
            may = not makes or made_by(operators_of(node.inputs), all_orders[0][1])
            return any_order if may and (domain != "" or state.facts.schema(node) is not None) else []
        key = (id(expr), node)
        known = state.known.get(key)
        if known is None:
            known = find_orders(node, state)
            state.known[key] = known if domain != "" or not known or state.facts.schema(node) is not None else []
        return state.known[key]

    def find_orders(node: oir.Node, state: State) -> list[tuple[int, ...]]:
        if not makes:
            found = any_order
        else:
            operators = operators_of(node.inputs)
            found = [order for order, wanted in all_orders if made_by(operators, wanted)]
        if len(found) > 1:
            if len(node.inputs) < 2 or node.inputs[0] is node.inputs[1]:
                return found[:1]
            if not leaves:
                found = [order for order in found if order_fits(node, order, state)]
        return found

    def fits(v: Any, state: State) -> bool:
        key = (id(expr), index, v)
        known = state.fitting.get(key)
        if known is None:
            node = candidate(v, state)
            known = node is not None and any(order_fits(node, order, state) for order in possible_orders(node, state))
            state.fitting[key] = known
        return known

    def match(v: Any, state: State, then: Next) -> bool:
        place = None if note is None else state.place
        node = candidate(v, state)
        if node is None:
            return False
        bound = state.nodes.get(expr)
        if bound is not None:
            if bound is node:
                return then()
            if note is not None:
                note(state, v, "shared", bound)
            return False
        state.steps += 1
        if state.steps > _MAX_STEPS or node in state.nodes.values() or node in state.extra:
            if note is not None:
                note(state, v, "steps" if state.steps > _MAX_STEPS else "taken", node)
            return False
        possible = possible_orders(node, state)
        if not possible:
            return False
        if note is not None and domain == "" and state.facts.schema(node) is None:
            note(state, v, "function", node)
            return False
        captured = attrs(node, state)
        if captured is None:
            return False
        state.nodes[expr] = node
        state.env.update(captured)
        if capture:
            state.env[capture] = node
        follow = then if len(possible) == 1 or settled else _once(then, state, again)
        for order in possible:
            if operands(node, order, state, 0, follow):
                return True
        if note is not None:
            state.place = place
        del state.nodes[expr]
        for label in captured:
            del state.env[label]
        if capture:
            del state.env[capture]
        return False

    return Compiled(match, fits, leaf=False)


def _once(then: Next, state: State, again: Repeated) -> Next:
    """`then`, but False at once for bindings with which it failed before.

    If it failed without a complete match, then only what it can look at matters: what is bound to parameters and
    operators that stand at several places, and which nodes are taken. Otherwise all bindings do.
    """
    failed: set[Any] = set()
    held: list[Any] = []  # what was bound, so that nothing else gets its id

    def everything(taken: frozenset[int]) -> Any:
        return frozenset((label, id(bound)) for label, bound in state.env.items()), taken

    def follow() -> bool:
        env, nodes = state.env, state.nodes
        taken = frozenset(map(id, (*nodes.values(), *state.extra)))
        seen = tuple(id(env.get(label)) for label in again.labels), tuple(id(nodes.get(e)) for e in again.nodes), taken
        complete = state.complete
        if seen in failed or (complete and everything(taken) in failed):
            return False
        if then():
            return True
        failed.add(seen if state.complete == complete else everything(taken))
        held.append(tuple(env.values()))
        return False

    return follow


def _rest(many: Many, compiler: Compiler) -> Callable[[oir.Node, int, State, Next], bool]:
    """Operands from a place on, one or more; each matches the element, and its variables go into the lists."""
    note, match = compiler.note, compiler(many.element).match
    parts = [x for x in subexpressions(many.element) if isinstance(x, Out)]
    own = {x.node for x in parts if not labels(x).isdisjoint(many.labels)}  # the others are the same for all operands

    def rest(node: oir.Node, start: int, state: State, then: Next) -> bool:
        operands = node.inputs[start:]
        if not operands:
            if note is not None:
                note(state, None, "arity", (node, start + 1))
            return False
        lists: list[dict[str, Any]] = []
        first: dict[Any, int] = {}
        for k, operand in enumerate(operands):
            first.setdefault(operand, k)

        def element(k: int) -> bool:
            if k == len(operands):
                return finish()
            same = first[operands[k]]
            if same < k:  # its operators are taken already, by that operand
                return again_as(lists[same], k)
            if note is not None:
                state.place = (node, start + k, start + k)
            before = len(state.nodes)
            return match(operands[k], state, lambda: taken(k, before))

        def again_as(bound: dict[str, Any], k: int) -> bool:
            lists.append(bound)
            if element(k + 1):
                return True
            lists.pop()
            return False

        def taken(k: int, before: int) -> bool:
            """Put aside what this operand bound, so that the next one binds its own."""
            env, nodes = state.env, state.nodes
            mine = {label: env.pop(label) for label in many.labels if label in env}
            inner = {expr: n for expr, n in list(nodes.items())[before:] if expr in own}
            for expr in inner:
                del nodes[expr]
            count = len(state.extra)
            state.extra.extend(inner.values())
            lists.append(mine)
            if element(k + 1):
                return True
            lists.pop()
            del state.extra[count:]
            nodes.update(inner)
            env.update(mine)
            return False

        def finish() -> bool:
            for label in many.labels:
                state.env[label] = Listed(mine.get(label) for mine in lists)
            if then():
                return True
            for label in many.labels:
                del state.env[label]
            return False

        return element(0)

    return rest
