"""The compiled matcher against one that tries everything: the same matches, for random patterns on random graphs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import RuleError
from graphopt.rules.closures import COMMUTATIVE
from graphopt.rules.expr import Alt, Literal, OpExpr, Out, Var
from graphopt.rules.match import Pattern

UNARY, BINARY, SPREAD = ("Neg", "Abs", "Exp"), ("Add", "Mul", "Sub"), ("Max", "Sum")
LABELS = ("x", "y", "z")
MOST = 3000  # matches that are listed
ROUNDS = 250
GRAPHS = 5


# -- random graphs and patterns -------------------------------------------------------------------


def graph(rng: random.Random, size: int) -> graphopt.Model:
    names = ["i0", "i1", "c1", "c2"]
    nodes: list[onnx.NodeProto] = []

    def pick() -> str:
        return rng.choice(names[-6:]) if rng.random() < 0.7 else rng.choice(names)

    for k in range(size):
        chance, made = rng.random(), [f"v{k}"]
        if chance < 0.3:
            nodes.append(helper.make_node(rng.choice(UNARY), [pick()], made))
        elif chance < 0.8:
            nodes.append(helper.make_node(rng.choice(BINARY), [pick(), pick()], made))
        elif chance < 0.88:
            made.append(f"w{k}")
            nodes.append(helper.make_node("Split", [pick()], made, num_outputs=2))
        elif chance < 0.94:
            nodes.append(helper.make_node("Clip", [pick(), *(["cs"] if rng.random() < 0.5 else [])], made))
        else:
            nodes.append(helper.make_node(rng.choice(SPREAD), [pick() for _ in range(rng.randint(1, 3))], made))
        names += made
    read = {name for node in nodes for name in node.input}
    outputs = [name for name in names[4:] if name not in read]
    proto = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in ("i0", "i1")],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in outputs],
        [numpy_helper.from_array(np.float32(n), name) for name, n in (("c1", 1), ("c2", 2), ("cs", 0))],
    )  # fmt: skip
    return graphopt.load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


class Patterns:
    """One random pattern: shared parts, alternatives, optional and constant operands, several outputs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._vars = {n: Var(n, const=n == "z" and rng.random() < 0.5, optional=False) for n in LABELS}
        self._pool: list[Any] = []

    def outputs(self, depth: int, count: int) -> tuple[Any, ...]:
        return tuple(self._expression(depth, root=True) for _ in range(count))

    def _leaf(self) -> Any:
        if self._rng.random() < 0.85:
            return self._vars[self._rng.choice(LABELS)]
        return Literal(self._rng.choice((1.0, 2.0)))

    def _out(self, *arguments: Any, several: bool = False, index: int = 0) -> Out:
        names, operands = arguments
        node = OpExpr("", names, operands, {}, several)  # one with several outputs may have any attributes
        if several:
            node.outputs = 2
        made = Out(node, index)
        self._pool.append(made)
        return made

    def _expression(self, depth: int, root: bool = False, alternatives: bool = True) -> Any:
        rng = self._rng
        if not root and self._pool and rng.random() < 0.2:
            return rng.choice(self._pool)
        chance = rng.random()
        if depth == 0:
            return self._leaf()
        if alternatives and chance < 0.2:
            return self._alternatives(depth, root)
        if not root and chance < 0.3:
            return self._leaf()
        if chance < 0.45:
            names = tuple(rng.sample(UNARY, rng.choice((1, 1, 2))))
            return self._out(names, (self._expression(depth - 1),))
        if chance < 0.55:
            return self._out(("Split",), (self._expression(depth - 1),), several=True, index=rng.randrange(2))
        if chance < 0.62:
            low = rng.choice((Var("o", const=False, optional=True), None, self._vars["z"]))
            return self._out(("Clip",), (self._expression(depth - 1), low))
        operands = self._expression(depth - 1), self._expression(depth - 1)
        return self._out((rng.choice(BINARY),) if rng.random() < 0.9 else ("Add", "Mul"), operands)

    def _alternatives(self, depth: int, root: bool) -> Any:
        options = []
        for _ in range(self._rng.randint(2, 3)):
            one = self._expression(depth if root else depth - (self._rng.random() < 0.5), root, alternatives=False)
            if not isinstance(one, Alt):
                options.append(one)
        if len(options) < 2:
            return options[0] if options else self._expression(depth, root, alternatives=False)
        made = Alt(options)
        if not root:
            self._pool.append(made)
        return made


