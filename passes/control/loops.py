"""Loops that never run, or a small and fixed number of times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from graphopt_passes.control.iteration import RANDOM, Iteration, iteration

from graphopt import Graph, Node, Rewrite, Value, require

_MOST = 64  # iterations
_GROWTH = 8  # nodes that unrolling may add: each costs less than to enter the body once


def loop_never(rewrite: Rewrite, node: Node) -> None:
    """A Loop that never runs hands its initial values on, and collects nothing."""
    loop = iteration(node)
    require(loop.trips() == 0, "it may run")
    for state in loop.states:
        rewrite.replace(state.final, state.initial)
    for result, final in loop.collected:
        if final.use_count:
            rewrite.replace(final, _nothing(rewrite, result))


def loop_unrolled(rewrite: Rewrite, node: Node) -> None:
    """A Loop that runs a few times is its body, as often."""
    loop = iteration(node)
    trips = loop.trips()
    require(trips is not None and trips > 0, "the number of iterations is not fixed")
    assert trips is not None
    require(trips <= _MOST, "there are many iterations")
    inner = list(_within(loop.body))
    require(trips == 1 or not any(n.op in RANDOM or n.domain for n in inner), "an iteration draws numbers at random")
    _require_few(loop, trips)
    current = {state.inside: state.initial for state in loop.states}
    elements: list[list[Value]] = [[] for _ in loop.collected]
    shared = {v: rewrite.constant(v.tensor, v.name) for v in loop.body.initializers}
    shared[loop.body.inputs[1]] = rewrite.constant(_like(np.bool_(True), loop.body.inputs[1]), "condition")
    for i in range(trips):
        count = rewrite.constant(_like(np.int64(i), loop.body.inputs[0]), "iteration")
        results = rewrite.inline(loop.body, {**shared, **current, loop.body.inputs[0]: count})[1:]
        current = {s.inside: new for s, new in zip(loop.states, results, strict=False)}
        for part, new in zip(elements, results[len(loop.states) :], strict=True):
            part.append(new)
    for state in loop.states:
        rewrite.replace(state.final, current[state.inside])
    for (_, final), part in zip(loop.collected, elements, strict=True):
        if final.use_count:
            rewrite.replace(final, _stacked(rewrite, part, node.version))


LOOPS = (loop_never, loop_unrolled)


def _require_few(loop: Iteration, trips: int) -> None:
    """Decline where the copies would be many more nodes than there are."""
    before = 1 + sum(1 for _ in _within(loop.body))
    each = sum(n.op not in ("Identity", "Constant") for n in _within(loop.body)) - _only_for_condition(loop)
    collected = sum(final.use_count > 0 for _, final in loop.collected)
    after = trips * (each + collected) + collected * (trips > 1)
    require(after <= before + (_GROWTH if trips <= _GROWTH else 0), "the copies of the body would be too many nodes")


def _only_for_condition(loop: Iteration) -> int:
    """1 if the body computes its condition by an operator that nothing else needs, which then goes."""
    condition = loop.body.outputs[0]
    maker = condition.producer
    computes = maker is not None and maker.op not in ("Identity", "Constant") and maker.graph == loop.body
    return int(computes and condition.use_count == 1)


def _within(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for body in node.bodies:
            yield from _within(body)


def _like(number: np.generic, value: Value) -> np.ndarray:
    """The number as a body's input of one element expects it: as a scalar, or with an axis."""
    return np.asarray(number).reshape([1] * (value.rank or 0))


def _nothing(rewrite: Rewrite, element: Value) -> Value:
    """No elements at all, each of the type of `element`."""
    shape, dtype = element.shape, element.dtype
    require(shape is not None and all(isinstance(n, int) for n in shape), "the shape of an element is not fixed")
    require(dtype is not None and dtype.name != "STRING", "the type of an element is not known")
    assert shape is not None and dtype is not None
    return rewrite.constant(np.empty((0, *[n for n in shape if isinstance(n, int)]), dtype.numpy()), "nothing")


def _stacked(rewrite: Rewrite, parts: list[Value], version: int) -> Value:
    if version >= 13:
        axes = rewrite.constant(np.array([0], np.int64), "axes")
        rows = [rewrite.node("Unsqueeze", [part, axes])[0] for part in parts]
    else:
        rows = [rewrite.node("Unsqueeze", [part], {"axes": [0]})[0] for part in parts]
    return rows[0] if len(rows) == 1 else rewrite.node("Concat", rows, {"axis": 0})[0]
