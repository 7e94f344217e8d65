"""What Loop and Scan carry from one iteration to the next without need."""

from __future__ import annotations

from graphopt_passes.control.iteration import Iteration, State, iteration, passed_on, remake

from graphopt import Graph, Node, Rewrite, Value, require


def loop_carried(rewrite: Rewrite, node: Node) -> None:
    """What Loop or Scan carries along unchanged is read from around it, and what nobody needs is not carried."""
    loop = iteration(node)
    same = [s for s in loop.states if passed_on(s.result) == s.inside]
    fixed = {s.inside for s in same}
    live = _needed(loop, fixed)
    kept = {s.final for s in loop.states if s.inside in live and s.inside not in fixed}
    kept |= {final for _, final in loop.collected if final.use_count}
    require(len(kept) < len(node.outputs), "all that it carries changes and is needed")
    if kept:
        remake(rewrite, loop, {s.inside: s.initial for s in same}, kept)
    for state in same:
        if state.final.use_count:
            rewrite.replace(state.final, state.initial)


CARRIED = (loop_carried,)


def _needed(loop: Iteration, fixed: set[Value]) -> set[Value]:
    """The body's inputs that something which is read in the end, or the end itself, depends on."""
    roots = [result for result, final in loop.collected if final.use_count]
    roots += [s.result for s in loop.states if s.final.use_count and s.inside not in fixed]
    if loop.condition is not None:
        roots.append(loop.condition)
    by_input: dict[Value, State] = {s.inside: s for s in loop.states}
    live = {s.inside for s in loop.states if s.final.use_count}
    seen: set[Value] = set()
    while roots:
        value = roots.pop()
        if value in seen:
            continue
        seen.add(value)
        state = by_input.get(value)
        if state is not None:
            live.add(value)
            roots.append(state.result)
        producer = value.producer
        if producer is not None and producer.graph == loop.body:
            roots.extend(v for v in producer.inputs if v is not None)
            for body in producer.bodies:
                roots.extend(_captured(body))
    return live


def _captured(graph: Graph) -> list[Value]:
    """All that is read in a body, and in those inside of it."""
    found = list(graph.outputs)
    for node in graph.nodes:
        found.extend(v for v in node.inputs if v is not None)
        for body in node.bodies:
            found.extend(_captured(body))
    return found