# -- all matches ----------------------------------------------------------------------------------

Env = dict[str, Any]
Found = tuple[Env, dict[Any, Any]]


def every_match(model: graphopt.Model, outputs: tuple[Any, ...], root: Any) -> Iterator[tuple[Env, tuple[Any, ...]]]:
    """What each variable stands for, and the values of the outputs, in all ways in which they fit."""
    values = [o for n in model.ir.graph for o in n.outputs]

    def go(i: int, found: Found, sofar: tuple[Any, ...]) -> Iterator[tuple[Env, tuple[Any, ...]]]:
        if i == len(outputs):
            yield found[0], sofar
            return
        for value in [root] if i == 0 else values:
            if value not in sofar:
                for more in _fits(model, outputs[i], value, found):
                    yield from go(i + 1, more, (*sofar, value))

    yield from go(0, ({}, {}), ())


def _fits(model: graphopt.Model, x: Any, value: Any, found: Found) -> Iterator[Found]:
    env, nodes = found
    if isinstance(x, Var):
        if (x.optional if value is None else not x.const or model.facts.const(value) is not None):
            if x.label not in env:
                yield {**env, x.label: value}, nodes
            elif env[x.label] is value:
                yield found
    elif isinstance(x, Literal):
        splat = None if value is None else model.facts.splat(value)
        if splat is not None and float(splat) == x.content:
            yield found
    elif isinstance(x, Alt):
        for option in x.options:
            yield from _fits(model, option, value, found)
    elif value is not None:
        yield from _fits_node(model, x, value, found)


def _fits_node(model: graphopt.Model, x: Out, value: Any, found: Found) -> Iterator[Found]:
    env, nodes = found
    expr, node = x.node, value.producer()
    if node is None or node.op_type not in expr.ops or value.index() != x.index:
        return
    if expr in nodes:
        if nodes[expr] is node:
            yield found
        return
    given = list(node.inputs)
    if node in nodes.values() or any(i is not None for i in given[len(expr.inputs) :]):
        return
    if not expr.more and set(node.attributes) - set(expr.attrs):
        return
    orders = [tuple(range(len(expr.inputs)))]
    if len(orders[0]) == 2 and set(expr.ops) <= COMMUTATIVE:
        orders.append((1, 0))
    for order in orders:
        states: list[Found] = [(env, {**nodes, expr: node})]
        for wanted, place in zip(expr.inputs, order, strict=True):
            operand = given[place] if place < len(given) else None
            if wanted is None:
                states = states if operand is None else []
            else:
                states = [more for state in states for more in _fits(model, wanted, operand, state)]
        yield from states


def _key(env: Env, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return frozenset((label, id(value)) for label, value in env.items()), tuple(map(id, outputs))


def _drawn(rng: random.Random) -> tuple[Pattern, tuple[Any, ...]] | None:
    outputs = Patterns(rng).outputs(rng.randint(1, 3), rng.choice((1, 1, 1, 2)))
    roots = [o for x in outputs for o in (x.options if isinstance(x, Alt) else [x])]
    if not all(isinstance(o, Out) for o in roots):
        return None
    try:
        return Pattern(outputs, "p"), outputs
    except RuleError:
        return None  # a pattern that no rule may have


@pytest.mark.parametrize("seed", range(4))
def test_the_same_matches(seed: int) -> None:
    rng = random.Random(seed)
    matching = 0
    for _ in range(ROUNDS):
        mine = random.Random(rng.getrandbits(40))
        drawn = _drawn(mine)
        if drawn is None:
            continue
        pattern, outputs = drawn
        for _ in range(GRAPHS):
            model = graph(mine, mine.randint(3, 14))
            for root in [o for n in model.ir.graph if (n.domain, n.op_type) in pattern.roots for o in n.outputs]:
                listed = list(itertools.islice(every_match(model, outputs, root), MOST))
                expected = {_key(*one) for one in listed}
                got: set[Any] = set()

                def note(match: Any, got: set[Any] = got) -> bool:
                    got.add(_key(match.env, match.outputs))
                    return False

                pattern.match(model.facts, root, note)
                first = pattern.match(model.facts, root)
                assert (first is not None) == bool(expected), f"seed {seed}: {root}"
                assert len(listed) == MOST or got == expected, f"seed {seed}: {root}"
                matching += bool(expected)
    assert matching > 50
