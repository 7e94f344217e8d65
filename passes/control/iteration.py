"""Loop and Scan in one form: what they carry from one iteration to the next, and what they collect."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt import Graph, Node, Rewrite, Value, require

RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"]
)


@dataclass(frozen=True)
class State:
    """A value that is carried along: what it starts as, is inside the body, becomes there, and is in the end."""

    initial: Value
    inside: Value
    result: Value
    final: Value


@dataclass(frozen=True)
class Iteration:
    """A Loop or Scan. `fed`: what a Scan goes through, and an element of it; `collected`: an element, and all."""

    node: Node
    body: Graph
    states: tuple[State, ...]
    fed: tuple[tuple[Value, Value], ...]
    collected: tuple[tuple[Value, Value], ...]

    @property
    def is_loop(self) -> bool:
        return self.node.op == "Loop"

    @property
    def condition(self) -> Value | None:
        """What a Loop's body says of whether there is another iteration."""
        return self.body.outputs[0] if self.is_loop else None

    def trips(self) -> int | None:
        """How many iterations there are, as far as that is fixed."""
        return _loop_trips(self) if self.is_loop else _scan_length(self)

    def runs(self) -> bool:
        """Whether there is certainly at least one iteration."""
        return _loop_begins(self) if self.is_loop else (_scan_length(self) or 0) > 0


def iteration(node: Node) -> Iteration:
    """A Loop or Scan in this form. Declines the rewrite if it is not well formed."""
    body = node.attr("body")
    require(isinstance(body, Graph), "the body is an attribute of the function's caller")
    assert isinstance(body, Graph)
    require(node.op == "Loop" or node.version >= 9, "before opset 9 Scan has batches")
    lead = 2 if node.op == "Loop" else 0
    fed = 0 if node.op == "Loop" else int(node.attr("num_scan_inputs"))
    inputs, inner = list(node.inputs[lead:]), list(body.inputs[lead:])
    given, results = list(node.outputs), list(body.outputs[lead // 2 :])
    states = len(inner) - fed
    require(len(inputs) == len(inner) and len(results) == len(given) >= states >= 0, "the body does not fit the node")
    values = [v for v in inputs if v is not None]
    require(len(values) == len(inputs), "an initial value is missing")
    quads = zip(values[:states], inner[:states], results[:states], given[:states], strict=True)
    return Iteration(
        node,
        body,
        tuple(State(*quad) for quad in quads),
        tuple(zip(values[states:], inner[states:], strict=True)),
        tuple(zip(results[states:], given[states:], strict=True)),
    )


def remake(
    rewrite: Rewrite, old: Iteration, values: Mapping[Value, Value], kept: Collection[Value] | None = None
) -> None:
    """The Loop or Scan again, with the states and collections whose final values are `kept`; None for all.

    `values`: what its body reads instead of something.
    """
    keeps = set(old.node.outputs if kept is None else kept).__contains__
    states = [s for s in old.states if keeps(s.final)]
    collected = [c for c in old.collected if keeps(c[1])]
    lead = 2 if old.is_loop else 0
    body = rewrite.body(
        old.body,
        values,
        inputs=[*old.body.inputs[:lead], *(s.inside for s in states), *(inside for _, inside in old.fed)],
        outputs=[*old.body.outputs[: lead // 2], *(s.result for s in states), *(result for result, _ in collected)],
    )
    attrs: dict[str, Any] = {**old.node.attrs, "body": body}
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in attrs:
            attrs[name] = [n for n, c in zip(attrs[name], old.collected, strict=True) if keeps(c[1])] or None
    inputs = [*old.node.inputs[:lead], *(s.initial for s in states), *(whole for whole, _ in old.fed)]
    finals = [*(s.final for s in states), *(final for _, final in collected)]
    for final, new in zip(finals, rewrite.node(old.node.op, inputs, attrs, outputs=len(finals)), strict=True):
        rewrite.keep_type(final, new)
        rewrite.replace(final, new)


def passed_on(value: Value) -> Value:
    """What a value is, seen through Identities."""
    while (producer := value.producer) is not None and producer.op == "Identity" and producer.is_standard:
        source = producer.inputs[0]
        if source is None:
            break
        value = source
    return value


def known_bool(value: Value | None) -> bool | None:
    """A condition that is constant; one that is left out holds."""
    if value is None:
        return True
    array = passed_on(value).array()
    return bool(array.item()) if array is not None and array.size == 1 else None


def _given(loop: Iteration, index: int) -> Value | None:
    """An input of the node; None if it is left out, as those at the end may be altogether."""
    inputs = loop.node.inputs
    return inputs[index] if index < len(inputs) else None


def _limit(loop: Iteration) -> tuple[bool, int | None]:
    """Whether the limit on iterations is known, and what it is; None: there is none."""
    value = _given(loop, 0)
    if value is None:
        return True, None
    array = value.array()
    return (True, int(array.item())) if array is not None and array.size == 1 else (False, None)


def _loop_begins(loop: Iteration) -> bool:
    known, limit = _limit(loop)
    return known and (limit is None or limit > 0) and known_bool(_given(loop, 1)) is True


def _loop_trips(loop: Iteration) -> int | None:
    known, limit = _limit(loop)
    begins = known_bool(_given(loop, 1))
    if begins is False or (known and limit is not None and limit <= 0):
        return 0
    if not _loop_begins(loop):
        return None
    if limit == 1:
        return 1
    again = loop.condition
    assert again is not None
    if passed_on(again) == loop.body.inputs[1]:
        return limit  # the condition is handed on as it was, and it held
    stays = known_bool(again)
    return 1 if stays is False else limit if stays else None


def _scan_length(scan: Iteration) -> int | None:
    axes = scan.node.attr("scan_input_axes") or [0] * len(scan.fed)
    for (whole, _), axis in zip(scan.fed, axes, strict=True):
        shape = whole.shape
        size = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
        if isinstance(size, int):
            return size
    return None
